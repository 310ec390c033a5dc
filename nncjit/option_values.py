"""The values that options and arguments may have: how each is checked, read from text, and written as text.

Python code gives an option its value; the command line, a rule and a grid give text. Both ways end in `Values.check`,
so that an option has one range and one error, whoever sets it.
"""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from reprlib import Repr
from typing import TYPE_CHECKING, Any

from nncjit.errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from nncjit.reduce import Block


class Values(ABC):
    """A set of values."""

    says: str
    """The set in words, after "must be": "a number in 0..1"."""
    brief: str = ""
    """The set in a few signs, "0..1", where it is not clear from an example."""
    spelling: type | None = None
    """`str` where Python code may also give the value as the command line writes it."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """The value as the option keeps it; ValueError where it is not in the set."""

    def parse(self, text: str) -> Any:
        """The value that a text means; ValueError where it means none."""
        return self.check(number(text))

    def plain(self, value: Any) -> Any:
        """The value as JSON and the command line write it."""
        return value


class Number(Values):
    """Real numbers from `low` to `high`; with `fraction`, not those that are written as whole numbers."""

    def __init__(self, low: float, high: float, *, fraction: bool = False) -> None:
        self.low, self.high = low, high
        self.kind = float if fraction else int | float
        self.brief = f"{low:g}..{high:g}"
        self.says = f"a {'fraction' if fraction else 'number'} in {self.brief}"

    def check(self, value: Any) -> float:
        found: float = _within(_scalar(value), self.kind, self.low, self.high)
        return found


class Whole(Values):
    """Whole numbers from `low` to `high`."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.brief = f"{low}..{high}"
        self.says = f"a whole number in {self.brief}"

    def check(self, value: Any) -> int:
        return int(_within(_scalar(value), int, self.low, self.high))


