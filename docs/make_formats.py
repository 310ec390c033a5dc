"""Put the table of formats into reference/formats.md: ``python docs/make_formats.py``. It is made from
tests/formats/claims.py, where each mark names the test that shows it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "reference" / "formats.md"
CLAIMS = DOCS.parent / "tests" / "formats" / "claims.py"
BEGIN, END = "<!-- formats: begin -->\n", "<!-- formats: end -->"


def claims() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims", CLAIMS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table() -> str:
    """The table, in Markdown."""
    known = claims()
    rows = [("format", *known.COLUMNS), ("---",) * (len(known.COLUMNS) + 1)]
    rows += [(name, *("yes" if test else "-" for test in tests)) for name, tests in known.CLAIMS.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def filled(text: str) -> str:
    """The page with the table as it should be."""
    before, after = text.split(BEGIN, maxsplit=1)[0], text.split(END)[1]
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
