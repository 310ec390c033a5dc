"""The two quantisers of dependent quantisation, and the machine that switches between them."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
from _style import BLUE, DARK, GREY, LIGHT, ORANGE, save
from matplotlib.patches import FancyArrowPatch

from nncjit.cabac.tables import DQ_NEXT_STATE

SHOWN = 6
"""Levels on either side of zero."""


def draw_quantisers(axes: plt.Axes) -> None:
    """Which multiples of the step each quantiser can produce."""
    lines = (("odd states", ORANGE, 0.0, lambda q: q % 2 or q == 0), ("even states", BLUE, 1.0, lambda q: q % 2 == 0))
    for label, colour, y, allowed in lines:
        levels = [q for q in range(-SHOWN, SHOWN + 1) if allowed(q)]
        axes.axhline(y, color=LIGHT, zorder=0)
        axes.scatter(levels, [y] * len(levels), s=130, color=colour, zorder=2)
        for q in levels:
            parity = abs(q) // 2 % 2 if q % 2 == 0 else (abs(q) + 1) // 2 % 2
            axes.annotate(f"{q}", (q, y), (0, 11), textcoords="offset points", ha="center", color=DARK)
            axes.annotate(str(parity), (q, y), ha="center", va="center_baseline", color="white", fontsize=8)
        axes.text(-SHOWN - 0.8, y, label, ha="right", va="center", color=colour, fontweight="bold")
    axes.set(xlim=(-SHOWN - 0.6, SHOWN + 0.6), ylim=(-0.5, 1.6), xticks=[], yticks=[])
    axes.set_title("Levels that can follow in a state (inside: the parity that moves the state)")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_machine(axes: plt.Axes) -> None:
    """From each state, where parity 0 and parity 1 lead."""
    for state in range(8):
        colour = ORANGE if state % 2 else BLUE
        for x in (0.0, 1.0):
            axes.scatter(x, -state, s=330, color=colour, zorder=3)
            axes.text(x, -state, str(state), ha="center", va="center_baseline", color="white", zorder=4)
        for parity in (0, 1):
            after = int(DQ_NEXT_STATE[state][parity])
            ends = (0.0, -state), (1.0, -after)
            axes.add_patch(
                FancyArrowPatch(
                    *ends,
                    arrowstyle="-|>",
                    mutation_scale=11,
                    shrinkA=11,
                    shrinkB=11,
                    color=DARK if parity else GREY,
                    linestyle="-" if parity else (0, (3, 2)),
                    linewidth=1.1,
                    zorder=2,
                )
            )
    axes.text(0, 0.75, "state", ha="center", color=DARK)
    axes.text(1, 0.75, "next state", ha="center", color=DARK)
    axes.plot([], [], color=GREY, linestyle=(0, (3, 2)), label="parity 0")
    axes.plot([], [], color=DARK, label="parity 1")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2)
    axes.set(xlim=(-0.2, 1.2), ylim=(-7.6, 1.1), xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def main() -> None:
    """Both, side by side."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(math.e, 1))
    draw_quantisers(left)
    draw_machine(right)
    save(figure, __file__)


if __name__ == "__main__":
    main()
