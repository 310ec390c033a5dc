"""Show how far a job of several files is: what is done, what is missing, and what was planned. Of the folder of a
session of updates: its place in the chain, and what it keeps.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nncjit.cli import text
from nncjit.cli.arguments import add_output, show

if TYPE_CHECKING:
    from nncjit.convert.job_status import JobStatus


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "target", type=Path, metavar="TARGET", help="the target of the job, as it was given, or a session's folder"
    )
    add_output(parser)


def run(args: Namespace) -> None:
    """Read the journal, or the file of facts."""
    from nncjit.updates.chain_folder import ChainFolder

    if ChainFolder.is_at(args.target):
        from nncjit.cli import session_text
        from nncjit.updates import inspect_session

        show(args, inspect_session(args.target), partial(session_text.describe, tensors=False))
        return
    from nncjit.convert.job_status import status_of

    show(args, status_of(args.target), describe)


def describe(status: JobStatus) -> str:
    """The state as text."""
    rows = [
        ("files", f"{len(status.done)} of {len(status.files)}", "complete" if status.complete else ""),
        ("written", text.size(status.bytes_done), ""),
        ("missing", f"{len(status.missing)}", ", ".join(map(text.printable, status.missing[:3]))),
        ("at work", "yes" if status.at_work else "no", ""),
    ]
    return "\n".join([text.printable(status.target), text.table(rows, left=(0, 2), head=False)])
