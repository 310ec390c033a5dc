"""Quality by round with and without updates, and the bytes of these, from the figures of ``bench/federated.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from _style import BLUE, DARK, ORANGE, save

RESULTS = Path(__file__).resolve().parent.parent / "measurements" / "federated.json"
WAYS = {
    "plain": ("float32", DARK, ":"),
    "one": ("updates of less than 1 %", BLUE, "-"),
    "small": ("updates of about 0.3 %", ORANGE, "-"),
}
TASKS = {
    "digits": ("Digits, from a random start", "test images read correctly, %"),
    "charlm": ("Character model, further on prose", "bits per character"),
}


def draw_quality(axes: plt.Axes, task: str, found: dict[str, Any]) -> None:
    """What the clients' model can do after each round, for each seed."""
    for way, (label, colour, style) in WAYS.items():
        for k, run in enumerate(found.get(way, {}).values()):
            measured = run["measured"]
            shown = label if not k else None
            axes.plot(range(len(measured)), measured, style, color=colour, linewidth=1.4, label=shown)
    title, label = TASKS[task]
    axes.set(title=title, xlabel="round", ylabel=label)


def draw_sizes(axes: plt.Axes, found: dict[str, Any]) -> None:
    """Bytes to the server (mean over the clients) and to the clients in each round."""
    for way, (_, colour, _) in WAYS.items():
        runs = found.get(way, {}).values()
        for key, style, label in (("up", "-", "to the server"), ("down", "--", "to the clients")):
            of_runs = [np.atleast_2d(run[key]) for run in runs if key in run]
            if of_runs:
                sizes = 100 * np.concatenate(of_runs).mean(axis=0) / found["float32_bytes"]
                rounds = range(1, len(sizes) + 1)
                axes.plot(rounds, sizes, style, color=colour, linewidth=1.3, label=label if way == "one" else None)
    axes.set(xlabel="round", ylabel="an update, % of float32", ylim=(0, None))
    axes.legend(loc="center right", fontsize=9)


def main() -> None:
    """Both tasks side by side."""
    results = json.loads(RESULTS.read_text("utf-8"))
    figure, grid = plt.subplots(2, len(TASKS), figsize=(9.5, 6), height_ratios=(3, 2))
    for column, task in enumerate(TASKS):
        draw_quality(grid[0, column], task, results[task])
        draw_sizes(grid[1, column], results[task])
    handles, labels = grid[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3)
    save(figure, __file__)


if __name__ == "__main__":
    main()
