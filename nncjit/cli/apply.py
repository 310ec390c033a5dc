"""Make the new model of a base and updates to it, in their order.

BASE is the model that the first update was made for: a model file, an .nnc file, a folder with one of them, or the
folder of a session, which goes on to the new model. Updates that do not fit are refused, and nothing has changed.

MODEL may have the format of BASE, whose graph or other files stay, or another one. Without updates, it is the model
that a session has.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from nncjit.cli.arguments import add_decoder, add_output, decoder_options, local_path, path_or_url, show
from nncjit.cli.decompress import describe
from nncjit.progress import progress_bar


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("base", type=path_or_url, metavar="BASE", help="the model that the first update was made for")
    parser.add_argument("updates", type=path_or_url, nargs="*", metavar="UPDATE", help="the updates in their order")
    parser.set_defaults(rest="updates")
    parser.add_argument(
        "-o", "--output", type=path_or_url, metavar="MODEL", help="the model file to write, or a new folder"
    )
    parser.add_argument(
        "--like", type=path_or_url, metavar="MODEL", help="a file with the graph, or folder with other files"
    )
    parser.add_argument(
        "--keep", type=local_path, metavar="FOLDER", help="start a session there for the updates to come"
    )
    parser.add_argument("--base-model-id", metavar="TEXT", help="what the updates must say of their base")
    add_decoder(parser)
    add_output(parser)


def run(args: Namespace) -> None:
    """Apply updates."""
    from nncjit.updates.model_files import apply_files

    with progress_bar("apply", quiet=args.quiet) as progress:
        report = apply_files(
            args.base,
            args.updates,
            args.output,
            keep=args.keep,
            like=args.like,
            base_model_id=args.base_model_id,
            progress=progress,
            **decoder_options(args),
        )
    show(args, report, describe)
