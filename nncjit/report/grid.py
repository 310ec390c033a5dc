"""Grids of encoder options: ``bits=2,3,4`` and ``quantizer=trellis,uniform`` become two curves of three points each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nncjit.encoder.choices import TABLE, FinenessKinds
from nncjit.encoder.options import Options
from nncjit.errors import OptionError
from nncjit.option_values import shown, unknown

AXES = {name: row for name, row in TABLE.items() if row.has_text}
"""Options that a grid may vary."""
ALONG = tuple(FinenessKinds.rows())
"""Options that move along a curve; a grid of any other one makes a curve of each of its values."""
DEFAULT: dict[str, tuple[Any, ...]] = {
    "quality": (0.01, 0.02, 0.03, 0.045, 0.06, 0.09, 0.125, 0.18, 0.25, 0.35, 0.5, 0.71, 1.0, 1.41)
}
"""From rates at which most models fail to rates at which nothing is lost."""
MAX_POINTS = 512
_NO_AXES = {"threads": "never changes the result", "rules": "is given with --rule"}


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one curve."""

    label: str
    """The options that distinguish it from the other curves, for example "quantizer=uniform"; may be empty."""
    points: tuple[Options, ...]
    settings: tuple[dict[str, Any], ...]
    """The options of each point that the grids name, with values as JSON has them."""


def series(grids: Sequence[str], base: Options | None = None) -> tuple[Series, ...]:
    """The curves that a product of grids makes.

    Parameters
    ----------
    grids : sequence of str
        Each ``option=value,value,...``. Without one of `ALONG` among them, `DEFAULT` is added.
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
            raise OptionError(f"grid {shown(text)}: there is another one for {name}")
        axes[name] = values
    along = [name for name in axes if name in ALONG]
    if len(along) > 1:
        raise OptionError(f"grids for {' and '.join(along)} contradict each other: give one of {', '.join(ALONG)}")
    if not along:
        axes |= DEFAULT
    way = next(name for name in axes if name in ALONG)
    fixed = [name for name in axes if name != way]
    count = math.prod(len(values) for values in axes.values())
    if count > MAX_POINTS:
        raise OptionError(f"the grids make {count} points, at most {MAX_POINTS} make sense: thin them out")
    made = []
    for combination in itertools.product(*(axes[name] for name in fixed)):
        common = dict(zip(fixed, combination, strict=True))
        settings = tuple(common | {way: value} for value in axes[way])
        varying = {name: value for name, value in common.items() if len(axes[name]) > 1 or len(fixed) == 1}
        points = tuple(Options.of(base, point) for point in settings)
        made.append(Series(describe(varying), points, settings))
    return tuple(made)


def describe(settings: Mapping[str, Any]) -> str:
    """Options and their values in words."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def parse(text: str) -> tuple[str, tuple[Any, ...]]:
    """A grid as the command line writes it: name of an option and its values, as JSON has them."""
    name, equals, listed = (part.strip() for part in text.partition("="))
    name = name.replace("-", "_")
    words = [word.strip() for word in listed.split(",")]
    if not equals or not name or not all(words):
        raise OptionError(f"grid {shown(text)}: must be OPTION=VALUE,VALUE,... for example bits=2,3,4")
    if name in _NO_AXES:
        raise OptionError(f"grid {shown(text)}: {name} {_NO_AXES[name]}")
    if name not in AXES:
        raise OptionError(f"grid {shown(text)}: {unknown('option', name, AXES)}")
    row = AXES[name]
    try:
        values = [row.parse(word) for word in words]
    except OptionError as error:
        raise OptionError(f"grid {shown(text)}: {error}") from None
    if len(set(values)) < len(values):
        raise OptionError(f"grid {shown(text)}: a value is there twice")
    return name, tuple(row.plain(value) for value in values)
