"""How a tensor is cut into chunks for 16 lanes: the same for any number of workers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LANES = 16

FEWEST = 8192
"""Tensors below this size are not worth cutting."""

_TASK = 1 << 17


class Chunks(NamedTuple):
    """Blocks of 16 chunks of `length` values, and a tail of under 16 values a block."""

    length: int
    """Values of a chunk."""
    window: int
    """Values on either side of a boundary that choose its state."""
    task: int
    """Values of the blocks that a worker takes at once."""
    blocks_end: int
    """Where the tail starts."""

    @classmethod
    def of(cls, n: int, *, sparse: bool = False) -> Chunks:
        """Chunks for n >= FEWEST values.

        Zeros tell nothing of a state: where they abound, windows must be longer, and chunks too, to be worth it.
        """
        longest, window = (4000, 512) if sparse else (1000, 128)
        blocks = -(-n // (LANES * longest))
        length = n // (LANES * blocks)
        if length % 128 == 0:
            length -= 8  # 16 streams at such distances would meet in the same sets of the cache
        block = LANES * length
        return cls(length, window, _TASK // block * block, n // block * block)


class Scratch(NamedTuple):
    """Memory of one task, under 400 kB."""

    rows: NDArray[np.float32]
    decisions: NDArray[np.uint8]
    costs: NDArray[np.float32]
    states: NDArray[np.int32]

    @classmethod
    def of(cls, chunks: Chunks) -> Scratch:
        n = LANES * max(chunks.length, 2 * chunks.window)
        return cls(
            np.empty(n, np.float32), np.empty(n, np.uint8), np.empty(8 * LANES, np.float32), np.empty(LANES, np.int32)
        )
