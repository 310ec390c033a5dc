"""Curves and bars drawn with plain characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from nncjit.report.curves import Curve

MARKS = "ox+*#%@&"
"""One for each curve, in turn."""


def chart(
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    level: float | None = None,
    width: int = 64,
    height: int = 16,
) -> str:
    """Curves as characters: a mark at each point, dots between those of one curve.

    Parameters
    ----------
    curves : sequence of Curve
        Rates go to the right on a logarithmic scale, qualities up.
    x_label, y_label : str
        With their units.
    level : float, optional
        A quality to draw as a dashed line, for example that of the original.
    width, height : int
        Of the field, in characters.
    """
    points = [
        (rate, quality)
        for curve in curves
        for rate, quality in zip(curve.rates, curve.qualities, strict=True)
        if math.isfinite(quality)
    ]
    if not points:
        return "(no points to draw)"
    levels = [] if level is None or not math.isfinite(level) else [level]
    x_low, x_high = _range([math.log(rate) for rate, _ in points])
    y_low, y_high = _range([quality for _, quality in points] + levels)
    field = [[" "] * width for _ in range(height)]

    def column(rate: float) -> int:
        return round((math.log(rate) - x_low) / (x_high - x_low) * (width - 1))

    def line(quality: float) -> int:
        return round((y_high - quality) / (y_high - y_low) * (height - 1))

    for quality in levels:
        field[line(quality)] = list("- " * (width // 2) + "-" * (width % 2))
    for curve, mark in zip(curves, _marks(len(curves)), strict=True):
        pixels = sorted(
            (column(rate), line(quality))
            for rate, quality in zip(curve.rates, curve.qualities, strict=True)
            if math.isfinite(quality)
        )
        for (x0, y0), (x1, y1) in pairwise(pixels):
            _join(field, x0, y0, x1, y1)
        for x, y in pixels:
            field[y][x] = mark
    return "\n".join(_framed(field, (x_low, x_high), (y_low, y_high), x_label, y_label) + _legend(curves))


def bar(share: float, width: int, *, blocks: bool = True) -> str:
    """A horizontal bar for a share 0..1 of the width, drawn in eighths of a character.

    Without `blocks`, of number signs, for terminals that know ASCII only.
    """
    eighths = round(share * width * 8)
    whole, rest = divmod(eighths, 8)
    if not blocks:
        return "#" * round(eighths / 8)
    return "█" * whole + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]


def _marks(count: int) -> list[str]:
    return [MARKS[k % len(MARKS)] for k in range(count)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest, kept apart."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        return low - 0.5, high + 0.5
    return low, high


def _join(field: list[list[str]], x0: int, y0: int, x1: int, y1: int) -> None:
    """Dots on the way from one point to another."""
    steps = max(abs(x1 - x0), abs(y1 - y0))
    for k in range(1, steps):
        x, y = round(x0 + (x1 - x0) * k / steps), round(y0 + (y1 - y0) * k / steps)
        if field[y][x] in " -":
            field[y][x] = "."


def _framed(
    field: list[list[str]], x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str
) -> list[str]:
    height, width = len(field), len(field[0])
    marked = {0: y[1], height - 1: y[0], (height - 1) // 2: y[1] - (y[1] - y[0]) * ((height - 1) // 2) / (height - 1)}
    texts = {row: _number(value, y[1] - y[0]) for row, value in marked.items()}
    margin = max(map(len, texts.values()))
    lines = [f"{'':{margin}}  {y_label}"]
    for k, row in enumerate(field):
        lines.append(f"{texts.get(k, ''):>{margin}} {'+' if k in texts else '|'}{''.join(row)}".rstrip())
    lines.append(f"{'':{margin}} +{'-' * width}")
    ends = [f"{math.exp(value):.3g}" for value in (x[0], (x[0] + x[1]) / 2, x[1])]
    gap = width - sum(map(len, ends))
    lines.append(f"{'':{margin}}  {ends[0]}{' ' * (gap // 2)}{ends[1]}{' ' * (gap - gap // 2)}{ends[2]}")
    lines.append(f"{'':{margin}}  {f'{x_label} (logarithmic)':^{width}}".rstrip())
    return lines


def _number(value: float, span: float) -> str:
    decimals = min(max(1 - math.floor(math.log10(span)), 0), 6)
    return f"{value:.{decimals}f}"


def _legend(curves: Sequence[Curve]) -> list[str]:
    return [f"  {mark}  {curve.label}" for curve, mark in zip(curves, _marks(len(curves)), strict=True)]
