"""How small the digits network can get: digits read correctly at each size."""

from __future__ import annotations

import matplotlib.pyplot as plt
from _digits import HELD_OUT, WEIGHTS, point
from _style import BLUE, DARK, GREY, ORANGE, save

from nncjit.demo import digits

BITS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 2.5, 3.5, 5.0)


def main() -> None:
    """Targets in bits per weight, and the default."""
    points, default = [point(bits=bits) for bits in BITS], point()
    images = len(HELD_OUT.labels)
    whole = digits.count_correct(WEIGHTS, HELD_OUT)
    figure, axes = plt.subplots(figsize=(9, 4.2))
    axes.axhline(100 * whole / images, color=GREY, linestyle="--", linewidth=1)
    axes.text(0.29, 100 * whole / images + 1.5, f"original: {whole} of {images}", color=DARK, fontsize=9)
    axes.plot([p.bits for p in points], [100 * p.correct / images for p in points], color=BLUE, marker="o")
    axes.plot(
        default.bits,
        100 * default.correct / images,
        color=ORANGE,
        marker="D",
        markersize=10,
        linestyle="",
        label=f"default: {default.bits:.2f} bits, {default.correct} of {images}",
    )
    axes.set_xscale("log")
    ticks = (0.3, 0.5, 1, 2, 3, 5)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    above = axes.secondary_xaxis("top", functions=(lambda b: b / 0.32, lambda r: r * 0.32))
    above.set_xticks([t / 0.32 for t in ticks], [f"{t / 0.32:.2g} %" for t in ticks])
    above.minorticks_off()
    above.set_xlabel("size, percent of the original")
    axes.set(xlabel="bits per weight", ylabel="digits read correctly, %", ylim=(0, 108))
    axes.legend(loc="lower right")
    for p in points:
        print(f"  {p.bits:.2f} bits: {p.correct}")
    save(figure, __file__)


if __name__ == "__main__":
    main()
