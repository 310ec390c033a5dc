"""Size against quality of the models of the zoo, from the figures that ``docs/make_measurements.py --run`` keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from _style import BLUE, GREY, ORANGE, save

FIGURES = Path(__file__).resolve().parent.parent / "measurements"
COLUMNS = 3
SHOWN = 0.5
"""Share of the quality (or its surplus, where less is better) below which points are not shown."""
LEAST_SPAN = 0.05
"""Share of the quality that an axis shows at least, so that a single image does not look like much."""
NAMES = {
    "top1": "top-1, %",
    "accuracy": "accuracy, %",
    "psnr": "PSNR, dB",
    "bits_per_character": "bits a character",
    "cosine": "mean cosine",
}


def draw(axes: plt.Axes, model: str, found: dict[str, Any]) -> None:
    """One model: our points, NNCodec's, and the original."""
    main, whole = found["main"], found["original"]["measures"][found["main"]]
    far = whole * (SHOWN if found["higher_is_better"] else 1 + SHOWN)
    for label, colour, marker in (("NNCodec", ORANGE, "s"), ("nncjit", BLUE, "o")):
        points = [p for p in found["points"] if p["curve"].startswith(label) and p["measures"][main] is not None]
        shown = sorted(
            (p["bits_per_weight"], p["measures"][main])
            for p in points
            if (p["measures"][main] >= far) == found["higher_is_better"]
        )
        if shown:
            axes.plot(*zip(*shown, strict=True), color=colour, marker=marker, markersize=4, linewidth=1.3, label=label)
    axes.axhline(whole, color=GREY, linestyle="--", linewidth=1)
    axes.set_title(f"{model}, {found['weights']:,} weights")
    axes.set(xlabel="bits per weight", ylabel=NAMES.get(main, main))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, whole - LEAST_SPAN * abs(whole)), max(high, whole + LEAST_SPAN / 4 * abs(whole)))


def main() -> None:
    """All models that were measured."""
    models = {
        path.stem.removeprefix("eval-"): json.loads(path.read_text("utf-8"))
        for path in sorted(FIGURES.glob("eval-*.json"))
    }
    rows = -(-len(models) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(10, 0.5 + 2.8 * rows), squeeze=False)
    for axes, (model, found) in zip(grid.flat, models.items(), strict=False):
        draw(axes, model, found)
    for axes in list(grid.flat)[len(models) :]:
        axes.axis("off")
    entries = [axes.get_legend_handles_labels() for axes in grid.flat]
    handles = {label: handle for handles, labels in entries for handle, label in zip(handles, labels, strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper right", ncols=2)
    save(figure, __file__)


if __name__ == "__main__":
    main()
