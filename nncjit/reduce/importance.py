"""The importance of each weight, or block of weights, of a tensor: magnitude, or magnitude times a sensitivity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from nncjit.errors import OptionError
from nncjit.reduce.ranking import keys_from, keys_of
from nncjit.reduce.views import bands, block_sums, blocked, chunks, float_array, grid_shape


@dataclass(frozen=True, slots=True)
class Weights:
    """A tensor seen as things to rank: its weights, or its blocks, in row-major order."""

    values: np.ndarray
    """In the view that has as many axes as the block; any shape without block."""
    sensitivity: np.ndarray | None
    """Same shape as values."""
    block: tuple[int, ...] | None
    name: str

    @classmethod
    def of(
        cls, values: np.ndarray, sensitivity: np.ndarray | None, block: tuple[int, ...] | None, name: str
    ) -> Weights:
        """Checked: OptionError for a wrong shape of sensitivity or block, ModelError for values that are no floats."""
        values = float_array(values, name)
        if sensitivity is not None:
            sensitivity = float_array(sensitivity, f"sensitivity of {name}")
            if sensitivity.shape != values.shape:
                raise OptionError(f"{name}: the sensitivity has shape {sensitivity.shape}, the tensor {values.shape}")
        if block is not None:
            values, block = blocked(values, block, name)
            sensitivity = None if sensitivity is None else sensitivity.reshape(values.shape)
        return cls(values, sensitivity, block, name)

    @property
    def units(self) -> int:
        """How many things are ranked."""
        return prod(self.values.shape if self.block is None else grid_shape(self.values.shape, self.block))

    def parts(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Keys in order (see `nncjit.reduce.ranking`), and where they are.

        Without block a slice of the flat tensor and uint32[its length]; with block a slice of the first axis and
        uint32[grid of that band].
        """
        if self.block is None:
            flat = self.values.reshape(-1)
            weights = None if self.sensitivity is None else self.sensitivity.reshape(-1)
            for part in chunks(flat.size):
                yield part, keys_of(flat[part], None if weights is None else weights[part], self.name)
            return
        for band in bands(self.values.shape, self.block[0]):
            weights = None if self.sensitivity is None else self.sensitivity[band]
            yield band, _block_keys(self.values[band], weights, self.block, self.name)

    def keys(self) -> Iterator[np.ndarray]:
        """The keys alone."""
        for _, keys in self.parts():
            yield keys


def _block_keys(values: np.ndarray, sensitivity: np.ndarray | None, block: tuple[int, ...], name: str) -> np.ndarray:
    """Keys of the mean importances of the blocks; the mean makes cut blocks comparable with whole ones."""
    keys = keys_of(values, sensitivity, name)
    is_zero = keys == 0
    keys -= ~is_zero
    sums = block_sums(keys.view(np.float32), block)
    sizes = block_sums(np.ones(values.shape, np.float32), block)
    with np.errstate(over="ignore", under="ignore"):
        means = (sums / sizes).astype(np.float32)
    return keys_from(means, block_sums(~is_zero, block) == 0)
