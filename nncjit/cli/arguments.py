"""Arguments that several verbs share, so that they are spelt and explained the same everywhere."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, _ActionsContainer
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nncjit.cli.pipes import is_standard
from nncjit.encoder.choices import GROUPS, PRESETS, TABLE, FinenessKinds
from nncjit.encoder.option_table import OptionGroup
from nncjit.remote import is_url

PRESET = f"{', '.join(PRESETS)} (default balanced)"


def path_or_url(text: str) -> Any:
    """A path, or a URL, which is no path."""
    return text if is_url(text) else Path(text)


def local_path(text: str) -> Path:
    """A path of this machine, for what cannot be at a URL."""
    if is_url(text):
        raise ArgumentTypeError(f"{text}: must be a path of this machine, not a URL")
    return Path(text)


def add_output(parser: ArgumentParser) -> None:
    """``--json`` and ``--quiet``."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    group.add_argument("-q", "--quiet", action="store_true", help="print nothing but warnings and errors")


def add_threads(parser: _ActionsContainer) -> None:
    """``--threads``."""
    parser.add_argument("--threads", type=int, metavar="N", help="threads at work (default: all cores)")


def add_decoder(parser: ArgumentParser) -> None:
    """``--threads`` and ``--max-bytes``."""
    group = parser.add_argument_group("decoding")
    add_threads(group)
    group.add_argument(
        "--max-bytes", metavar="SIZE", help="refuse a file whose tensors need more memory, for example 1GB"
    )


def decoder_options(args: Namespace) -> dict[str, Any]:
    """The keywords for `nncjit.decompress` and `nncjit.verify` that the user gave."""
    given = {"threads": args.threads, "max_bytes": args.max_bytes}
    return {name: value for name, value in given.items() if value is not None}


def add_encoder(parser: ArgumentParser) -> None:
    """Everything that `nncjit.compress` takes as text, and ``--threads``."""
    parser.add_argument("--preset", metavar="NAME", help="options for those who do not want to choose any: " + PRESET)
    _add_group(parser, FinenessKinds)
    add_choices(parser)
    add_threads(parser.add_argument_group("execution"))


def add_choices(parser: ArgumentParser) -> None:
    """All options but those that say how fine. Their values are checked by `encoder_options`."""
    rules = parser.add_argument_group("single tensors")
    rules.add_argument(
        "--rule",
        action="append",
        dest="rules",
        metavar="PATTERN=WHAT",
        help="other options for tensors whose name matches a regular expression, for example '.*bias=raw' or "
        "'encoder.*=quality:2,quantizer:uniform'; repeatable, the first match wins",
    )
    rules.add_argument(
        "--rules", dest="rules_file", type=Path, metavar="FILE.toml", help="rules in a file: '.*bias' = 'raw'"
    )
    for group in GROUPS.values():
        _add_group(parser, group)


def _add_group(parser: ArgumentParser, group: type[OptionGroup]) -> None:
    arguments = parser.add_argument_group(group.TITLE)
    for row in group.rows().values():
        flag, text = f"--{row.name.replace('_', '-')}", row.in_brief.replace("%", "%%")
        if row.is_flag:
            arguments.add_argument(flag, action="store_const", const="true", help=text)
        elif row.has_text:
            arguments.add_argument(flag, metavar=row.metavar, help=text)


def encoder_options(args: Namespace) -> dict[str, Any]:
    """The options that the user gave, as keywords of `nncjit.compress`.

    Raises
    ------
    OptionError
        A value is not one of its option's.
    """
    texts = {name: getattr(args, name, None) for name in TABLE}
    given = {name: TABLE[name].parse(text) for name, text in texts.items() if text is not None}
    rules = list(args.rules or ())
    if getattr(args, "rules_file", None) is not None:
        from nncjit.cli.rule_file import rules_in

        rules += rules_in(args.rules_file)
    more = {"rules": rules, "preset": getattr(args, "preset", None)}
    return given | {name: value for name, value in more.items() if value}


def show(args: Namespace, report: Any, describe: Callable[[Any], str]) -> None:
    """Print a report the way the user asked for: JSON, words, or nothing; on stderr where stdout has the data."""
    file = sys.stderr if is_standard(getattr(args, "output", None), "output") else sys.stdout
    if args.json:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False), file=file)
    elif not args.quiet:
        print(describe(report), file=file)


def note(args: Namespace, text: str) -> None:
    """A remark for people, on stderr so that it never mixes with results."""
    if not (args.quiet or args.json):
        print(f"nncjit: {text}", file=sys.stderr)
