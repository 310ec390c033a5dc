"""Write what leads from one model to another: last week's and this week's become an update, a small .nnc file.

BASE is what the receiver has: a model file, an .nnc file, a folder with one of them, or the folder of a session. --keep
starts a session, which remembers what the next update builds on. The options for tensors hold for their differences.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from nncjit.cli import text
from nncjit.cli.arguments import add_encoder, add_output, encoder_options, local_path, path_or_url, show
from nncjit.cli.pipes import is_standard
from nncjit.errors import OptionError
from nncjit.progress import progress_bar

FLAGS = ("lossless", "predict", "one_step", "compact")
TOOLS = {"auto": "auto", "on": True, "off": False}


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("base", type=path_or_url, metavar="BASE", help="the model that the receiver has")
    parser.add_argument("new", type=path_or_url, metavar="NEW", help="the model that it shall have")
    parser.add_argument("-o", "--output", type=path_or_url, metavar="FILE", required=True, help="the update")
    parser.add_argument("--tensors", action="store_true", help="also list what became of each tensor")
    group = parser.add_argument_group("updates")
    group.add_argument(
        "--keep", type=local_path, metavar="FOLDER", help="start a session there for the updates to come"
    )
    group.add_argument("--lossless", action="store_true", help="every bit of NEW comes back")
    group.add_argument("--size", metavar="BYTES", help="how large the update may be: 20000 or 20KB")
    group.add_argument("--renamed", action="append", default=[], metavar="NEW=OLD", help="a tensor has a new name")
    group.add_argument("--zero-rows", type=float, metavar="SHARE", help="leave out the weakest rows of differences")
    group.add_argument("--one-step", action="store_true", help="the same step for all matrices")
    group.add_argument("--parents", metavar="HOW", help="what names the base of a unit: ids, sha256 or sha512")
    group.add_argument("--base-model-id", metavar="TEXT", help="a name of the model that goes into the update")
    group.add_argument("--temporal", choices=TOOLS, help="contexts from the update before (default auto)")
    group.add_argument("--history", choices=TOOLS, help="contexts from where updates were (default auto)")
    group.add_argument("--predict", action="store_true", help="code how the update differs from the one before")
    group.add_argument("--compact", action="store_true", help="leave out what the receiver can do without")
    add_encoder(parser)
    add_output(parser)


def run(args: Namespace) -> None:
    """Write one update."""
    from nncjit.updates.model_files import update_files

    if is_standard(args.output, "output"):
        raise OptionError(f"{args.output}: an update goes into a file, which is there before a session goes on")
    with progress_bar("update", quiet=args.quiet) as progress:
        report = update_files(
            args.base,
            args.new,
            args.output,
            keep=args.keep,
            threads=args.threads,
            progress=progress,
            **encoder_options(args),
            **update_options(args),
        )
    show(args, report, lambda report: describe(report, tensors=args.tensors))


def update_options(args: Namespace) -> dict[str, Any]:
    """The options of the update that the user gave."""
    given: dict[str, Any] = {name: True for name in FLAGS if getattr(args, name)}
    for name in ("size", "zero_rows", "parents", "base_model_id"):
        if getattr(args, name) is not None:
            given[name] = getattr(args, name)
    for name in ("temporal", "history"):
        if getattr(args, name) is not None:
            given[name] = TOOLS[getattr(args, name)]
    for pair in args.renamed:
        name, equals, before = pair.partition("=")
        if not equals or not name or not before:
            raise OptionError(f"--renamed {pair}: must be NEW=OLD")
        if name in given.get("renamed", {}):
            raise OptionError(f"--renamed {pair}: {name} was renamed already")
        given.setdefault("renamed", {})[name] = before
    return given


def describe(report: Any, *, tensors: bool = False) -> str:
    """The report as text."""
    tools = [row.tool for row in report.tensors]
    kinds = ", ".join(f"{tools.count(tool)} {tool}" for tool in dict.fromkeys(tools))
    rows = [
        ("model", text.size(report.original_bytes), f"{text.count(report.weights)} weights"),
        ("update", text.size(report.compressed_bytes), f"{text.three_digits(report.ratio)} % of the model"),
        ("tensors", f"{len(tools):,}", kinds),
        ("exactness", text.decibels(report.snr), "signal-to-noise ratio of the weights after it"),
        ("time", text.seconds(report.seconds), text.threads(report.threads)),
    ]
    parts = [f"{text.printable(report.source)} -> {text.printable(report.target)}"]
    if tensors:
        parts += [text.tensor_table(report.tensors), ""]
    parts.append(text.table(rows, left=(0, 2), head=False))
    return "\n".join(parts)
