"""Quality against the size of updates between checkpoints and to a base; figures of ``bench/checkpoints.py``."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _style import BLUE, DARK, GREY, ORANGE, save

RESULTS = Path(__file__).resolve().parent.parent / "measurements" / "checkpoints.json"
KINDS = {
    "neighbours": ("update to the checkpoint before", BLUE, "o"),
    "fine_tuned": ("update to the base", ORANGE, "s"),
    "whole": ("whole stream", DARK, "D"),
}


def main() -> None:
    """Bits per character over percent of float32."""
    results = json.loads(RESULTS.read_text("utf-8"))
    figure, axes = plt.subplots(figsize=(8, 4))
    for kind, (label, colour, style) in KINDS.items():
        found = results[kind]
        shares = [100 * np.mean(row["sizes"]) / results["float32_bytes"] for row in found.values()]
        measured = [row["bits_per_character"] for row in found.values()]
        lossy = [k for k, way in enumerate(found) if way != "lossless"]
        points = axes.plot(shares, measured, style, color=colour, markersize=5, label=label)
        axes.plot(np.array(shares)[lossy], np.array(measured)[lossy], color=points[0].get_color(), linewidth=1.2)
        shown = () if kind == "neighbours" else zip(found, shares, measured, strict=True)
        place, side = ((5, 4), "left") if kind == "fine_tuned" else ((0, -14), "center")
        for way, share, value in shown:
            words = way.removeprefix("quality=")
            axes.annotate(words, (share, value), place, textcoords="offset points", ha=side, color=colour, fontsize=9)
    for value, name in zip(results["bits_per_character"], ("the base", "the trained model"), strict=True):
        axes.axhline(value, color=GREY, linestyle=":", linewidth=1)
        axes.text(0.42, value, name, va="bottom", color=GREY, fontsize=9)
    axes.set(xscale="log", xlim=(0.4, 140), ylim=(1.09, None), xlabel="size, % of float32", ylabel="bits per character")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50, 100], ["0.5", "1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.9))
    save(figure, __file__)


if __name__ == "__main__":
    main()
