"""Kernels for many vectors at once: what `moments`, `grain`, `round_half_away` and `products` do for one, in a loop."""

import numpy as np

from nncjit.jit import field_offset, kernel, record_view
from nncjit.quant.moments_kernels import MOMENTS, PRODUCTS, grain, moments, products
from nncjit.quant.uniform_kernels import round_half_away

VECTOR = np.dtype(
    [
        ("values", "i8"),  # float32[n_values]
        ("n_values", "i8"),
        ("moments", MOMENTS),  # written when it is measured
        ("grain", "f8"),  # written; infinite where values are not finite or all zero
        ("levels", "i8"),  # int32[n_values], written when it is quantised
        ("inverse", "f8"),  # 1 / step
        ("products", PRODUCTS),  # written, of values and levels
    ]
)
"""A vector of float32 that is measured and quantised."""

VECTOR_BYTES = VECTOR.itemsize
MOMENTS_AT, PRODUCTS_AT = field_offset(VECTOR, "moments"), field_offset(VECTOR, "products")

_vector_at, _moments_at = record_view(VECTOR), record_view(MOMENTS)


@kernel
def measure_vectors(vectors, count, lost_below, most_lost, counts):
    """Moments and grain of each vector.

    vectors    : address of VECTOR[count]
    count      : int
    lost_below : float     magnitudes below so much of a vector's root mean square are small, see `grain`
    most_lost  : float     share of a vector's values that may be small, or one value
    counts     : address of int64[256]       scratch
    """
    for k in range(count):
        at = vectors + VECTOR_BYTES * k
        vector, found = _vector_at(at), _moments_at(at + MOMENTS_AT)
        moments(vector.values, vector.n_values, at + MOMENTS_AT)
        vector.grain = np.inf
        if found.peak > 0.0 and found.non_finite == 0:
            small = lost_below * np.sqrt(found.power / vector.n_values)
            vector.grain = grain(vector.values, vector.n_values, small, max(1.0, most_lost * vector.n_values), counts)


@kernel
def quantise_vectors(vectors, count):
    """Levels of each vector, and what they cost.

    vectors : address of VECTOR[count]
    count   : int
    """
    for k in range(count):
        at = vectors + VECTOR_BYTES * k
        vector = _vector_at(at)
        round_half_away(vector.values, vector.n_values, np.float32(vector.inverse), vector.levels)
        products(vector.values, vector.levels, vector.n_values, at + PRODUCTS_AT)
