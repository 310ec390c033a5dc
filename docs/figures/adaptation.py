"""How a context adapts to the bins, from two of its nine initialisations, and what choosing among them saves."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from _style import BLUE, DARK, GREY, ORANGE, RED, save

from nncjit.cabac.tables import BIN_COST, FAST, INITIAL_WORDS, INITIALISATION_COUNT, SLOW, ZERO_BIAS

SHARES = ((500, 0.12), (500, 0.4))
"""Number of bins, and the share of ones among them."""


def probability(t: int) -> float:
    """Of a bin 1, that a sum of both estimators stands for: the coder charges -log2 of it."""
    return 2.0 ** -(int(BIN_COST[512 + (t >> 3)][1]) / 2**15)


def follow(bins: np.ndarray, start: int) -> tuple[np.ndarray, float]:
    """(float[n, 3], bits): the quick, the slow and the used estimate of the probability of a one before each bin, and
    what all bins cost.
    """
    word, rows, cost = int(INITIAL_WORDS[start]), [], 0
    for bit in map(int, bins):
        quick, slow = (word >> 4 & 255) - 128, (word >> 16 & 4095) - 2048
        rows.append((probability(32 * quick), probability(2 * slow), probability(16 * quick + slow)))
        cost += int(BIN_COST[word + (word >> 16) >> 3 & 1023][bit])
        t = word if bit else word + ZERO_BIAS
        half = 256 * bit
        word += int(FAST[half + (t >> 7 & 255)]) + int(SLOW[half + (t >> 23)])
    return np.array(rows), cost / 2**15


def main() -> None:
    """One sequence of bins whose share of ones jumps, coded with initialisation 0 and with the cheapest."""
    rng = np.random.default_rng(3)
    truth = np.concatenate([np.full(count, share) for count, share in SHARES])
    bins = (rng.random(truth.size) < truth).astype(int)
    followed = [follow(bins, start) for start in range(INITIALISATION_COUNT)]
    best = min(range(INITIALISATION_COUNT), key=lambda start: followed[start][1])
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    x = np.arange(truth.size)
    for axes, start, title in (
        (panels[0], 0, "initialisation 0"),
        (panels[1], best, f"initialisation {best}, the cheapest"),
    ):
        estimates, cost = followed[start]
        axes.plot(x, estimates[:, 0], color=ORANGE, linewidth=0.8, label="fast estimate")
        axes.plot(x, estimates[:, 1], color=BLUE, linewidth=1.4, label="slow estimate")
        axes.plot(x, estimates[:, 2], color=DARK, linewidth=1.6, label="average, which is used")
        axes.plot(x, truth, color=RED, linestyle="--", linewidth=1.4, label="true share of ones")
        axes.vlines(x[bins == 1], -0.07, -0.03, color=GREY, linewidth=0.4)
        axes.set_title(f"{title}: {cost:.0f} bits for {x.size} bins")
        axes.set(xlabel="bin (marks below: ones)", xlim=(0, x.size), ylim=(-0.08, 0.85))
    panels[0].set_ylabel("probability of a one")
    panels[0].legend(loc="upper left", ncols=2)
    save(figure, __file__)


if __name__ == "__main__":
    main()
