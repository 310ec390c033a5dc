"""Compare two models tensor by tensor: streams, safetensors, npz or PyTorch files, each of any format.

For each tensor that is not equal bit for bit: the signal-to-noise ratio of the second against the first, the largest
absolute difference, and changes of type and shape.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from nncjit.cli import text
from nncjit.cli.arguments import add_output, add_threads, path_or_url, show
from nncjit.cli.pipes import behind_pipe, is_standard
from nncjit.errors import OptionError
from nncjit.progress import progress_bar

if TYPE_CHECKING:
    from nncjit.report.comparison import ModelDifference


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("first", type=path_or_url, metavar="A", help="a model or an .nnc file")
    parser.add_argument("second", type=path_or_url, metavar="B", help="another one")
    parser.add_argument("--all", action="store_true", help="also list the tensors that are equal")
    add_threads(parser)
    add_output(parser)


def run(args: Namespace) -> None:
    """Compare two files."""
    import nncjit

    if is_standard(args.first, "input") and is_standard(args.second, "input"):
        raise OptionError("standard input holds one model: name the other one")
    with (
        progress_bar("diff", quiet=args.quiet) as progress,
        behind_pipe(args.first) as first,
        behind_pipe(args.second) as second,
    ):
        found = nncjit.diff(first, second, threads=args.threads, progress=progress)
    found = replace(found, first=str(args.first), second=str(args.second))
    show(args, found, lambda found: describe(found, every=args.all))


def describe(found: ModelDifference, *, every: bool = False) -> str:
    """The differences as a table, and the sums."""
    from nncjit.report.comparison import HEAD

    rows = [tensor.cells for tensor in found.tensors if every or not tensor.equal]
    parts = [text.table([HEAD, *rows], left=(0, 2, 3)), ""] if rows else []
    return "\n".join([*parts, text.printable(str(found))])
