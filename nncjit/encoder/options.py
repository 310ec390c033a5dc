"""What the encoder may choose, in one object that is checked when it is made. The decoder needs none of it.

How fine a model is quantised can be said in several ways, of which at most one is given: a target (`ratio`, `bits`,
`snr`), the standard's `qp`, or the `quality` of the default steps. Everything else has a default that suits any model;
`rules` change it for tensors whose name matches a pattern.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from inspect import cleandoc
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from nncjit.encoder.choices import (
    CHOICE_GROUPS,
    GROUPS,
    PRESETS,
    TABLE,
    Auto,
    Choices,
    Coding,
    Fineness,
    FinenessKinds,
    Layout,
    Preset,
    Quantising,
    Quantizer,
    Reader,
    Reducing,
    References,
    Scope,
    Selection,
    StreamLayout,
    Unreached,
)
from nncjit.encoder.execution import Data, Execution
from nncjit.encoder.option_table import among
from nncjit.encoder.rules import Rule, RulesLike, rules_of
from nncjit.errors import NncWarning, OptionError, did_you_mean
from nncjit.option_values import shown, unknown

if TYPE_CHECKING:
    from nncjit.reduce import Block

NOT_OPTIONS = {f.name for group in (Execution, Data) for f in fields(group)}
"""Arguments of `encode` and `compress` that are given beside the options."""
RULES = (
    "a mapping of patterns to options, or texts PATTERN=WHAT",
    "Other choices for tensors whose whole name matches a regular expression. The first rule that matches wins; one "
    "that matches no tensor is an error.",
)
"""The values of `rules` in words, and what they do."""

PRESET = (
    "tiny, balanced, safe or lossless",
    "Options for those who do not want to choose any; others come before it. tiny takes about one bit a weight fewer "
    "than the default, which is balanced; safe takes two more, and lossless keeps every bit.",
)
"""The same of `preset`."""

Documented = TypeVar("Documented", bound=Callable[..., Any])


class OptionKeywords(TypedDict, total=False):
    """The options as keywords, for editors and type checkers: names and types are those of the table."""

    ratio: float | None
    bits: float | None
    snr: float | None
    loss: float | None
    qp: int | None
    quality: float | None
    quantizer: Quantizer
    rate_weight: float
    frequency_weight: float
    unreached: Unreached
    exact: bool
    qp_density: int
    unary_length: int | Auto
    scan_order: int | Auto
    selection: Selection
    zeros: float
    pattern: tuple[int, int] | str | None
    unify: float
    block_shape: tuple[int, ...] | str | None
    rank: int | float | Auto | None
    transform_tables: bool
    scale_rows: bool
    first_dimension: int
    join: str
    group: str
    only: str
    blocks: bool
    fold_batchnorm: bool
    given_blocks: Iterable[Block]
    zeros_scope: Scope
    profile: int
    references: References
    compatible: Reader | None
    max_unit_bytes: int | None
    rules: RulesLike | None
    preset: Preset | None


def explains_options(documented: Documented) -> Documented:
    """Add what each option does to the docstring of a class or function that takes them as keywords."""
    documented.__doc__ = f"{cleandoc(documented.__doc__ or '')}\n\n{_explanation()}"
    return documented


def _explanation() -> str:
    """The options as a section of a docstring in NumPy's style."""
    entries = {name: (row.values.says, row.about) for name, row in TABLE.items()} | {"rules": RULES, "preset": PRESET}
    lines = ["Other Parameters", "----------------"]
    for name, (values, about) in entries.items():
        lines += [f"{name} : {values}", *wrap(about, 92, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(lines)


@explains_options
@dataclass(frozen=True, slots=True, init=False, repr=False)
class Options:
    """What the encoder may choose for a model: single options as keywords, checked and sorted into groups.

    Options are frozen, and equal ones give equal streams. How a call runs (`threads`, `progress`) and data about the
    model (`sensitivity`, `pruning`) are no options: `encode` and `compress` take them as arguments of their own.

    Raises
    ------
    OptionError
        A keyword is unknown, a value is out of range, or two contradict each other.
    """

    fineness: Fineness
    quantising: Quantising
    coding: Coding
    reducing: Reducing
    layout: Layout
    stream: StreamLayout
    rules: tuple[Rule, ...]

    def __init__(self, **flat: Unpack[OptionKeywords]) -> None:
        for name in flat:
            _check_known(name)
        given = _with_preset(flat)
        object.__setattr__(self, "fineness", Fineness.of(given, Fineness()))
        for name, group in GROUPS.items():
            object.__setattr__(self, name, group(**among(group.rows(), given)))
        object.__setattr__(self, "rules", rules_of(given.get("rules")))

    def __repr__(self) -> str:
        return f"Options({', '.join(f'{name}={value!r}' for name, value in self.keywords().items())})"

    @classmethod
    def of(cls, options: Options | None, keywords: Mapping[str, Any]) -> Options:
        """`options` changed by `keywords`, or made of them.

        Raises
        ------
        OptionError
            As for `Options`, or `options` are none.
        """
        if options is None:
            return cls(**keywords)
        if not isinstance(options, cls):
            raise OptionError(f"options is {shown(options)}, must be nncjit.Options; single ones are keywords: bits=4")
        return options.replace(**keywords) if keywords else options

    def replace(self, **flat: Unpack[OptionKeywords]) -> Options:
        """These options with some changed; a new kind of fineness takes the place of the old one."""
        kept = self.keywords()
        changes: dict[str, Any] = {**flat}
        return Options(**_over(kept, _with_preset(changes)))

    def keywords(self) -> dict[str, Any]:
        """The keywords that make equal options: what is not as by default, with values as JSON has them."""
        flat: dict[str, Any] = {}
        if self.fineness != Fineness():
            flat[self.fineness.kind] = self.fineness.value
        for name, group in GROUPS.items():
            values = {row: getattr(getattr(self, name), row.name) for row in group.rows().values()}
            flat |= {row.name: row.plain(value) for row, value in values.items() if value != row.default}
        if self.rules:
            flat["rules"] = [rule.plain() for rule in self.rules]
        return flat

    def choices(self, names: Iterable[str]) -> dict[str, Choices]:
        """What is chosen for each of these tensors.

        Raises
        ------
        OptionError
            A rule matches none of the names.
        """
        groups = {name: getattr(self, name) for name in CHOICE_GROUPS}
        by_default = Choices(fineness=self.fineness, **groups)
        by_rule = [rule.apply(by_default) for rule in self.rules]
        chosen: dict[str, Choices] = {}
        used: set[int] = set()
        kept = by_default.replace(quantizer="raw", join="", group="", first_dimension=0)
        for name in names:
            matching = [i for i, rule in enumerate(self.rules) if rule.matches(name)]
            chosen[name] = by_rule[matching[0]] if matching else by_default
            if not self.codes(name):
                chosen[name] = kept
            used.update(matching)
        for i, rule in enumerate(self.rules):
            if i not in used:
                raise OptionError(f"rule {shown(rule.pattern)} matches no tensor")
        return chosen

    def codes(self, name: str) -> bool:
        """Whether a tensor is one of those that are coded (`only`)."""
        return not self.stream.only or re.fullmatch(self.stream.only, name) is not None

    def warn_where_none_is_coded(self, names: Collection[str]) -> None:
        """Warn if `only` matches none of the tensors of a model."""
        if names and not any(map(self.codes, names)):
            meant = did_you_mean(self.stream.only, names)
            said = f"only {shown(self.stream.only)} matches no tensor{meant}: all are kept as they are"
            warnings.warn(said, NncWarning, stacklevel=4)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of which those `above` win; one that says how fine takes the place of all that do."""
    kinds = FinenessKinds.rows()
    if any(above.get(kind) is not None for kind in kinds):
        below = {name: value for name, value in below.items() if name not in kinds}
    return {**below, **above}


def _with_preset(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords with those of the preset that they name."""
    given = {name: value for name, value in flat.items() if name != "preset"}
    preset = flat.get("preset")
    if preset is None:
        return given
    if not isinstance(preset, str) or preset not in PRESETS:
        raise OptionError(unknown("preset", preset, PRESETS))
    return _over(PRESETS[preset], given)


def _check_known(name: str) -> None:
    if name in NOT_OPTIONS:
        raise OptionError(f"{name} is no option of a stream: give it to encode or compress, beside the options")
    if name not in OptionKeywords.__annotations__:
        raise OptionError(unknown("option", name, OptionKeywords.__annotations__))
