"""Passages of English to calibrate MiniLM on, and others to choose settings on; none is a text that it is measured on.

They are paragraphs of docstrings and comments: of the standard library's folders, of NumPy and of SciPy, as installed.
``python -m bench.zoo.passages FILE.txt`` writes the passages to calibrate on, one a line, for ``nncjit calibrate
--texts``; ``--record`` writes the few to choose on anew, which the tree keeps.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import json
import random
import re
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

VALIDATION = Path(__file__).with_name("data") / "passages-validation.json"
"""Texts to choose settings on: 128 passages of the standard library (PSF License Version 2)."""
COUNT, CHOOSE_ON = 2048, 128
SEED = 15938
LONGEST = 400


def sources() -> Iterator[Path]:
    """Files of the libraries, but those whose docstrings MiniLM is measured on."""
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    folders = [path for path in sorted(library.iterdir()) if path.is_dir() and path.name not in ("test", "idlelib")]
    for folder in [path for path in folders if path.name != packages.name] + [packages / "numpy", packages / "scipy"]:
        yield from (path for path in sorted(folder.rglob("*.py")) if "tests" not in path.parts)


def paragraphs(path: Path) -> Iterator[str]:
    """Paragraphs of a file's docstrings, and its blocks of comments."""
    try:
        text = path.read_text("utf-8")
        nodes = list(ast.walk(ast.parse(text)))
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module):
            yield from re.split(r"\n\s*\n", ast.get_docstring(node) or "")
    for _, block in itertools.groupby(enumerate(tokens), lambda pair: pair[1].start[0] - pair[0]):
        yield " ".join(token.string.strip("# \t") for _, token in block)


def collect() -> tuple[list[str], list[str]]:
    """Passages to calibrate on, and passages of the standard library to choose on."""
    tested = {text for pair in json.loads(VALIDATION.with_name("docstrings.json").read_text("utf-8")) for text in pair}
    known, own, others = set(tested), [], []
    for path in sources():
        into = own if "site-packages" not in path.parts and "dist-packages" not in path.parts else others
        for paragraph in paragraphs(path):
            passage = " ".join(paragraph.split())[:LONGEST]
            letters = sum(c.isalpha() or c == " " for c in passage)
            if len(passage) >= 30 and letters > 0.8 * len(passage) and passage not in known and passage.isascii():
                known.add(passage)
                into.append(passage)
    rng = random.Random(SEED)
    rng.shuffle(own)
    kept = json.loads(VALIDATION.read_text("utf-8")) if VALIDATION.exists() else own[:CHOOSE_ON]
    rest = [p for p in own + others if p not in set(kept)]
    return rng.sample(rest, min(COUNT, len(rest))), kept


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.zoo.passages", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("output", type=Path, nargs="?", metavar="FILE.txt")
    parser.add_argument("--record", action="store_true", help=f"write {VALIDATION.name} anew")
    args = parser.parse_args()
    if args.record:
        VALIDATION.unlink(missing_ok=True)
    passages, kept = collect()
    if args.record:
        VALIDATION.write_text(json.dumps(kept, indent=0) + "\n", "utf-8")
    if args.output is not None:
        args.output.write_text("\n".join(passages) + "\n", "utf-8")
        print(f"{len(passages)} passages, {sum(map(len, passages))} characters")


if __name__ == "__main__":
    main()
