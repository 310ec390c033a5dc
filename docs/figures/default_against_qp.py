"""The default steps against one absolute step for all matrices: what is left of the embeddings of MiniLM.

The figures come from ``python docs/make_measurements.py --run eval-minilm one-step-minilm``.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
from _style import BLUE, ORANGE, save

FIGURES = Path(__file__).resolve().parent.parent / "measurements"


def curve(name: str) -> tuple[list[float], list[float]]:
    """Bits a weight and mean cosine of our points."""
    points = json.loads((FIGURES / name).read_text("utf-8"))["points"]
    ours = sorted((p["bits_per_weight"], p["measures"]["cosine"]) for p in points if p["curve"].startswith("nncjit"))
    return [bits for bits, _ in ours], [cosine for _, cosine in ours]


def main() -> None:
    """Both curves."""
    figure, axes = plt.subplots(figsize=(9, 4.2))
    axes.plot(
        *curve("one-step-minilm.json"),
        color=ORANGE,
        marker="s",
        markersize=5,
        label="one absolute step for all matrices",
    )
    axes.plot(
        *curve("eval-minilm.json"), color=BLUE, marker="o", markersize=5, label="default steps, several qualities"
    )
    axes.set(
        xlabel="bits per weight", ylabel="mean cosine to the original embeddings", xlim=(1.5, None), ylim=(0.6, 1.01)
    )
    axes.legend(loc="lower right")
    save(figure, __file__)


if __name__ == "__main__":
    main()
