"""A convolution's input as rows: what each place of the output is a weighted sum of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nncjit.calibrate.checked_inputs import floats, whole_numbers
from nncjit.errors import ModelError

Array = NDArray[Any]


def unfold(
    x: Array,
    kernel: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Array:
    """Patches of one sample, float32[places, channels * taps], in the order of a weight [out, channels, *kernel].

    Parameters
    ----------
    x : float[channels, *sides]
        As many sides as the kernel has.
    kernel : sequence of int
    stride, padding, dilation : int or sequence of int

    Raises
    ------
    ModelError
        The numbers of sides differ, or the kernel is larger than the padded input.
    """
    kernel, x = whole_numbers("kernel", kernel), floats("the input's values", x)
    n = len(kernel)
    strides, paddings, dilations = (_each(value, n) for value in (stride, padding, dilation))
    if x.ndim != n + 1 or min((*kernel, *strides, *dilations), default=0) < 1 or min(paddings, default=0) < 0:
        raise ModelError(f"an input {list(x.shape)} cannot be unfolded by a kernel {list(kernel)}")
    padded = np.pad(x, [(0, 0), *((p, p) for p in paddings)])
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if any(side < span for side, span in zip(padded.shape[1:], spans, strict=True)):
        raise ModelError(f"an input {list(x.shape)} is smaller than its kernel {list(kernel)}")
    windows = sliding_window_view(padded, spans, tuple(range(1, n + 1)))
    chosen = windows[
        (slice(None), *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    ]
    places = np.moveaxis(chosen, 0, n)
    return np.ascontiguousarray(places).reshape(int(np.prod(places.shape[:n])), -1)


def _each(value: int | Sequence[int], n: int) -> tuple[int, ...]:
    each = (value,) * n if isinstance(value, int) else whole_numbers("stride, padding or dilation", value)
    if len(each) != n:
        raise ModelError(f"{list(each)} are {len(each)} numbers for {n} sides")
    return each
