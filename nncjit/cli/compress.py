"""Make a model file small: safetensors, npz or a PyTorch checkpoint becomes an .nnc file, a folder a folder.

By default, each tensor's error is proportional to its own spread, which suits any model. Set a target size with --ratio
or --bits, or a signal-to-noise ratio with --snr. --dry-run predicts the size without writing anything.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nncjit.cli import text
from nncjit.cli.arguments import add_encoder, add_output, encoder_options, note, path_or_url, show
from nncjit.cli.default_target import expanded, in_folder, named_target
from nncjit.cli.executors import add_executor, executor_of
from nncjit.cli.pipes import behind_pipe, through_file
from nncjit.cli.pruning import add_pruning, check_pruning, pruning_of
from nncjit.errors import OptionError
from nncjit.progress import progress_bar

if TYPE_CHECKING:
    from nncjit.stream.reports import CompressReport

NOT_FOR_FOLDERS = (
    *("dry_run", "metadata", "calibration", "sensitivity", "prune", "prune_share", "prune_scope", "prune_by"),
    *("workers", "dask", "no_resume", "shard_bytes", "plan"),
)
"""Arguments that ``--layout hf`` does not take."""


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "sources", type=path_or_url, nargs="+", metavar="MODEL", help="the model file or folder; - is standard input"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=path_or_url,
        metavar="FILE",
        help="the .nnc file (default: MODEL with .nnc), or a folder; - is stdout",
    )
    parser.add_argument(
        "--layout", choices=("hf",), help="hf: make a folder that transformers loads, of a folder of such a model"
    )
    parser.add_argument("--dry-run", action="store_true", help="estimate the size, write nothing")
    parser.add_argument("--tensors", action="store_true", help="also list what became of each tensor")
    parser.add_argument(
        "--metadata", action="append", default=[], metavar="NAME=TEXT", help="text that is stored too; repeatable"
    )
    add_encoder(parser)
    calibrate = parser.add_argument_group("calibration")
    calibrate.add_argument(
        "--calibration",
        metavar="STATS",
        help="statistics of the model at work (.safetensors); or weights, to guess them from the weights alone",
    )
    calibrate.add_argument(
        "--sensitivity",
        type=Path,
        metavar="FILE",
        help="a model file with the importance of each weight beside its magnitude, for --zeros and --pattern",
    )
    add_pruning(parser)
    add_executor(parser)
    parser.add_argument("--shard-bytes", metavar="SIZE", help="bytes of the original in one of several files: 2GB")
    parser.add_argument("--plan", type=Path, metavar="FILE.json", help="what is decided before: written or followed")
    add_output(parser)


def run(args: Namespace) -> None:
    """Compress one model, or several into a folder."""
    sources = expanded(args.sources)
    targets = in_folder(args.output, sources, ".nnc") if len(sources) > 1 else [args.output]
    for args.source, args.output in zip(sources, targets, strict=True):
        _compress(args)


def _compress(args: Namespace) -> None:
    import nncjit

    if args.layout is not None:
        _to_folder(args)
        return
    target = named_target(args.output, args.source, ".nnc", dry_run=args.dry_run)
    options = nncjit.Options(**encoder_options(args))
    check_pruning(args)
    with (
        executor_of(args) as executor,
        progress_bar("compress", quiet=args.quiet) as progress,
        behind_pipe(args.source, streams=False) as source,
        through_file(target, ".nnc") as file,
    ):
        report = nncjit.compress(
            source,
            file,
            options,
            threads=args.threads,
            progress=progress,
            pruning=pruning_of(args, source),
            calibration=args.calibration,
            sensitivity=args.sensitivity,
            dry_run=args.dry_run,
            executor=executor,
            shard_bytes=args.shard_bytes,
            resume=not args.no_resume,
            plan=args.plan,
            metadata=_metadata(args.metadata),
        )
    report = replace(report, source=str(args.source), target=report.target if file is target else str(target))
    show(args, report, lambda report: describe(report, tensors=args.tensors))
    if args.dry_run:
        note(args, "dry run: sizes are estimates, nothing was written")


def _metadata(words: list[str]) -> dict[str, str] | None:
    """The texts of ``--metadata NAME=TEXT``.

    Raises
    ------
    OptionError
        A word has no =.
    """
    for word in words:
        if not word.partition("=")[1]:
            raise OptionError(f"--metadata {word}: must be NAME=TEXT")
    given = dict(word.split("=", 1) for word in words)
    if len(given) < len(words):
        raise OptionError(f"--metadata: {len(words)} texts have {len(given)} names, each can be given once")
    return given or None


def _to_folder(args: Namespace) -> None:
    """Compress a folder of a Hugging Face model to one that transformers loads."""
    from nncjit.convert.hf_layout import compress_folder
    from nncjit.formats import is_known

    for name in NOT_FOR_FOLDERS:
        if getattr(args, name) not in (None, False, []):
            raise OptionError(f"--{name.replace('_', '-')} cannot be used with --layout hf")
    if args.output is None:
        raise OptionError("--layout hf makes a folder: give its name with -o")
    if is_known(args.output):
        raise OptionError(f"--layout hf makes a folder, and {args.output} is the name of a file")
    with progress_bar("compress", quiet=args.quiet) as progress:
        keywords = encoder_options(args)
        report = compress_folder(args.source, args.output, threads=args.threads, progress=progress, **keywords)
    show(args, report, lambda report: describe(report, tensors=args.tensors))


def describe(report: CompressReport, *, tensors: bool = False) -> str:
    """The report as text."""
    about = "estimated" if report.estimated else "compressed"
    rows = [
        ("original", text.size(report.original_bytes), f"{text.count(report.weights)} weights"),
        (about, text.size(report.compressed_bytes), f"{text.three_digits(report.ratio)} % of the original"),
        ("per weight", f"{text.bits(report.bits_per_weight)} bits", ""),
        ("exactness", text.decibels(report.snr), "signal-to-noise ratio of the weights"),
        *(
            [("output", f"{100 * report.loss:.3g} %", "of its power lost, as expected")]
            if report.loss is not None
            else []
        ),
        ("time", text.seconds(report.seconds), text.threads(report.threads)),
    ]
    parts = [f"{text.printable(report.source)} -> {text.printable(report.target)}"]
    if tensors:
        parts += [text.tensor_table(report.tensors), ""]
    parts.append(text.table(rows, left=(0, 2), head=False))
    return "\n".join(parts)
