"""What mkdocs does to pages before it renders them: a marker becomes the help of all verbs, as the program itself
prints it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from nncjit.cli.main import VERBS

MARKER = re.compile(r"^<!-- help -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the marker by what ``nncjit --help`` and ``nncjit VERB --help`` print."""
    return MARKER.sub(
        lambda _: "\n\n".join([_help(), *(f"## nncjit {verb}\n\n{_help(verb)}" for verb in VERBS)]), markdown
    )


def _help(*verb: str) -> str:
    environment = os.environ | {"COLUMNS": "88", "NO_COLOR": "1"}
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "nncjit", *verb, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=root)
    return f"```text\n{done.stdout.rstrip()}\n```"
