"""How a level becomes bins."""

from __future__ import annotations

import matplotlib.pyplot as plt
from _style import BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, RED, save
from matplotlib.patches import Rectangle

UNARY = 4
"""Greater-than flags; 11 by default, fewer here so that the picture stays small."""
COLOURS = {"zero?": BLUE, "negative?": ORANGE, "greater than": GREEN, "Exp-Golomb prefix": RED, "bypass": PURPLE}


def bins(value: int) -> list[tuple[str, int, str]]:
    """(kind, bin, what it asks) of a coded value. Spec, section 5."""
    size = abs(value)
    out = [("zero?", int(value != 0), "not 0")]
    if not value:
        return out
    out.append(("negative?", int(value < 0), "< 0"))
    for j in range(UNARY):
        out.append(("greater than", int(size > j + 1), f"> {j + 1}"))
        if size <= j + 1:
            return out
    rest, r = size - UNARY - 1, 0
    while rest >= 1 << r:
        out.append(("Exp-Golomb prefix", 1, f"≥ {size - rest + (1 << r)}"))
        rest, r = rest - (1 << r), r + 1
    out.append(("Exp-Golomb prefix", 0, f"< {size - rest + (1 << r)}"))
    return out + [("bypass", rest >> k & 1, "") for k in reversed(range(r))]


def main() -> None:
    """One row for each of some values."""
    values = (0, 1, -1, 3, -5, 12)
    figure, axes = plt.subplots(figsize=(9, 3.4))
    for row, value in enumerate(values):
        axes.text(-0.25, -row, f"{value}", ha="right", va="center", color=DARK, fontweight="bold")
        for column, (kind, bit, question) in enumerate(bins(value)):
            axes.add_patch(Rectangle((column + 0.04, -row - 0.4), 0.92, 0.8, color=COLOURS[kind]))
            axes.text(column + 0.5, -row + 0.1, str(bit), ha="center", va="center", color="white", fontweight="bold")
            axes.text(column + 0.5, -row - 0.24, question, ha="center", va="center", color="white", fontsize=7)
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    axes.legend(handles, COLOURS, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, handlelength=1)
    axes.text(-1.1, -(len(values) - 1) / 2, "coded value", rotation=90, ha="center", va="center", color=GREY)
    longest = max(len(bins(value)) for value in values)
    axes.set(xlim=(-1.4, longest + 0.2), ylim=(-len(values) + 0.5, 0.5))
    axes.axis("off")
    save(figure, __file__)


if __name__ == "__main__":
    main()
