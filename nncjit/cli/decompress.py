"""Restore the model from an .nnc file, in the format that the target's suffix names."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from nncjit.cli import text
from nncjit.cli.arguments import add_decoder, add_output, decoder_options, path_or_url, show
from nncjit.cli.default_target import named_target
from nncjit.cli.executors import add_executor, executor_of
from nncjit.cli.pipes import behind_pipe, through_file
from nncjit.progress import progress_bar

if TYPE_CHECKING:
    from nncjit.stream.reports import DecompressReport


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", type=path_or_url, metavar="FILE", help="the .nnc file or folder; - is standard input")
    parser.add_argument(
        "-o",
        "--output",
        type=path_or_url,
        metavar="MODEL",
        help="the model file (default: FILE with .safetensors, or .onnx with --as)",
    )
    parser.add_argument("--full-size", action="store_true", help="give pruned tensors their size before pruning")
    parser.add_argument("--shard-size", metavar="SIZE", help="several files (*.safetensors.index.json) of this: 2GB")
    parser.add_argument(
        "--as", dest="form", choices=("qdq",), help="qdq, for ONNX: weights stay integers, with DequantizeLinear nodes"
    )
    add_decoder(parser)
    add_executor(parser)
    add_output(parser)


def run(args: Namespace) -> None:
    """Decompress one file."""
    import nncjit
    from nncjit.stream.stream_index import is_index

    plain = ".onnx" if args.form else ".safetensors"
    several = is_index(args.source) or args.shard_size is not None
    suffix = ".safetensors.index.json" if several else plain
    target = named_target(args.output, args.source, suffix)
    with (
        executor_of(args) as executor,
        progress_bar("decompress", quiet=args.quiet) as progress,
        behind_pipe(args.source) as source,
        through_file(target, plain) as file,
    ):
        report = nncjit.decompress(
            source,
            file,
            shard_size=args.shard_size,
            full_size=args.full_size,
            progress=progress,
            executor=executor,
            resume=not args.no_resume,
            form=args.form,
            **decoder_options(args),
        )
    show(args, replace(report, source=str(args.source), target=str(target)), describe)


def describe(report: DecompressReport) -> str:
    """What was written and how long it took."""
    rows = [
        ("compressed", text.size(report.compressed_bytes), ""),
        ("decoded", text.size(report.original_bytes), f"{text.count(report.weights)} weights"),
        ("time", text.seconds(report.seconds), text.threads(report.threads)),
    ]
    head = f"{text.printable(report.source)} -> {text.printable(report.target)}"
    return "\n".join([head, text.table(rows, left=(0, 2), head=False)])
