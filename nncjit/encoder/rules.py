"""Rules: other choices for tensors whose names match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from nncjit.encoder.choices import TABLE, Choices, Fineness, Quantizer
from nncjit.encoder.option_table import Option
from nncjit.errors import OptionError
from nncjit.option_values import shown, unknown

CHANGEABLE = {name: row for name, row in TABLE.items() if row.per_tensor}
"""Options that a rule may change."""

RulesLike = Mapping[str, str | Mapping[str, Any]] | Iterable["str | Rule | tuple[str, str | Mapping[str, Any]]"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose whole name matches `pattern` (a regular expression) take `changes` instead of the model's
    choices.

    Raises
    ------
    OptionError
        The pattern is no regular expression, or a change is not one that `Options` would take.
    """

    pattern: str
    changes: tuple[tuple[str, Any], ...]
    """Names of options and their values."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except (re.error, OverflowError, RecursionError, TypeError) as error:
            raise OptionError(f"rule {shown(self.pattern)}: not a regular expression: {error}") from None
        try:
            changes = {name: _row(name).check(value) for name, value in self.changes}
            Fineness.of(changes, Fineness())
        except OptionError as error:
            raise OptionError(f"rule {shown(self.pattern)}: {error}") from None
        except (TypeError, ValueError):
            said = f"rule {shown(self.pattern)}: changes are {shown(self.changes)}, must be pairs of option and value"
            raise OptionError(said) from None
        object.__setattr__(self, "changes", tuple(changes.items()))

    def matches(self, name: str) -> bool:
        return re.fullmatch(self.pattern, name) is not None

    def apply(self, choices: Choices) -> Choices:
        """`choices` with the changes of this rule."""
        return choices.replace(**dict(self.changes))

    def plain(self) -> tuple[str, dict[str, Any]]:
        """The pattern, and the changes as JSON has them."""
        return self.pattern, {name: TABLE[name].plain(value) for name, value in self.changes}

    @classmethod
    def parse(cls, text: str) -> Rule:
        r"""A rule as the command line writes it: ``PATTERN=WHAT``.

        WHAT is a list of ``option:value`` separated by commas; the name of a quantizer stands for ``quantizer:name``.
        Examples: ``.*bias=raw``, ``encoder\..*=qp:-32``, ``.*embed.*=quality:2,quantizer:uniform``.
        """
        pattern, equals, what = text.rpartition("=")
        if not equals or not pattern or not what:
            raise OptionError(f"rule {shown(text)}: must be PATTERN=WHAT, for example '.*bias=raw'")
        return cls(pattern, _changes(pattern, what))


def rules_of(given: RulesLike | None) -> tuple[Rule, ...]:
    """Rules from a mapping, a single rule or text, or a sequence of rules, texts and (pattern, what) pairs.

    Raises
    ------
    OptionError
        It is none of these, or a rule is wrong.
    """
    if given is None:
        return ()
    if isinstance(given, Mapping):
        return tuple(_rule(pattern, what) for pattern, what in given.items())
    if isinstance(given, str | Rule):
        given = (given,)
    try:
        items = iter(given)
    except TypeError:
        said = f"rules is {shown(given)}, must be options by pattern, or texts PATTERN=WHAT"
        raise OptionError(said) from None
    return tuple(_item(item) for item in items)


def _item(item: Any) -> Rule:
    match item:
        case Rule():
            return item
        case str():
            return Rule.parse(item)
        case (pattern, what):
            return _rule(pattern, what)
    raise OptionError(f"rule {shown(item)}: must be a Rule, a text PATTERN=WHAT, or a pair of these two")


def _rule(pattern: Any, what: Any) -> Rule:
    if isinstance(what, str):
        return Rule(pattern, _changes(pattern, what))
    if not isinstance(what, Mapping):
        raise OptionError(f"rule {shown(pattern)}: {shown(what)} must be options by name, or text such as 'qp:-32'")
    return Rule(pattern, tuple(what.items()))


def _row(name: Any) -> Option:
    if isinstance(name, str) and name in CHANGEABLE:
        return CHANGEABLE[name]
    if isinstance(name, str) and name in TABLE:
        raise OptionError(f"{name} holds for the whole model, no rule can change it")
    raise OptionError(unknown("option", name, CHANGEABLE))


def _changes(pattern: object, what: str) -> tuple[tuple[str, Any], ...]:
    try:
        return tuple(_change(part) for part in what.split(","))
    except OptionError as error:
        raise OptionError(f"rule {shown(pattern)}: {error}") from None


def _change(text: str) -> tuple[str, Any]:
    name, colon, value = (part.strip() for part in text.partition(":"))
    if colon:
        return name, _row(name).parse(value)
    quantizers: tuple[str, ...] = get_args(Quantizer)
    if name not in quantizers:
        raise OptionError(f"{shown(name)} is neither option:value nor one of {', '.join(quantizers)}")
    return "quantizer", name
