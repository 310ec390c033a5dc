"""Kernels for many small arrays at once: what `moments`, `grain`, `round_half_away`, the trellis and `products` do for
one, in a loop.
"""

import numpy as np

from nncjit.jit import field_offset, kernel, larger, record_view
from nncjit.quant.moments_kernels import MOMENTS, PRODUCTS, grain, moments, products
from nncjit.quant.trellis_kernels import quantise
from nncjit.quant.uniform_kernels import round_half_away

ARRAY = np.dtype(
    [
        ("values", "i8"),  # float32[n_values]
        ("n_values", "i8"),
        ("moments", MOMENTS),  # written when it is measured
        ("with_grain", "i8"),  # 1: the grain is wanted
        ("grain", "f8"),  # written; infinite where it is not wanted, or values are not finite or all zero
        ("levels", "i8"),  # int32[n_values], written when it is quantised
        ("inverse", "f8"),  # 1 / step
        ("dependent", "i8"),  # 1: by the trellis; 0: to the nearest level
        ("products", PRODUCTS),  # written, of values and levels
    ]
)
"""An array of float32 that is measured and quantised."""

ARRAY_BYTES = ARRAY.itemsize
MOMENTS_AT, PRODUCTS_AT = field_offset(ARRAY, "moments"), field_offset(ARRAY, "products")

_array_at, _moments_at = record_view(ARRAY), record_view(MOMENTS)


@kernel
def measure_arrays(arrays, count, lost_below, most_lost, counts):
    """Moments of each array, and its grain.

    arrays     : address of ARRAY[count]
    count      : int
    lost_below : float     magnitudes below so much of an array's root mean square are small, see `grain`
    most_lost  : float     share of an array's values that may be small, or one value
    counts     : address of int64[256]       scratch
    """
    for k in range(count):
        at = arrays + ARRAY_BYTES * k
        array, found = _array_at(at), _moments_at(at + MOMENTS_AT)
        moments(array.values, array.n_values, at + MOMENTS_AT)
        array.grain = np.inf
        if array.with_grain and found.peak > 0.0 and found.non_finite == 0:
            small = lost_below * np.sqrt(found.power / array.n_values)
            array.grain = grain(array.values, array.n_values, small, larger(1.0, most_lost * array.n_values), counts)


@kernel
def quantise_arrays(arrays, count):
    """Levels of each array, and what they cost.

    arrays : address of ARRAY[count]
    count  : int
    """
    for k in range(count):
        at = arrays + ARRAY_BYTES * k
        array = _array_at(at)
        if array.dependent:
            quantise(array.values, array.n_values, array.inverse, 0, -1, array.levels)
        else:
            round_half_away(array.values, array.n_values, np.float32(array.inverse), array.levels)
        products(array.values, array.levels, array.n_values, at + PRODUCTS_AT)
