"""Integers that the arithmetic coder cannot hold as levels, split into 16-bit limbs and joined again.

A tensor with magnitudes of 2^30 and more is coded as one integer tensor with a leading dimension for the limbs, least
significant first, and a private data format that says so. Nothing else in the stream changes, so a reader that ignores
the format gets the limbs.
"""

from __future__ import annotations

import numpy as np

from nncjit import dtypes

LIMB_CODES = {"int32": 72, "uint32": 73, "int64": 74, "uint64": 75}
"""Private nnr_decompressed_data_format of a tensor in limbs, by its dtype."""
LIMB_DTYPES = {code: name for name, code in LIMB_CODES.items()}


def peak(storage: np.ndarray) -> int:
    """Largest magnitude of an integer or bool array, 0 where it is empty."""
    if not storage.size:
        return 0
    return max(abs(int(storage.max())), abs(int(storage.min())))


def split(storage: np.ndarray) -> np.ndarray:
    """The limbs of a 32- or 64-bit integer array: int32[limbs, *shape], each 0..65535, least significant first."""
    little = np.ascontiguousarray(storage).astype(storage.dtype.newbyteorder("<"), copy=False)
    limbs = little.reshape(-1).view(np.dtype("<u2")).reshape(storage.size, -1)
    return np.ascontiguousarray(limbs.T, dtype=np.int32).reshape(-1, *storage.shape)


def join(limbs: np.ndarray, dtype: str) -> np.ndarray:
    """The array whose limbs these are, of shape ``limbs.shape[1:]``. The dtype's size says how many there must be."""
    storage = dtypes.find(dtype).storage
    flat = np.ascontiguousarray(limbs.reshape(limbs.shape[0], -1).T, dtype=np.dtype("<u2"))
    return flat.reshape(-1).view(storage.newbyteorder("<")).astype(storage, copy=False).reshape(limbs.shape[1:])
