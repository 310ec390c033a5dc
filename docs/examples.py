"""The examples of the pages: what they are, and running them as a reader would.

``python docs/examples.py`` runs the Python and shell blocks of all pages in empty folders that hold the digits network
as ``model.safetensors``, and puts what they print into the ``text`` blocks that follow them. The tests run them too and
compare; times and numbers of threads may differ.

A block under a comment ``<!-- not run: why -->`` is not run; one under ``<!-- needs: torch -->`` where that is
installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
LANGUAGES = ("python", "sh")

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (not run|needs): (.+?) -->\n*$")
_VARIES = re.compile(
    r"\d+ min \d+ s\b|[\d.]+ (?:ms|s)\b|[\d.]+ million weights/s|\d+ threads?\b|^-[ -]*$|/\S*(?:cache|numba)\S*",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Example:
    """A block of code, and the place of the output that the page shows for it."""

    line: int
    language: str
    code: str
    needs: str
    """A module that must be there, empty: none."""
    output: tuple[int, int] | None
    """Start and end of the text of the ``text`` block that follows at once."""


def examples(text: str) -> list[Example]:
    """The blocks of a page that are to be run, in their order."""
    found: list[Example] = []
    stop = -1
    for match in FENCE.finditer(text):
        follows = stop >= 0 and not text[stop : match.start()].strip()
        stop = -1
        mark = _MARK.search(text, 0, match.start())
        if match[2] == "text" and follows:
            last = found.pop()
            found.append(Example(last.line, last.language, last.code, last.needs, match.span(3)))
        elif match[2] in LANGUAGES and not (mark and mark[1] == "not run"):
            code = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
            line = text.count("\n", 0, match.start(3)) + 1
            found.append(Example(line, match[2], code, mark[2] if mark else "", None))
            stop = match.end()
    return found


def is_there(module: str) -> bool:
    """Whether a module can be imported; the empty name can."""
    return not module or importlib.util.find_spec(module) is not None


class Reader:
    """Runs the examples of one page one after the other: one Python session, one folder."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, example: Example) -> str:
        """What an example prints; a command's errors too, its other remarks on stderr not."""
        return (self._python if example.language == "python" else self._shell)(example)

    def _python(self, example: Example) -> str:
        out = io.StringIO()
        code = compile("\n" * (example.line - 1) + example.code, self.page, "exec")
        with contextlib.redirect_stdout(out):
            exec(code, self.names)
        return out.getvalue()

    def _shell(self, example: Example) -> str:
        from nncjit.cli.main import main

        printed = ""
        for line in example.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            if words[0] != "nncjit":
                raise ValueError(f"{self.page}: cannot run {words[0]!r}")
            out, remarks = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(remarks):
                code = main(words[1:])
            errors = [remark for remark in remarks.getvalue().splitlines() if remark.startswith("nncjit: error")]
            if bool(code) != bool(errors):
                raise RuntimeError(f"{self.page}: {line}: exit code {code}, {remarks.getvalue()}")
            printed += out.getvalue() + "".join(f"{error}\n" for error in errors)
        return printed


def steady(output: str) -> str:
    """An output without what differs from run to run; spaces in a row count as one."""
    return re.sub(r"[ \t]+", " ", _VARIES.sub("~", output)).strip()


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder that holds ``model.safetensors`` and is the current one."""
    from nncjit.demo import digits

    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="nncjit-docs-") as name:
        shutil.copy(digits.MODEL, Path(name) / "model.safetensors")
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def renew(page: Path) -> None:
    """Run a page's examples and write their outputs into it where something other than times has changed."""
    text = page.read_text(encoding="utf-8")
    pieces, at = [], 0
    with workplace():
        reader = Reader(str(page))
        for example in examples(text):
            if is_there(example.needs):
                output = reader.run(example)
                if example.output and steady(output) != steady(text[slice(*example.output)]):
                    pieces += [text[at : example.output[0]], output]
                    at = example.output[1]
    if pieces:
        page.write_text("".join([*pieces, text[at:]]), encoding="utf-8")


def main() -> None:
    """Renew the pages that are named, or all."""
    for page in [Path(name).resolve() for name in sys.argv[1:]] or sorted(DOCS.rglob("*.md")):
        print(page.relative_to(DOCS))
        renew(page)


if __name__ == "__main__":
    main()
