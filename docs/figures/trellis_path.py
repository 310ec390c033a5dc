"""A few weights, and the path that the trellis takes for them: less error than rounding at twice the step."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from _style import BLUE, DARK, LIGHT, ORANGE, RED, save

from nncjit.cabac.tables import DQ_NEXT_STATE
from nncjit.quant.trellis import trellis
from nncjit.quant.uniform import uniform

STEP = 1.0
WEIGHTS = np.array([1.2, -0.7, 2.3, 0.4, -2.9, 1.1, 3.6, -1.4, 0.2, 2.2, -3.3, 0.9], np.float32)


def states_of(levels: np.ndarray) -> list[int]:
    """The state before each level."""
    states = [0]
    for q in map(int, levels):
        value = (abs(q) + states[-1] % 2) // 2 if q else 0
        states.append(int(DQ_NEXT_STATE[states[-1]][value & 1]))
    return states[:-1]


def draw_weights(axes: plt.Axes, levels: np.ndarray, rounded: np.ndarray) -> None:
    """The weights, what the trellis makes of them, and what rounding to the even levels makes of them."""
    x = np.arange(len(WEIGHTS))
    states = states_of(levels)
    for at, state in zip(x, states, strict=True):
        allowed = [q for q in range(-4, 5) if q == 0 or q % 2 == state % 2]
        axes.scatter([at] * len(allowed), allowed, s=30, color=ORANGE if state % 2 else BLUE, linewidths=0)
    axes.scatter(
        x, levels, s=130, facecolors="none", edgecolors=DARK, linewidths=1.5, label="level chosen by the trellis"
    )
    axes.scatter(x, WEIGHTS, marker="_", s=260, color=DARK, linewidths=2.2, label="weight")
    axes.scatter(x, rounded, marker="x", s=46, color=RED, label="rounded, step twice as wide")
    trellis_error = float(np.square(WEIGHTS - levels).mean())
    rounding_error = float(np.square(WEIGHTS - rounded).mean())
    axes.set_title(f"Mean squared error: trellis {trellis_error:.3f}, rounding {rounding_error:.3f} (in steps squared)")
    axes.set(ylabel="value / step", ylim=(-4.7, 5.9), xticks=[], yticks=range(-4, 5))
    axes.legend(loc="upper left", ncols=3)
    axes.grid(False)


def draw_path(axes: plt.Axes, levels: np.ndarray) -> None:
    """The states that the path goes through."""
    states = states_of(levels)
    x = np.arange(len(states))
    for state in range(8):
        axes.axhline(state, color=LIGHT, linewidth=0.8)
        axes.scatter(x, [state] * len(x), s=26, color=ORANGE if state % 2 else BLUE, alpha=0.5, linewidths=0)
    axes.plot(x, states, color=DARK, linewidth=1.5, marker="o")
    axes.set(
        ylabel="state",
        ylim=(7.6, -0.6),
        yticks=range(8),
        xticks=x,
        xticklabels=[f"{w:g}" for w in WEIGHTS],
        xlabel="weight",
    )
    axes.grid(False)


def main() -> None:
    """Weights above, states below."""
    levels = trellis(WEIGHTS, STEP, exact=True)
    rounded = 2 * uniform(WEIGHTS, 2 * STEP)
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, height_ratios=(3, 2))
    draw_weights(above, levels, rounded)
    draw_path(below, levels)
    save(figure, __file__)


if __name__ == "__main__":
    main()
