"""Size against quality, coded as it is, calibrated and fine-tuned: the curves behind the table of calibrated sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from _style import BLUE, GREEN, GREY, ORANGE, PURPLE, save

FIGURES = Path(__file__).resolve().parent.parent / "measurements"
COLUMNS = 3
COLOURS = {"as it is": ORANGE, "calibrated": BLUE, "norms anew": PURPLE, "fine-tuned": GREEN}
SHOWN = 0.94
"""Share of the quality below which points are not shown."""


def draw(axes: plt.Axes, model: str, found: dict[str, Any]) -> None:
    """One model: a line for each kind, and the quality of the original."""
    whole = found["original"]["validation"]
    for kind, colour in COLOURS.items():
        points = sorted((p["ratio"], p["validation"]) for p in found["points"] if p["kind"] == kind)
        shown = [(x, y) for x, y in points if min(y / whole, whole / y) > SHOWN]
        if shown:
            axes.plot(*zip(*shown, strict=True), color=colour, marker="o", markersize=4, linewidth=1.3, label=kind)
    axes.axhline(whole, color=GREY, linestyle="--", linewidth=1)
    axes.set_title(f"{model}, {found['weights']:,} weights")
    axes.set(xlabel="size, % of the original", ylabel="measure on the validation split")
    axes.legend(loc="best")


def main() -> None:
    """All models that were calibrated."""
    models = {
        path.stem.removeprefix("calibrated-"): json.loads(path.read_text("utf-8"))
        for path in sorted(FIGURES.glob("calibrated-*.json"))
    }
    columns = min(COLUMNS, len(models))
    rows = -(-len(models) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    for axes, (model, found) in zip(grid.flat, models.items(), strict=False):
        draw(axes, model, found)
    for axes in list(grid.flat)[len(models) :]:
        axes.axis("off")
    save(figure, __file__)


if __name__ == "__main__":
    main()
