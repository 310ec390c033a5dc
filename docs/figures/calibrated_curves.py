"""Size against quality, by NNCodec, and by nncjit as it is, calibrated, compensated and fine-tuned: the curves behind
the table of calibrated sizes.

NNCodec's line is of the test set, ours of the validation split, on which settings are chosen. So that one picture can
show both, each is in percent of what the original measures on its set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from _style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, save

FIGURES = Path(__file__).resolve().parent.parent / "measurements"
COLUMNS = 3
COLOURS = {"NNCodec": ORANGE, "as it is": SKY, "calibrated": BLUE, "compensated": PURPLE, "fine-tuned": GREEN}
SHOWN = 94.0
"""Percent of the quality below which points are not shown."""
ALLOWED = 99.0
"""Percent that the sizes of the table hold."""


def lines(model: str, found: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Size and quality of each kind's points, in percent of the original."""
    whole = found["original"]["validation"]
    kinds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in COLOURS}
    for point in found["points"]:
        kinds[point["kind"]].append((point["ratio"], point["validation"] / whole))
    measured = json.loads((FIGURES / f"eval-{model}.json").read_text("utf-8"))
    main, original = measured["main"], measured["original"]["measures"][measured["main"]]
    for point in measured["points"]:
        if point["curve"] == "NNCodec" and point["measures"][main] is not None:
            kinds["NNCodec"].append((point["ratio"], point["measures"][main] / original))
    higher = measured["higher_is_better"]
    return {kind: [(x, 100 * (y if higher else 1 / y)) for x, y in points] for kind, points in kinds.items()}


def draw(axes: plt.Axes, model: str, found: dict[str, Any]) -> None:
    """One model: a line for each kind, and what the table asks for."""
    for kind, points in lines(model, found).items():
        shown = sorted(point for point in points if point[1] > SHOWN)
        if shown:
            xs, ys = zip(*shown, strict=True)
            axes.plot(xs, ys, color=COLOURS[kind], marker="o", markersize=4, linewidth=1.3, label=kind)
    axes.axhline(ALLOWED, color=GREY, linestyle="--", linewidth=1)
    axes.set_title(f"{model}, {found['weights']:,} weights")
    axes.set(xlabel="size, % of the original", ylabel="measure, % of the original's", xlim=(0, None))


def main() -> None:
    """All models that were calibrated."""
    models = {
        path.stem.removeprefix("calibrated-"): json.loads(path.read_text("utf-8"))
        for path in sorted(FIGURES.glob("calibrated-*.json"))
    }
    columns = min(COLUMNS, len(models))
    rows = -(-len(models) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.2 * columns, 0.5 + 3.2 * rows), squeeze=False)
    for axes, (model, found) in zip(grid.flat, models.items(), strict=False):
        draw(axes, model, found)
    for axes in list(grid.flat)[len(models) :]:
        axes.axis("off")
    entries = [axes.get_legend_handles_labels() for axes in grid.flat]
    handles = {label: handle for handles, labels in entries for handle, label in zip(handles, labels, strict=True)}
    handles = {kind: handles[kind] for kind in COLOURS if kind in handles}
    figure.legend(handles.values(), handles, loc="outside upper right", ncols=len(COLOURS))
    save(figure, __file__)


if __name__ == "__main__":
    main()
