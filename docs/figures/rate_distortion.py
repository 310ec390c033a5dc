"""What the trellis gains: size against exactness of the digits network's matrices, one step for all of them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from _digits import MATRICES, exactness
from _style import BLUE, GREEN, ORANGE, save

CURVES = (
    ("uniform", ORANGE, "s", {"quantizer": "uniform"}, range(-30, -11, 2)),
    ("trellis (default)", BLUE, "o", {"quantizer": "trellis"}, range(-34, -15, 2)),
    ("trellis, rate_weight 1", GREEN, "^", {"quantizer": "trellis", "rate_weight": 1.0}, range(-34, -17, 2)),
)
AT = (10.0, 20.0)
"""dB at which the sizes are compared."""


def main() -> None:
    """The curves; at two exactnesses the sizes go to the terminal, for the text."""
    figure, axes = plt.subplots(figsize=(9, 4.2))
    for label, colour, marker, options, qps in CURVES:
        points = np.array(sorted(exactness(MATRICES, qp=qp, **options) for qp in qps))
        axes.plot(*points.T, color=colour, marker=marker, markersize=5, label=label)
        sizes = [f"{float(np.interp(snr, points[:, 1], points[:, 0])):.3f} bits at {snr:g} dB" for snr in AT]
        print(f"  {label}: {', '.join(sizes)}")
    axes.set(xlabel="bits per weight", ylabel="signal to noise, dB", xlim=(0, None), ylim=(0, None))
    axes.legend(loc="lower right")
    save(figure, __file__)


if __name__ == "__main__":
    main()
