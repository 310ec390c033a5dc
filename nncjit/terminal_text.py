"""Texts in a terminal: how many columns they take, cut to a width, and with escapes for all that could do harm."""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["columns", "ellipsis", "ljust", "printable", "rjust", "showable"]

_NO_WIDTH = ("Mn", "Me", "Cf")
"""Categories of characters that stand on the one before, or are not seen."""


def printable(text: str) -> str:
    """`text` on one line, with all that could move the cursor or colour the terminal shown as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def showable(text: str, stream: Any) -> str:
    """`printable`, with escapes also for what a stream's encoding lacks, so that its columns can be counted."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def columns(text: str) -> int:
    """What a text takes: two columns for a wide character (Chinese, an emoji), none for an accent of its own."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def ljust(text: str, width: int) -> str:
    """`text` with spaces behind it, so that it takes `width` columns."""
    return text + " " * (width - columns(text))


def rjust(text: str, width: int) -> str:
    """`text` with spaces before it."""
    return " " * (width - columns(text)) + text


def ellipsis(text: str, width: int, stream: Any = None) -> str:
    """`text`, its middle left out where it takes more than `width` columns: both ends of a tensor's name tell most.

    Parameters
    ----------
    text : str
    width : int
    stream : text file, optional
        Where it is shown: three dots stand in the place of a sign that its encoding lacks.
    """
    if columns(text) <= width:
        return text
    mark = "…" if stream is None or showable("…", stream) == "…" else "..."
    room = width - len(mark)
    front = _front(text, room // 2)
    return f"{front}{mark}{_end(text, room - columns(front))}"


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in _NO_WIDTH or "\u1160" <= character <= "\u11ff":  # vowels of Hangul join
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _front(text: str, room: int) -> str:
    """As many characters from the front as have room, with their accents."""
    for k, character in enumerate(text):
        room -= _columns_of(character)
        if room < 0:
            return text[:k]
    return text


def _end(text: str, room: int) -> str:
    """As many from the end; it begins with no accent whose letter is gone."""
    begin = len(text)
    for k in range(len(text) - 1, -1, -1):
        width = _columns_of(text[k])
        room -= width
        if room < 0:
            break
        if width:
            begin = k
    return text[begin:]
