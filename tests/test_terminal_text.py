"""Texts in terminals: columns of wide characters and of accents, texts cut to a width, encodings that lack signs."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncjit.terminal_text import columns, ellipsis, ljust, printable, rjust, showable

ASCII = io.TextIOWrapper(io.BytesIO(), "ascii")


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("weight", 6),
        ("é", 1),
        ("e\u0301", 1),
        ("层.权重", 7),
        ("각", 2),
        ("\u1112\u1161\u11ab", 2),
        ("🙂", 2),
        ("\N{FULLWIDTH LATIN SMALL LETTER F}", 2),
        ("ﾊ", 1),
    ],
)
def test_columns_are_those_of_a_terminal(text, width):
    assert columns(text) == width
    assert (ljust(text, 9), rjust(text, 9)) == (text + " " * (9 - width), " " * (9 - width) + text)


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="…")), st.integers(1, 40))
def test_a_cut_text_fits_and_keeps_its_ends(text, width):
    cut = ellipsis(text, width)
    assert columns(cut) <= width
    if columns(text) <= width:
        assert cut == text
    else:
        front, _, end = cut.partition("…")
        assert text.startswith(front)
        assert text.endswith(end)


def test_accents_stay_with_their_letters():
    accented = "e\u0301" * 30
    front, _, end = ellipsis(accented, 9).partition("…")
    assert (front, end) == ("e\u0301" * 4, "e\u0301" * 4)


def test_what_an_encoding_lacks_is_escaped_before_it_is_counted():
    assert showable("层\x1b", ASCII) == r"\u5c42\x1b"
    assert showable("层", io.StringIO()) == "层"
    assert showable("é", io.TextIOWrapper(io.BytesIO(), "cp1252")) == "é"
    assert ellipsis("a" * 20, 9, ASCII) == "aaa...aaa"


@given(st.text())
def test_no_text_can_steer_the_terminal(name):
    shown = printable(name)
    assert shown.isprintable()
    if name.isprintable():
        assert shown == name
