"""Decode everything in an .nnc file and check all that can be checked, without writing anything."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from nncjit.cli import text
from nncjit.cli.arguments import add_decoder, add_output, decoder_options, path_or_url, show
from nncjit.cli.executors import add_executor, executor_of
from nncjit.cli.pipes import behind_pipe
from nncjit.progress import progress_bar

if TYPE_CHECKING:
    from nncjit.stream.reports import DecompressReport


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", type=path_or_url, metavar="FILE", help="the .nnc file")
    add_decoder(parser)
    add_executor(parser, resumes=False)
    add_output(parser)


def run(args: Namespace) -> None:
    """Verify one file; damage is an error like any other bad input."""
    import nncjit

    with (
        executor_of(args) as executor,
        progress_bar("verify", quiet=args.quiet) as progress,
        behind_pipe(args.source) as source,
    ):
        report = nncjit.verify(source, executor=executor, progress=progress, **decoder_options(args))
    if source is not args.source:
        report = replace(report, source=str(args.source))
    show(args, report, describe)


def describe(report: DecompressReport) -> str:
    """The report as text: the file is intact, and what was checked."""
    rows = [
        ("tensors", f"{len(report.tensors):,}", f"{text.count(report.weights)} weights"),
        ("checksum", "right" if report.checksum else "none", "" if report.checksum else "its writer left none"),
        ("file", text.size(report.compressed_bytes), f"holds {text.size(report.original_bytes)} of tensors"),
        ("time", text.seconds(report.seconds), text.threads(report.threads)),
    ]
    return "\n".join([f"OK: {text.printable(report.source)}", text.table(rows, left=(0, 2), head=False)])
