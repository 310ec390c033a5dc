"""How the pictures look, and how they are written so that the same numbers give the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# distinguishable for colour-blind readers and in grey (Okabe and Ito)
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, LIGHT, DARK = "#888888", "#E4E4E4", "#222222"

mpl.rcParams.update(
    {
        "axes.edgecolor": GREY,
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "grid.color": LIGHT,
        "legend.frameon": False,
        "svg.fonttype": "path",
        "svg.hashsalt": "nncjit",
    }
)


def save(figure: Figure, script: str) -> None:
    """Write the picture beside its script; with NNCJIT_PNG=folder a PNG there too, to look at."""
    path = Path(script).with_suffix(".svg")
    figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
    if folder := os.environ.get("NNCJIT_PNG"):
        figure.savefig(Path(folder) / f"{path.stem}.png", dpi=110, facecolor="white")
    plt.close(figure)
