"""Arguments that several verbs share, so that they are spelt and explained the same everywhere."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, _ActionsContainer
from collections.abc import Callable
from typing import Any

_ENCODER = (
    "qp",
    "bits",
    "ratio",
    "snr",
    "quality",
    "quantizer",
    "rate_weight",
    "scan_order",
    "unary_length",
    "selection",
    "exact",
    "qp_density",
    "profile",
    "threads",
    "zeros",
    "zeros_scope",
    "pattern",
    "unify",
    "block_shape",
    "rank",
    "scale_rows",
    "first_dimension",
    "join",
    "group",
    "blocks",
    "fold_batchnorm",
    "references",
    "max_unit_bytes",
)
"""Fields of `nncjit.Options` that have an argument of the same name."""


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
    group.add_argument("--max-bytes", type=int, metavar="N", help="refuse a file whose tensors need more memory than N")


def decoder_options(args: Namespace) -> dict[str, Any]:
    """The keywords for `nncjit.decompress` and `nncjit.verify` that the user gave."""
    given = {"threads": args.threads, "max_bytes": args.max_bytes}
    return {name: value for name, value in given.items() if value is not None}


def add_encoder(parser: ArgumentParser) -> None:
    """Everything that the encoder may choose, named as in `nncjit.Options`, which checks the values."""
    fine = parser.add_argument_group("how small or how fine: one of these")
    fine.add_argument("--ratio", type=float, metavar="PERCENT", help="target size in percent of the original")
    fine.add_argument("--bits", type=float, metavar="B", help="target size in bits a weight")
    fine.add_argument("--snr", type=float, metavar="DB", help="target signal-to-noise ratio of the weights, in dB")
    fine.add_argument("--qp", type=int, metavar="QP", help="quantization parameter of the standard, for example -32")
    fine.add_argument(
        "--quality", type=float, metavar="F", help="finer default steps: 2 costs about one bit a weight more"
    )
    how = parser.add_argument_group("how it is coded")
    how.add_argument(
        "--rule",
        action="append",
        dest="rules",
        metavar="PATTERN=WHAT",
        help="other options for tensors whose name matches a regular expression, for example '.*bias=raw' or "
        "'encoder.*=quality:2,quantizer:uniform'; repeatable, the first match wins",
    )
    how.add_argument("--quantizer", metavar="NAME", help="trellis (default), uniform, codebook, auto or raw")
    how.add_argument("--rate-weight", type=float, metavar="L", help="weight of size against error, 0 (default) to 100")
    how.add_argument(
        "--scan-order", type=number_or_auto, metavar="S", help="0..4, or auto (default): blocks for large tensors"
    )
    how.add_argument(
        "--unary-length",
        type=number_or_auto,
        metavar="U",
        help="greater-than flags of the binarisation, 1..256, or auto",
    )
    how.add_argument("--selection", metavar="HOW", help="starts of the models: fast (default), exact, reference, none")
    how.add_argument("--exact", action="store_true", default=None, help="exact and slower searches everywhere")
    how.add_argument("--qp-density", type=int, metavar="D", help="steps an octave are 2^D, 0..7 (default 2)")
    how.add_argument("--profile", type=int, metavar="P", help="edition of the standard: 0 first, 1 second (default)")
    add_threads(how)
    add_tools(parser)


def add_tools(parser: ArgumentParser) -> None:
    """The standard's toolbox; most of it is best used for single tensors, in a ``--rule``."""
    tools = parser.add_argument_group("tools of the standard (also in a --rule, for example '.*fc.*=rank:auto')")
    tools.add_argument("--zeros", type=float, metavar="SHARE", help="set the least important weights to zero")
    tools.add_argument("--zeros-scope", metavar="WHAT", help="share of each tensor (default), or of the whole model")
    tools.add_argument("--pattern", metavar="N:M", help="keep n of every m weights along a row")
    tools.add_argument(
        "--unify", type=float, metavar="LOSS", help="one magnitude in blocks where that loses at most this"
    )
    tools.add_argument("--block-shape", metavar="RxC", help="blocks of --zeros and --unify, for example 1x4")
    tools.add_argument("--rank", type=rank, metavar="R", help="split into factors: rank, share of energy, or auto")
    tools.add_argument("--scale-rows", action="store_true", default=None, help="one factor for each output row")
    tools.add_argument("--first-dimension", type=int, metavar="D", help="dimension that is coded as rows (default 0)")
    tools.add_argument("--join", metavar="LABEL", help="code tensors of one label and shape as one (in a --rule)")
    tools.add_argument("--group", metavar="LABEL", help="aggregate with a parameter set of its own (in a --rule)")
    tools.add_argument("--blocks", action="store_true", default=None, help="weight, bias and batch norm in one unit")
    tools.add_argument(
        "--fold-batchnorm", action="store_true", default=None, help="fold batch norms into the layer before"
    )
    tools.add_argument("--references", metavar="HOW", help="call tensors by name (default) or by index into a list")
    tools.add_argument("--max-unit-bytes", type=int, metavar="N", help="split larger payloads into partial data units")


def encoder_options(args: Namespace) -> dict[str, Any]:
    """The keywords for `nncjit.compress` that the user gave."""
    given = {name: getattr(args, name) for name in _ENCODER}
    return {name: value for name, value in (given | {"rules": args.rules}).items() if value is not None}


def show(args: Namespace, report: Any, describe: Callable[[Any], str]) -> None:
    """Print a report the way the user asked for: JSON, words, or nothing."""
    if args.json:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    elif not args.quiet:
        print(describe(report))


def note(args: Namespace, text: str) -> None:
    """A remark for people, on stderr so that it never mixes with results."""
    if not (args.quiet or args.json):
        print(f"nncjit: {text}", file=sys.stderr)


def rank(text: str) -> int | float | str:
    """A rank as `Options` takes it."""
    if text == "auto":
        return text
    return float(text) if "." in text else int(text)


def number_or_auto(text: str) -> int | str:
    """A scan order or a unary length as `Options` takes it."""
    return text if text == "auto" else int(text)
