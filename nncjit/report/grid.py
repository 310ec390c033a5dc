"""Grids of encoder options: ``bits=2,3,4`` and ``quantizer=trellis,uniform`` become two curves of three points each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from nncjit.encoder.options import Options
from nncjit.errors import OptionError

FINENESS = ("quality", "qp", "bits", "ratio", "snr")
"""Options that move along a curve; a grid of any other one makes a curve of each of its values."""
DEFAULT: dict[str, tuple[Any, ...]] = {
    "quality": (0.01, 0.02, 0.03, 0.045, 0.06, 0.09, 0.125, 0.18, 0.25, 0.35, 0.5, 0.71, 1.0, 1.41)
}
"""From where most models break to where nothing is lost."""
MAX_POINTS = 512
_NOT_FOR_GRIDS = {"threads": "never changes the result", "rules": "is given with --rule"}


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one curve."""

    label: str
    """What tells it from the other curves: its fixed options, for example "quantizer=uniform"; may be empty."""
    points: tuple[Options, ...]
    settings: tuple[dict[str, Any], ...]
    """The options of each point that the grids name."""


def series(grids: Sequence[str], base: Options | None = None) -> tuple[Series, ...]:
    """The curves that a product of grids makes.

    Parameters
    ----------
    grids : sequence of str
        Each ``option=value,value,...``. Without one of `FINENESS` among them, `DEFAULT` is added.
    base : Options, optional
        What all points have in common.

    Raises
    ------
    OptionError
        A grid is misspelt, names no option or one twice, has a value that the option refuses, or is too large.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    for text in grids:
        name, values = parse(text)
        if name in axes:
            raise OptionError(f"grid {text!r}: there is another one for {name}")
        axes[name] = values
    along = [name for name in axes if name in FINENESS]
    if len(along) > 1:
        raise OptionError(f"grids for {' and '.join(along)} contradict each other: give one of {', '.join(FINENESS)}")
    if not along:
        axes |= DEFAULT
    way = next(name for name in axes if name in FINENESS)
    fixed = [name for name in axes if name != way]
    count = math.prod(len(values) for values in axes.values())
    if count > MAX_POINTS:
        raise OptionError(f"the grids make {count} points, at most {MAX_POINTS} make sense: thin them out")
    made = []
    for combination in itertools.product(*(axes[name] for name in fixed)):
        common = dict(zip(fixed, combination, strict=True))
        settings = tuple(common | {way: value} for value in axes[way])
        varying = {name: value for name, value in common.items() if len(axes[name]) > 1 or len(fixed) == 1}
        label = ", ".join(f"{name}={value}" for name, value in varying.items())
        points = tuple(Options.of(base, point) for point in settings)
        made.append(Series(label, points, settings))
    return tuple(made)


def parse(text: str) -> tuple[str, tuple[Any, ...]]:
    """A grid as the command line writes it: name of an option and its values."""
    name, equals, listed = (part.strip() for part in text.partition("="))
    name = name.replace("-", "_")
    words = [word.strip() for word in listed.split(",")]
    if not equals or not name or not all(words):
        raise OptionError(f"grid {text!r}: must be OPTION=VALUE,VALUE,... for example bits=2,3,4")
    known = sorted(f.name for f in fields(Options) if f.name not in _NOT_FOR_GRIDS)
    if name in _NOT_FOR_GRIDS:
        raise OptionError(f"grid {text!r}: {name} {_NOT_FOR_GRIDS[name]}")
    if name not in known:
        raise OptionError(f"grid {text!r}: no option {name!r}; known are {', '.join(known)}")
    values = tuple(_value(word) for word in words)
    if len(set(words)) < len(words):
        raise OptionError(f"grid {text!r}: a value is there twice")
    for value in values:
        try:
            Options(**{name: value})
        except OptionError as error:
            raise OptionError(f"grid {text!r}: {error}") from None
    return name, values


def _value(word: str) -> Any:
    for convert in (int, float):
        try:
            return convert(word)
        except ValueError:
            pass
    return {"true": True, "false": False, "none": None}.get(word.lower(), word)
