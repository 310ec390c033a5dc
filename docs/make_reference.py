"""Fill the reference of the options from the encoder's own table: ``python docs/make_reference.py``.

The tables stand in ``docs/reference/options.md`` between ``<!-- options: begin -->`` and ``<!-- options: end -->``.
"""

from __future__ import annotations

import re
from pathlib import Path

from nncjit.encoder.choices import GROUPS, FinenessKinds
from nncjit.encoder.option_table import Option, OptionGroup

PAGE = Path(__file__).resolve().parent / "reference" / "options.md"
BEGIN, END = "<!-- options: begin -->", "<!-- options: end -->"


def filled(text: str) -> str:
    """The page with its tables made anew."""
    tables = "\n\n".join(_section(group) for group in (FinenessKinds, *GROUPS.values()))
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{tables}\n{END}", text, flags=re.DOTALL)


def _section(group: type[OptionGroup]) -> str:
    scope = "Also in a rule." if group.PER_TENSOR else "For the whole model only."
    title = f"## {group.TITLE[:1].upper()}{group.TITLE[1:]}"
    head = (title, "", scope, "", "| option | values | default | |", "|---|---|---|---|")
    return "\n".join([*head, *map(_line, group.rows().values())])


def _line(row: Option) -> str:
    default = f"`{row.default_text}`" if row.default_text else ""
    return f"| `{row.name}` | {row.values.says} | {default} | {row.about} |"


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
