"""How a tensor is cut into chunks for 16 lanes: the same for any number of workers."""

from __future__ import annotations

from typing import NamedTuple

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

    @property
    def depth(self) -> int:
        """Rows of 16 that a block or the windows around its boundaries fill."""
        return max(self.length, 2 * self.window)

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
