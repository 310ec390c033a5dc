"""Integers that the arithmetic coder cannot hold as levels, or that are packed, split into limbs and joined again.

A tensor with magnitudes of 2^30 and more is coded as one integer tensor with a leading dimension for the limbs, least
significant first, and a private data format that says so. Limbs have 16 bits, or 4 where the words are packed nibbles,
as in models that are quantised to four bits already. Nothing else in the stream changes, so a reader that ignores the
format gets the limbs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nncjit import dtypes


class LimbFormat(NamedTuple):
    """What a private nnr_decompressed_data_format of limbs says."""

    dtype: str
    """Of the tensor that the limbs make."""
    bits: int
    """Of a limb: 16 or 4."""

    @property
    def n_limbs(self) -> int:
        """Limbs of a word."""
        return 8 * dtypes.find(self.dtype).itemsize // self.bits


WIDTHS = (16, 4)
FORMATS = {
    72 + 4 * row + column: LimbFormat(dtype, bits)
    for row, bits in enumerate(WIDTHS)
    for column, dtype in enumerate(("int32", "uint32", "int64", "uint64"))
}
"""nnr_decompressed_data_format -> what it says."""
CODES = {limb_format: code for code, limb_format in FORMATS.items()}


def peak(storage: np.ndarray) -> int:
    """Largest magnitude of an integer or bool array, 0 where it is empty."""
    if not storage.size:
        return 0
    return max(abs(int(storage.max())), abs(int(storage.min())))


def split(storage: np.ndarray, bits: int) -> np.ndarray:
    """The limbs of a 32- or 64-bit integer array: int32[limbs, *shape], each below 2^bits, least significant first."""
    little = np.ascontiguousarray(storage).astype(storage.dtype.newbyteorder("<"), copy=False).reshape(-1)
    if bits == 16:
        limbs = little.view(np.dtype("<u2")).reshape(storage.size, -1)
    else:
        octets = little.view(np.uint8).reshape(storage.size, -1)
        limbs = np.stack([octets & 15, octets >> 4], axis=2).reshape(storage.size, -1)
    return np.ascontiguousarray(limbs.T, dtype=np.int32).reshape(-1, *storage.shape)


def join(limbs: np.ndarray, limb_format: LimbFormat) -> np.ndarray:
    """The array whose limbs these are, of shape ``limbs.shape[1:]``. The format says how many there must be."""
    storage = dtypes.find(limb_format.dtype).storage
    columns = limbs.reshape(limbs.shape[0], -1).T
    if limb_format.bits == 16:
        words = np.ascontiguousarray(columns, dtype=np.dtype("<u2"))
    else:
        nibbles = columns.astype(np.uint8) & 15
        words = np.ascontiguousarray(nibbles[:, ::2] | nibbles[:, 1::2] << 4)
    native = words.reshape(-1).view(storage.newbyteorder("<")).astype(storage, copy=False)
    return native.view(storage).reshape(limbs.shape[1:])
