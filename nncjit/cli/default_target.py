"""Where results go when the user does not say."""

from __future__ import annotations

from pathlib import Path

from nncjit.errors import OptionError


def derived_target(source: Path, suffix: str, *, dry_run: bool = False) -> Path:
    """`source` with another suffix; never a file that exists, since nobody asked to replace it.

    Raises
    ------
    OptionError
        Where the file exists: naming it with ``-o`` replaces it.
    """
    from nncjit.formats import known_suffixes
    from nncjit.stream.stream_index import INDEX

    name = source.name
    old = max((s for s in (".nnc", INDEX, *known_suffixes()) if name.lower().endswith(s)), key=len, default="")
    target = source.with_name(name[: len(name) - len(old)] + suffix)
    if target.exists() and not dry_run:
        raise OptionError(f"{target} exists: name it with -o to replace it, or choose another name")
    return target
