"""Block rows: in which order a large matrix is coded, and how threads share it."""

from __future__ import annotations

import matplotlib.pyplot as plt
from _style import BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, save
from matplotlib.patches import FancyArrowPatch, Rectangle

SIDE, ROWS, COLUMNS = 64, 4, 5
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def draw_matrix(axes: plt.Axes) -> None:
    """Blocks, their order, and the order inside one."""
    for row in range(ROWS):
        for column in range(COLUMNS):
            corner = column * SIDE, row * SIDE
            axes.add_patch(
                Rectangle(corner, SIDE, SIDE, facecolor=COLOURS[row], alpha=0.22, edgecolor="white", linewidth=2)
            )
            if (row, column) != (0, 0):
                number = row * COLUMNS + column + 1
                axes.text(corner[0] + SIDE / 2, corner[1] + SIDE / 2, str(number), ha="center", va="center", color=DARK)
        axes.add_patch(
            FancyArrowPatch(
                (4, row * SIDE + 52),
                (COLUMNS * SIDE - 4, row * SIDE + 52),
                arrowstyle="-|>",
                mutation_scale=10,
                color=COLOURS[row],
            )
        )
        axes.plot(0, row * SIDE + 3, marker=">", color=DARK if row else GREY, markersize=9, clip_on=False, zorder=5)
    for line in range(5):
        y = 8 + 8 * line
        axes.add_patch(
            FancyArrowPatch((5, y), (SIDE - 5, y), arrowstyle="-|>", mutation_scale=6, color=DARK, linewidth=0.8)
        )
    axes.set(xlim=(-6, COLUMNS * SIDE + 2), ylim=(ROWS * SIDE + 2, -6), xlabel="column", ylabel="row")
    axes.set(xticks=range(0, COLUMNS * SIDE + 1, SIDE), yticks=range(0, ROWS * SIDE + 1, SIDE))
    axes.set_title("Coding order; black marks: entry points")
    axes.set_aspect("equal")
    axes.grid(False)


def draw_threads(axes: plt.Axes) -> None:
    """The segments of three tensors on two threads."""
    table = [
        ("bias", GREY, 0.15),
        *((f"block row {k + 1}", c, 1.0) for k, c in enumerate(COLOURS)),
        ("small matrix", GREY, 0.6),
    ]
    ends = [0.0, 0.0]
    for name, colour, length in sorted(table, key=lambda segment: -segment[2]):
        thread = ends.index(min(ends))
        axes.add_patch(
            Rectangle(
                (ends[thread], thread - 0.3), length, 0.6, facecolor=colour, alpha=0.5, edgecolor="white", linewidth=2
            )
        )
        if length > 0.5:
            axes.text(ends[thread] + length / 2, thread, name, ha="center", va="center", color=DARK, fontsize=8)
        else:
            axes.annotate(
                name,
                (ends[thread] + length / 2, thread + 0.3),
                (0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        ends[thread] += length
    axes.set(
        xlim=(0, 3.0), ylim=(1.9, -0.8), yticks=(0, 1), yticklabels=("thread 1", "thread 2"), xticks=[], xlabel="time"
    )
    axes.set_title("All segments of a call in one table")
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)


def main() -> None:
    """Order and threads, side by side."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9))
    draw_matrix(left)
    draw_threads(right)
    save(figure, __file__)


if __name__ == "__main__":
    main()
