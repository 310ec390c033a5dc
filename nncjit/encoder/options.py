"""What the encoder may choose, in one object that is checked when it is made. The decoder needs none of it.

How fine a model is quantised can be said in five ways, of which at most one is given: nothing (steps from each tensor's
own spread, scaled by `quality`), an absolute `qp`, or one of the targets `bits`, `ratio` and `snr`. Everything else has
a default that suits any model; `rules` change it for tensors whose name matches a pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from nncjit.errors import OptionError

if TYPE_CHECKING:
    import numpy as np

    from nncjit.reduce import Block, Pruning

QUANTIZERS = ("trellis", "uniform", "codebook", "auto", "raw")
Selection = Literal["fast", "exact", "reference", "none"]
SELECTIONS: tuple[str, ...] = get_args(Selection)
TARGETS = ("qp", "bits", "ratio", "snr")

DEFAULT_QUALITY = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What can be chosen for each tensor. `Options` holds the model's defaults, a `Rule` replaces some of them."""

    qp: int | None = None
    """Quantization parameter of the standard at `Options.qp_density`: step = 2^(qp / 4), roughly, at density 2. For the
    whole model it holds for matrices only; vectors keep their own fine steps, unless a rule names them.
    """
    bits: float | None = None
    """Target in coded bits a weight."""
    snr: float | None = None
    """Target signal-to-noise ratio of the weights, dB."""
    quality: float = DEFAULT_QUALITY
    """Factor on the precision of the default steps: 2 halves every step (about one bit a weight and 6 dB more)."""
    quantizer: str = "trellis"
    """"trellis", "uniform", "codebook", "auto" (the cheapest of these on a sample), or "raw" (stored as it is)."""
    rate_weight: float = 0.0
    """Lambda of rate-distortion decisions: 0 is least error, 1 the reference's usual compromise."""
    scan_order: int | str = "auto"
    """0 row by row, 1..4 blocks of 4 * 2^s; "auto": 64-row blocks for tensors worth decoding in parallel."""
    unary_length: int | str = 11
    """Greater-than flags before the Exp-Golomb rest, 1..256 (cabac_unary_length_minus1 + 1); "auto": by measured
    cost."""
    selection: Selection = "fast"
    """How the starts of the probability models are chosen: "fast", "exact", "reference" or "none"."""
    exact: bool = False
    """Exact (slower) searches everywhere: the reference's trellis in float64, no sampling."""
    zeros: float = 0.0
    """Share of the weights (with `block_shape`: of blocks) to set to zero, the least important first."""
    pattern: str = ""
    """"n:m": keep the n most important of every m weights along a row."""
    unify: float = 0.0
    """Give blocks of `block_shape` one magnitude where that loses at most this share of their energy."""
    block_shape: str = ""
    """Blocks of `zeros` and `unify`, for example "1x4"; empty: single weights (and 1x4 for `unify`)."""
    rank: int | float | str | None = None
    """Split into two factors: their rank, the share of the energy to keep (below 1), or "auto": where it saves."""
    scale_rows: bool = False
    """One factor for each output row (local scaling), so that one step suits all rows."""
    first_dimension: int = 0
    """The dimension that is coded as rows, for example 3 for kernels with output channels last."""
    join: str = ""
    """Tensors with the same label here, of one dtype and equal but for the first dimension, are coded as one."""
    group: str = ""
    """Tensors with the same label stand in an aggregate unit with a parameter set of its own."""

    def __post_init__(self) -> None:
        given = [name for name in TARGETS if getattr(self, name, None) is not None]
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)} contradict each other: give one of {', '.join(TARGETS)}")
        _check_number("qp", self.qp, -4096, 4095, whole=True)
        _check_number("bits", self.bits, 0.01, 32.0)
        _check_number("snr", self.snr, 0.0, 120.0)
        _check_number("quality", self.quality, 1e-3, 1e3)
        _check_number("rate_weight", self.rate_weight, 0.0, 100.0)
        if self.unary_length != "auto":
            _check_number("unary_length", self.unary_length, 1, 256, whole=True)
        if self.scan_order != "auto":
            _check_number("scan_order", self.scan_order, 0, 4, whole=True)
        _check_word("quantizer", self.quantizer, QUANTIZERS)
        _check_word("selection", self.selection, SELECTIONS)
        self._check_tools()

    def _check_tools(self) -> None:
        _check_number("zeros", self.zeros, 0.0, 1.0)
        _check_number("unify", self.unify, 0.0, 1.0)
        _check_number("first_dimension", self.first_dimension, 0, 31, whole=True)
        if self.pattern and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", self.pattern):
            raise OptionError(f"pattern is {self.pattern!r}, must be n:m, for example 2:4")
        if self.block_shape and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", self.block_shape):
            raise OptionError(f"block_shape is {self.block_shape!r}, must be sides joined by x, for example 1x4")
        if isinstance(self.rank, str):
            _check_word("rank", self.rank, ("auto",))
        elif isinstance(self.rank, float):
            _check_number("rank", self.rank, 0.0, 1.0)
        else:
            _check_number("rank", self.rank, 1, 1 << 20, whole=True)

    @property
    def block_sides(self) -> tuple[int, ...] | None:
        """`block_shape` as numbers, None where it is empty."""
        return tuple(int(side) for side in self.block_shape.split("x")) if self.block_shape else None


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose whole name matches `pattern` (a regular expression) take `changes` instead of the model's
    choices.
    """

    pattern: str
    changes: tuple[tuple[str, Any], ...]

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise OptionError(f"rule {self.pattern!r}: not a regular expression: {error}") from None
        known = {f.name for f in fields(Choices)}
        for name, _ in self.changes:
            if name not in known:
                raise OptionError(f"rule {self.pattern!r}: no option {name!r}; known are {', '.join(sorted(known))}")

    def matches(self, name: str) -> bool:
        return re.fullmatch(self.pattern, name) is not None

    def apply(self, choices: Choices) -> Choices:
        """`choices` with the changes of this rule; a new target replaces the old one."""
        changes = dict(self.changes)
        if any(target in changes for target in TARGETS):
            changes = {"qp": None, "bits": None, "snr": None} | changes
        try:
            return replace(choices, **changes)
        except OptionError as error:
            raise OptionError(f"rule {self.pattern!r}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Rule:
        r"""A rule as the command line writes it: ``PATTERN=WHAT``.

        WHAT is a list of ``option:value`` separated by commas; the name of a quantizer stands for ``quantizer:name``.
        Examples: ``.*bias=raw``, ``encoder\..*=qp:-32``, ``.*embed.*=quality:2,quantizer:uniform``.
        """
        pattern, equals, what = text.rpartition("=")
        if not equals or not pattern or not what:
            raise OptionError(f"rule {text!r}: must be PATTERN=WHAT, for example '.*bias=raw'")
        return cls(pattern, tuple(_parse_change(text, part) for part in what.split(",")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Choices):
    """What the encoder may choose, for a whole model.

    Raises
    ------
    OptionError
        Where a value is out of range or contradicts another.
    """

    ratio: float | None = None
    """Target size in percent of the original."""
    qp_density: int = 2
    """Density in which `qp` counts: 2^density steps an octave, 0..7."""
    profile: int = 1
    """0: first edition of the standard, 1: second edition."""
    rules: tuple[Rule, ...] = ()
    """Pattern -> choices; the first that matches wins. Given as a mapping, or as strings ``PATTERN=WHAT``."""
    blocks: bool = False
    """Weights, biases and batch norms that belong together go into one unit."""
    fold_batchnorm: bool = False
    """Fold batch norms into scaling and bias of the layer before; they come back as identities with that bias."""
    given_blocks: tuple[Block, ...] = ()
    """Blocks that names do not tell (`nncjit.reduce.Block`)."""
    zeros_scope: str = "tensor"
    """Whether `zeros` is a share of each tensor or, with one ranking, of the whole "model"."""
    sensitivity: Mapping[str, np.ndarray] | None = field(default=None, compare=False, repr=False)
    """Importance is magnitude times this, by tensor (for example squared gradients)."""
    pruning: Pruning | None = field(default=None, compare=False, repr=False)
    """Channels to remove (`nncjit.reduce.plan_pruning`)."""
    references: str = "name"
    """Whether units call their tensors by "name" or by "index" into a list."""
    max_unit_bytes: int | None = None
    """Split data units above this size into partial data units."""
    threads: int | None = field(default=None, compare=False)
    """Threads at work; None: all cores that the process may use. Never changes the result."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", _rules(self.rules))
        Choices.__post_init__(self)
        _check_number("ratio", self.ratio, 0.01, 100.0)
        _check_number("qp_density", self.qp_density, 0, 7, whole=True)
        _check_number("profile", self.profile, 0, 1, whole=True)
        _check_number("max_unit_bytes", self.max_unit_bytes, 256, 1 << 31, whole=True)
        _check_word("zeros_scope", self.zeros_scope, ("tensor", "model"))
        _check_word("references", self.references, ("name", "index"))
        object.__setattr__(self, "given_blocks", tuple(self.given_blocks))
        if self.threads is not None:
            _check_number("threads", self.threads, 1, 4096, whole=True)

    @classmethod
    def of(cls, options: Options | None, keywords: Mapping[str, Any]) -> Options:
        """`options` changed by `keywords`, or made of them; an unknown keyword is an OptionError that names the known
        ones.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(keywords) - known)
        if unknown:
            raise OptionError(f"no option {unknown[0]!r}; known are {', '.join(sorted(known))}")
        return cls(**keywords) if options is None else replace(options, **keywords)

    @property
    def model_choices(self) -> Choices:
        """The choices for tensors that no rule names. The model's targets are its own: no tensor has to meet them
        alone.
        """
        own = {f.name: getattr(self, f.name) for f in fields(Choices)}
        return Choices(**(own | {"bits": None, "snr": None}))

    def choices(self, names: Iterable[str]) -> dict[str, Choices]:
        """The choices for each of these tensors.

        Raises
        ------
        OptionError
            Where a rule matches none of the names.
        """
        chosen: dict[str, Choices] = {}
        used: set[int] = set()
        base = self.model_choices
        for name in names:
            index = next((i for i, rule in enumerate(self.rules) if rule.matches(name)), None)
            chosen[name] = base if index is None else self.rules[index].apply(base)
            used.update(i for i, rule in enumerate(self.rules) if rule.matches(name))
        for i, rule in enumerate(self.rules):
            if i not in used:
                raise OptionError(f"rule {rule.pattern!r} matches no tensor")
        return chosen


def _rules(given: Any) -> tuple[Rule, ...]:
    """Rules from a mapping, or a sequence of rules, strings and (pattern, what) pairs."""
    items = given.items() if isinstance(given, Mapping) else [given] if isinstance(given, str | Rule) else given
    rules = []
    for item in items:
        if isinstance(item, Rule):
            rules.append(item)
        elif isinstance(item, str):
            rules.append(Rule.parse(item))
        else:
            pattern, what = item
            if isinstance(what, str):
                rules.append(Rule.parse(f"{pattern}={what}"))
            else:
                rules.append(Rule(pattern, tuple(what.items())))
    return tuple(rules)


def _parse_change(rule: str, text: str) -> tuple[str, Any]:
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon:
        if name not in QUANTIZERS:
            raise OptionError(f"rule {rule!r}: {name!r} is neither option:value nor one of {', '.join(QUANTIZERS)}")
        return "quantizer", name
    for convert in (int, float):
        try:
            return name, convert(value)
        except ValueError:
            pass
    return name, {"true": True, "false": False}.get(value.lower(), value)


def _check_number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    if value is None:
        return
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        # NumPy's integers and floats are welcome too
        item = getattr(value, "item", None)
        if item is None or isinstance(value, bool) or not isinstance(item(), int if whole else int | float):
            raise OptionError(f"{name} is {value!r}, must be {kind} in {low:g}..{high:g}")
    if not low <= value <= high:
        raise OptionError(f"{name} is {value}, must be {kind} in {low:g}..{high:g}")


def _check_word(name: str, value: Any, words: tuple[str, ...]) -> None:
    if value not in words:
        raise OptionError(f"{name} is {value!r}, must be one of {', '.join(words)}")