class Word(Values):
    """One of some words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.brief = _listed(words)
        self.says = f"one of {', '.join(words)}" if len(words) > 1 else words[0]

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(value)
        return value


class Flag(Values):
    """True or False; "true" or "false" as text."""

    says = "True or False"

    def check(self, value: Any) -> bool:
        value = _scalar(value)
        if not isinstance(value, bool):
            raise ValueError(value)  # noqa: TRY004 - one error for all that is not in the set
        return value

    def parse(self, text: str) -> bool:
        return self.check({"true": True, "false": False}.get(text.lower(), text))


class Label(Values):
    """Any text."""

    says = "text"

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(value)  # noqa: TRY004 - one error for all that is not in the set
        return value

    def parse(self, text: str) -> str:
        return text


class Pattern(Label):
    """A regular expression; empty where there is none."""

    says = "a regular expression"

    def check(self, value: Any) -> str:
        text = super().check(value)
        try:
            re.compile(text)
        except (re.error, OverflowError, RecursionError):
            raise ValueError(text) from None
        return text


class Counts(Values):
    """Whole numbers from 1 on, two or more of them (or exactly `count`), which text joins by a sign."""

    spelling = str

    def __init__(self, says: str, sign: str, *, count: int | None = None, rising: bool = False) -> None:
        self.says, self.sign, self.count, self.rising = says, sign, count, rising

    def check(self, value: Any) -> tuple[int, ...]:
        if isinstance(value, str):
            if not re.fullmatch(rf"[0-9]+({self.sign}[0-9]+)+", value):
                raise ValueError(value)
            value = [int(part) for part in value.split(self.sign)]
        value = _listed_values(value)
        counts = tuple(int(_within(_scalar(part), int, 1, 1 << 31)) for part in value)
        if len(counts) < 2 or self.count not in (None, len(counts)) or (self.rising and list(counts) != sorted(counts)):
            raise ValueError(value)
        return counts

    def plain(self, value: Any) -> str:
        return self.sign.join(map(str, value))


class Either(Values):
    """The values of several sets; the first that has a value takes it."""

    def __init__(self, *sets: Values) -> None:
        self.sets = sets
        self.brief = _listed([values.brief for values in sets])
        self.says = _listed([values.says for values in sets])

    def check(self, value: Any) -> Any:
        for values in self.sets:
            try:
                return values.check(value)
            except ValueError:
                continue
        raise ValueError(value)


class Blocks(Values):
    """Any number of `nncjit.reduce.Block`."""

    says = "blocks (nncjit.reduce.Block)"

    def check(self, value: Any) -> tuple[Block, ...]:
        blocks = _listed_values(value)
        if blocks:
            from nncjit.reduce import Block

            if not all(isinstance(block, Block) for block in blocks):
                raise ValueError(value)
        return blocks


class Sequenced(Values):
    """Any number of objects of one class."""

    def __init__(self, kind: type, says: str) -> None:
        self.kind, self.says = kind, says

    def check(self, value: Any) -> tuple[Any, ...]:
        found = (None,) if isinstance(value, str) else _listed_values(value)
        if not all(isinstance(item, self.kind) for item in found):
            raise ValueError(value)
        return found


class Named(Values):
    """A mapping whose keys are names; it may load on access."""

    def __init__(self, things: str) -> None:
        self.says = f"{things} by name"

    def check(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ValueError(value)
        return value


class Dimensions(Values):
    """A shape: any number of whole numbers."""

    says = "whole numbers"

    def check(self, value: Any) -> tuple[int, ...]:
        try:
            found = tuple(map(operator.index, value))
        except TypeError:
            raise ValueError(value) from None
        if found and not 0 <= min(found) <= max(found) < 1 << 62:
            raise ValueError(value)
        return found


class Texts(Values):
    """Texts by name."""

    says = "texts by name, valid Unicode"

    def check(self, value: Any) -> dict[str, str]:
        if not isinstance(value, Mapping):
            raise ValueError(value)  # noqa: TRY004 - one error for all that is not in the set
        for text in (text for item in value.items() for text in item):
            if not isinstance(text, str):
                raise ValueError(value)  # noqa: TRY004 - as above
            text.encode()  # UnicodeEncodeError is a ValueError: what no file can hold
        return dict(value)


class Bytes(Values):
    """Sizes: whole numbers of bytes, or texts such as "500 MB" and "1.5GiB"."""

    says = "a number of bytes, for example 1000000, 500MB or 1.5GiB"
    spelling = str

    def __init__(self, least: int = 0) -> None:
        self.least = least

    def check(self, value: Any) -> int:
        if isinstance(value, str):
            found = _SIZE.fullmatch(value.strip())
            if found is None:
                raise ValueError(value)
            value = round(min(float(found[1]) * _UNITS[found[2].lower()], 2.0**70))
        return int(_within(_scalar(value), int, self.least, (1 << 63) - 1))

    def parse(self, text: str) -> int:
        return self.check(text)


THREADS = Whole(1, 4096)


def optional(name: str, values: Values, value: Any) -> Any:
    """The value of an argument as `checked` gives it; None stays None."""
    return None if value is None else checked(name, values, value)


def check_flags(**given: Any) -> None:
    """Refuse arguments that are neither True nor False; OptionError names the first."""
    for name, value in given.items():
        checked(name, Flag(), value)


def checked(name: str, values: Values, value: Any) -> Any:
    """The value as the option `name` keeps it.

    Raises
    ------
    OptionError
        The value is not in the set.
    """
    try:
        return values.check(value)
    except ValueError:
        raise refusal(name, values, value) from None


def parsed(name: str, values: Values, text: str) -> Any:
    """The value of the option `name` that a text means.

    Raises
    ------
    OptionError
        It means none, or one that is not in the set.
    """
    try:
        return values.parse(text)
    except ValueError:
        raise refusal(name, values, number(text)) from None


def refusal(name: str, values: Values, value: Any) -> OptionError:
    """The error for a value that is not in the set."""
    return OptionError(f"{name} is {shown(value)}, must be {values.says}")


def shown(value: Any) -> str:
    """A value in an error: one line, cut short."""
    return " ".join(_REPR.repr(value).split())


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Says that there is no `what` of this name, which one may be meant, and which there are."""
    known = sorted(known)
    return f"no {what} {shown(name)}{did_you_mean(name, known)}; known are {', '.join(known)}"


def number(text: str) -> int | float | str:
    """The number that a text is, the text where it is none."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return text


_UNITS = {"": 1} | {
    f"{letter}{end}": base ** (power + 1)
    for power, letter in enumerate("kmgt")
    for end, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}
_UNITS["b"] = _UNITS["bytes"] = 1
_SIZE = re.compile(rf"([0-9]+(?:\.[0-9]*)?) *({'|'.join(_UNITS)})", re.IGNORECASE)
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 120


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _listed_values(value: Any) -> tuple[Any, ...]:
    """The items of anything that has some; ValueError where it has none."""
    try:
        return tuple(value)
    except TypeError:
        raise ValueError(value) from None


def _scalar(value: Any) -> Any:
    """A NumPy scalar as Python's own type, all else as it is."""
    item = getattr(value, "item", None)
    if item is None:
        return value
    try:
        return item()
    except (TypeError, ValueError, RuntimeError):  # an array of several values
        return value


def _within(value: Any, kind: Any, low: float, high: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        raise ValueError(value)
    return value
