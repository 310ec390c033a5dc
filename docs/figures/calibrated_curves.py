"""Size against quality, by NNCodec, and by nncjit as it is, calibrated, compensated and fine-tuned: the curves behind
the table of calibrated sizes, and MiniLM's cosines.

NNCodec's line is of the test set, ours of the validation split, on which settings are chosen. So that one picture can
show both, each is in percent of what the original measures on its set. Cosines are those of the reported texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from _style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, save

FIGURES = Path(__file__).resolve().parent.parent / "measurements"
COLUMNS = 3
COLOURS = {"NNCodec": ORANGE, "as it is": SKY, "calibrated": BLUE, "compensated": PURPLE, "fine-tuned": GREEN}
SHOWN = (95.8, 101.6)
"""Percent of the original's quality."""
ALLOWED = 99.0
"""Percent that the sizes of the table hold."""
COSINES = (90.0, 100.2)
"""Of MiniLM, whose measure is a cosine; those of the table are marked."""
TICKS = (1, 2, 5, 10, 20)
SIZES = (0.9, 28.0)

Lines = dict[str, list[tuple[float, float]]]


def lines(model: str, found: dict[str, Any]) -> Lines:
    """Size and quality of each kind's points, in percent of the original."""
    whole = found["original"]["validation"]
    kinds: Lines = {kind: [] for kind in COLOURS}
    for point in found["points"]:
        kinds[point["kind"]].append((point["ratio"], point["validation"] / whole))
    measured = json.loads((FIGURES / f"eval-{model}.json").read_text("utf-8"))
    main, original = measured["main"], measured["original"]["measures"][measured["main"]]
    for point in measured["points"]:
        if point["curve"] == "NNCodec" and point["measures"][main] is not None:
            kinds["NNCodec"].append((point["ratio"], point["measures"][main] / original))
    higher = measured["higher_is_better"]
    return {kind: [(x, 100 * (y if higher else 1 / y)) for x, y in points] for kind, points in kinds.items()}


def draw(axes: plt.Axes, title: str, kinds: Lines, chosen: Iterable[tuple[str, float, float]] = ()) -> None:
    """One model: a line for each kind, and a ring around each point that the table has."""
    for kind, points in kinds.items():
        if points:
            xs, ys = zip(*sorted(points), strict=True)
            axes.plot(xs, ys, color=COLOURS[kind], marker="o", markersize=3.5, linewidth=1.2, label=kind)
    for kind, x, y in chosen:
        axes.plot(x, y, color=COLOURS[kind], marker="o", markersize=9, fillstyle="none", markeredgewidth=1.8)
    axes.set_title(title)
    axes.set_xscale("log")
    axes.set_xlim(*SIZES)
    axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axes.xaxis.minorticks_off()


def draw_of_limit(axes: plt.Axes, model: str, found: dict[str, Any]) -> None:
    """A model of which one percent may be lost."""
    kinds = lines(model, found)
    best = {kind: point["ratio"] for kind, point in found["chosen"].items() if point is not None}
    chosen = [(kind, x, y) for kind in best for x, y in kinds[kind] if x == best[kind]]
    draw(axes, f"{model}, {found['weights']:,} weights", kinds, chosen)
    axes.axhline(ALLOWED, color=GREY, linestyle="--", linewidth=1)
    axes.set_ylim(*SHOWN)


def draw_of_cosines(axes: plt.Axes, found: dict[str, Any]) -> None:
    """MiniLM."""
    kinds: Lines = {kind: [] for kind in COLOURS}
    for point in found["points"]:
        if point["kind"] in kinds:
            kinds[point["kind"]].append((point["ratio"], 100 * point["cosine"]))
    draw(axes, "minilm, mean cosine, %", kinds)
    for cosine in next(iter(found["sizes"].values())):
        axes.axhline(100 * float(cosine), color=GREY, linestyle="--", linewidth=1)
    axes.set_ylim(*COSINES)


def main() -> None:
    """All models that were calibrated."""
    models = {
        path.stem.removeprefix("calibrated-"): json.loads(path.read_text("utf-8"))
        for path in sorted(FIGURES.glob("calibrated-*.json"))
    }
    rows = -(-(len(models) + 1) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(4.0 * COLUMNS, 0.5 + 3.1 * rows), squeeze=False)
    panels = iter(grid.flat)
    for model, found in models.items():
        draw_of_limit(next(panels), model, found)
    draw_of_cosines(next(panels), json.loads((FIGURES / "cosines-minilm.json").read_text("utf-8")))
    for axes in panels:
        axes.axis("off")
    figure.supxlabel("size, % of the original", fontsize=10)
    figure.supylabel("measure, % of the original's", fontsize=10)
    entries = [axes.get_legend_handles_labels() for axes in grid.flat]
    handles = {label: handle for handles, labels in entries for handle, label in zip(handles, labels, strict=True)}
    handles = {kind: handles[kind] for kind in COLOURS if kind in handles}
    figure.legend(handles.values(), handles, loc="outside upper right", ncols=len(COLOURS))
    save(figure, __file__)


if __name__ == "__main__":
    main()
