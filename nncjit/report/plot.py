"""PNG plots, drawn with matplotlib (the extra ``plot``), which is imported when a plot is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from nncjit.errors import ModelError, OptionError
from nncjit.files import atomic_write
from nncjit.report.curves import Curve

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444", "#b8a800")
"""The palette of Okabe and Ito, which is suitable for all kinds of colour vision."""
MARKERS = "os^Dv<>P"
DPI = 150

Group = tuple[str, str, Sequence[tuple[str, float]]]
"""Heading, unit, and rows of (name, length)."""


def check_target(path: str | PathLike[str]) -> None:
    """Refuse a plot that cannot be made before any work is done for it.

    Raises
    ------
    OptionError
        The name does not end in ``.png``.
    ModelError
        matplotlib is not installed.
    """
    if Path(path).suffix.lower() != ".png":
        raise OptionError(f"{path}: a picture's name must end in .png")
    _figure_class()


def rate_quality(
    path: str | PathLike[str],
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    level: float | None = None,
    level_label: str = "original model",
    costs: Sequence[Curve] = (),
) -> None:
    """Draw curves of quality over rate.

    Parameters
    ----------
    path : path
        The PNG to write.
    curves : sequence of Curve
    title, x_label, y_label : str
        Labels have their units.
    level : float, optional
        A quality to draw as a dashed line.
    costs : sequence of Curve, optional
        Seconds over rate, for a plot of their own beside the other.
    """
    figure = _figure_class()(figsize=(11.6 if costs else 7.2, 4.6), layout="constrained")
    axes, *beside = figure.subplots(1, 2 if costs else 1, squeeze=False, width_ratios=(1.7, 1)[: 2 if costs else 1])[0]
    _draw(axes, curves)
    if level is not None and math.isfinite(level):
        axes.axhline(level, color="#666666", linestyle="--", linewidth=1, label=level_label, zorder=1)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=11, loc="left")
    for other in beside:
        _draw(other, costs)
        other.set_yscale("log")
        other.set_title("time (s)", fontsize=11, loc="left")
    for plot in (axes, *beside):
        plot.set_xscale("log")
        _plain_ticks(plot.xaxis)
        plot.set_xlabel(x_label)
        _quiet(plot)
        plot.legend(frameon=False, loc="best", fontsize=9)
    _save(figure, path)


def _draw(axes: Any, curves: Sequence[Curve]) -> None:
    for k, curve in enumerate(curves):
        points = [p for p in sorted(zip(curve.rates, curve.qualities, strict=True)) if math.isfinite(p[1])]
        axes.plot(
            [rate for rate, _ in points],
            [quality for _, quality in points],
            color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[k % len(MARKERS)],
            markersize=5,
            linewidth=1.6,
            label=curve.label,
        )


def grouped_bars(path: str | PathLike[str], groups: Sequence[Group], *, title: str) -> None:
    """Draw groups of horizontal bars below each other, each group with its own scale.

    Parameters
    ----------
    path : path
        The PNG to write.
    groups : sequence of (heading, unit, rows of (name, length))
        A row's length and its share of the group are written beside it.
    """
    heights = [len(rows) + 2.2 for _, _, rows in groups]
    figure = _figure_class()(figsize=(8.4, 0.25 * sum(heights) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    plots = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for k, ((heading, unit, rows), axes) in enumerate(zip(groups, plots, strict=True)):
        lengths = [length for _, length in rows]
        total = sum(lengths) or 1.0
        axes.barh(range(len(rows)), lengths, color=COLOURS[k % len(COLOURS)], height=0.72)
        for at, length in enumerate(lengths):
            words = f" {_three_digits(length)} {unit}, {100 * length / total:.1f} %"
            axes.annotate(words, (length, at), va="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [_cut(name) for name, _ in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1.25 * max(lengths, default=1.0) or 1.0)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(f"{heading} ({unit})", fontsize=9, loc="left")
        _quiet(axes, across=False)
    _save(figure, path)


def _figure_class() -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ModelError("pictures need matplotlib: pip install matplotlib") from None
    del FigureCanvasAgg  # what a Figure saves PNG files with
    return Figure


def _save(figure: Any, path: str | PathLike[str]) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def _quiet(axes: Any, *, across: bool = True) -> None:
    axes.grid(visible=True, axis="both" if across else "x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _plain_ticks(axis: Any) -> None:
    """Numbers such as 1.5 on a logarithmic axis, at places that are easy to read."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axis.get_view_interval()
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high / low < 30 else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    places = [step * 10.0**decade for decade in decades for step in steps]
    axis.set_major_locator(FixedLocator([place for place in places if low <= place <= high]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _three_digits(x: float) -> str:
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def _cut(name: str, most: int = 44) -> str:
    return name if len(name) <= most else f"...{name[3 - most :]}"
