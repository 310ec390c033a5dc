"""The reference page of the options agrees with the table of options."""

from __future__ import annotations

from docs.pages import script

MAKE = script("make_reference")


def test_the_page_of_the_options_is_current() -> None:
    text = MAKE.PAGE.read_text(encoding="utf-8")
    assert "| `rate_weight` |" in text
    assert MAKE.filled(text) == text, "run docs/make_reference.py"
