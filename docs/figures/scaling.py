"""How decoding scales with threads, from the figures that ``docs/make_measurements.py --run scaling`` keeps."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
from _style import BLUE, GREY, ORANGE, save

SCALING = Path(__file__).resolve().parent.parent / "measurements" / "scaling.json"


def main() -> None:
    """A line for each kind of model, and where twice the threads would be twice as fast."""
    found = json.loads(SCALING.read_text("utf-8"))
    threads = range(1, found["cores"] + 1)
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for (label, speeds), colour, marker in zip(found["speeds"].items(), (BLUE, ORANGE), "os", strict=True):
        gain = f"{speeds[-1] / speeds[0]:.1f} times with {threads[-1]} threads"
        axes.plot(threads, speeds, color=colour, marker=marker, label=f"{label}: {gain}")
        axes.plot(threads, [speeds[0] * n for n in threads], color=GREY, linestyle="--", linewidth=1)
    axes.plot([], [], color=GREY, linestyle="--", linewidth=1, label="in proportion to one thread")
    axes.set(xlabel="threads", ylabel="million weights a second", xticks=threads)
    axes.set(ylim=(0, None))
    axes.legend(loc="lower right")
    save(figure, __file__)


if __name__ == "__main__":
    main()
