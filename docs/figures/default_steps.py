"""How exact the default steps keep a matrix, by its size; and where the matrices of the digits network stand."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from _style import BLUE, DARK, GREY, ORANGE, save
from safetensors.numpy import load_file

from nncjit.demo import digits
from nncjit.encoder.default_steps import LEAST_FACTOR, MOST_NOISE, NOISE, is_matrix

RAISED = {"conv2.weight": 6, "conv3.weight": 6, "hidden.weight": -2, "conv4.weight": -5}
"""Names that would meet their neighbours'."""


def exactness(size: np.ndarray | float) -> np.ndarray:
    """DB of signal to noise; `size` in medians."""
    return -20 * np.log10(np.minimum(NOISE * np.maximum(np.sqrt(size), LEAST_FACTOR), MOST_NOISE))


def main() -> None:
    """The curve, and the matrices of the shipped model on it."""
    sizes = {name: w.size for name, w in load_file(digits.MODEL).items() if is_matrix(w.shape)}
    median = float(np.median(list(sizes.values())))
    x = np.geomspace(1 / 4096, 4096, 400)
    figure, axes = plt.subplots(figsize=(9, 4.4))
    axes.plot(x, exactness(x), color=BLUE, linewidth=2)
    axes.set_xscale("log", base=2)
    axes.axhline(float(exactness(1.0)), color=GREY, linewidth=0.8, linestyle=":")
    for name, size in sizes.items():
        at = size / median, float(exactness(size / median))
        axes.scatter(*at, color=ORANGE, s=42, zorder=3)
        offset = 10, RAISED.get(name, 1)
        axes.annotate(f"{name}, {size:,}", at, offset, textcoords="offset points", fontsize=8, color=DARK)
    ticks = [2.0**k for k in range(-12, 13, 2)]
    axes.set_xticks(ticks, [f"1/{round(1 / t)}" if t < 1 else f"{t:g}" for t in ticks])
    low, high = float(exactness(1e6)), float(exactness(0.0))
    axes.set(
        xlabel="weights of the matrix / median of the model's matrices",
        ylabel="signal to noise, dB",
        ylim=(low - 4, high + 5),
    )
    axes.text(1 / 4096, high + 0.8, "never above this", color=DARK, fontsize=8)
    axes.text(500, low - 2.2, "never below this", color=DARK, fontsize=8)
    save(figure, __file__)


if __name__ == "__main__":
    main()
