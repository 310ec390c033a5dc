"""Integers that the arithmetic coder cannot hold as levels, or that are packed, split into limbs and joined again.

A tensor with magnitudes of 2^30 and more is coded as one integer tensor with a leading dimension for the limbs, least
significant first, and a private data format that says so. Limbs have 16 bits, or 4 where the words are packed nibbles,
as in models that are quantised to four bits already. Such nibbles may be coded less 8: the nearer most of them are to
zero, the fewer adaptive bins they take. Nothing else in the stream changes, so a reader that ignores the format gets
the levels of the limbs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nncjit import dtypes


class Limbs(NamedTuple):
    """How words are split."""

    bits: int
    """Of a limb: 16 or 4."""
    middle: int = 0
    """The limb of level 0."""


class LimbFormat(NamedTuple):
    """What a private nnr_decompressed_data_format of limbs says."""

    dtype: str
    """Of the tensor that the limbs make."""
    limbs: Limbs

    @property
    def n_limbs(self) -> int:
        """Limbs of a word."""
        return 8 * dtypes.find(self.dtype).itemsize // self.limbs.bits


WAYS = (Limbs(16), Limbs(4), Limbs(4, 8))
FORMATS = {
    first + column: LimbFormat(dtype, limbs)
    for first, limbs in zip((72, 76, 112), WAYS, strict=True)
    for column, dtype in enumerate(("int32", "uint32", "int64", "uint64"))
}
"""nnr_decompressed_data_format -> what it says."""
CODES = {limb_format: code for code, limb_format in FORMATS.items()}


def peak(storage: np.ndarray) -> int:
    """Largest magnitude of an integer or bool array, 0 where it is empty."""
    if not storage.size:
        return 0
    return max(abs(int(storage.max())), abs(int(storage.min())))


def split(storage: np.ndarray, limbs: Limbs) -> np.ndarray:
    """The levels of the limbs of a 32- or 64-bit integer array: int32[limbs, *shape], least significant first."""
    little = np.ascontiguousarray(storage).astype(storage.dtype.newbyteorder("<"), copy=False).reshape(-1)
    if limbs.bits == 16:
        parts = little.view(np.dtype("<u2")).reshape(storage.size, -1)
    else:
        octets = little.view(np.uint8).reshape(storage.size, -1)
        parts = np.stack([octets & 15, octets >> 4], axis=2).reshape(storage.size, -1)
    levels = np.ascontiguousarray(parts.T, dtype=np.int32)
    levels -= limbs.middle
    return levels.reshape(-1, *storage.shape)


def join(levels: np.ndarray, limb_format: LimbFormat) -> np.ndarray:
    """The array whose limbs have these levels, of shape ``levels.shape[1:]``. The format says how many there are."""
    storage = dtypes.find(limb_format.dtype).storage
    columns = levels.reshape(levels.shape[0], -1).T
    if limb_format.limbs.bits == 16:
        words = np.ascontiguousarray(columns, dtype=np.dtype("<u2"))
    else:
        nibbles = (columns + limb_format.limbs.middle).astype(np.uint8) & 15
        words = np.ascontiguousarray(nibbles[:, ::2] | nibbles[:, 1::2] << 4)
    native = words.reshape(-1).view(storage.newbyteorder("<")).astype(storage, copy=False)
    return native.view(storage).reshape(levels.shape[1:])
