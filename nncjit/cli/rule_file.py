"""Rules for single tensors in a TOML file, in the order in which they are tried.

    ".*bias" = "raw"
    "encoder.*" = { quality = 2, quantizer = "uniform" }

They may also stand under a heading ``[rules]``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from nncjit.errors import OptionError
from nncjit.files import check_readable, os_errors

__all__ = ["rules_in"]


def rules_in(path: Path) -> list[tuple[str, Any]]:
    """The rules of a file: pairs of a pattern and options.

    Raises
    ------
    OptionError
        It is no TOML, or holds something else.
    ModelError
        It cannot be read.
    """
    check_readable(path)
    try:
        with os_errors(path):
            table = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # TOMLDecodeError, and bytes that are no text
        raise OptionError(f"{path}: is no TOML file: {error}") from None
    rules = table.get("rules", table)
    if not isinstance(rules, dict) or not all(isinstance(what, str | dict) for what in rules.values()):
        raise OptionError(f"{path}: must hold patterns with options, for example '.*bias' = 'raw'")
    return list(rules.items())
