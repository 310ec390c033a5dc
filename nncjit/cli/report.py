"""Write a page about an .nnc file: sizes, error and distributions of every tensor, to search and sort in a browser.

The page is one file and needs no network. With --against, it also shows what each tensor has lost.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from nncjit.cli import text
from nncjit.cli.arguments import add_decoder, decoder_options, path_or_url
from nncjit.cli.default_target import derived_target
from nncjit.cli.pipes import behind_pipe, is_standard, through_file
from nncjit.errors import OptionError
from nncjit.progress import progress_bar


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", type=path_or_url, metavar="FILE", help="the .nnc file, or a model file")
    parser.add_argument(
        "--against", type=path_or_url, metavar="MODEL", help="the original model, to show what was lost"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE", help="the page (default: FILE with .html)")
    add_decoder(parser)
    group = parser.add_argument_group("output")
    group.add_argument("-q", "--quiet", action="store_true", help="print nothing but warnings and errors")


def run(args: Namespace) -> None:
    """Write one page."""
    from nncjit.report.tensor_page import write_page

    if args.output is None and is_standard(args.source, "input"):
        raise OptionError("a page about standard input needs a name: -o PAGE.html")
    if is_standard(args.source, "input") and is_standard(args.against, "input"):
        raise OptionError("standard input holds one model: name the other one")
    target = args.output or derived_target(args.source, ".html")
    with (
        progress_bar("report", quiet=args.quiet) as progress,
        behind_pipe(args.source) as source,
        behind_pipe(args.against) as original,
        through_file(target, ".html") as page,
    ):
        told = {"title": str(args.source), "progress": progress, **decoder_options(args)}
        write_page(source, page, against=original, **told)
    if is_standard(target, "output"):
        return
    if not args.quiet:
        print(f"{text.printable(str(args.source))} -> {text.printable(str(target))}: open it in a browser")
