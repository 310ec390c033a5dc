"""Values of a huge tensor, read and converted by block rows whenever they are wanted: they are never all in memory.

The file is read several times, once for each of the steps that see all values. That costs little where they stay in
the system's cache, and a machine on which they do not could not have held their float32 copy either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from nncjit import dtypes
from nncjit.cabac.layer import Layer
from nncjit.cabac.scan import to_scan
from nncjit.encoder.choices import Reducing
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.plan import Plan
from nncjit.jit.threads import share
from nncjit.model import Tensor
from nncjit.quant import value_source
from nncjit.stages import stage

HUGE = 1 << 25
"""Weights from which a tensor is read by block rows: its float32 copy would take 128 MiB."""
STRIP = 1 << 19
"""Values that are read together, at least one block row."""

Floats = np.ndarray[Any, np.dtype[np.float32]]


def by_block_rows(tensor: Tensor, plan: Plan) -> HugeTensor | None:
    """The values of a tensor, to be read by block rows; None where it is not huge, or the encoder wants all at once.

    Samples take the values as they are, and reductions and statistics of inputs change or weigh them all together.
    """
    info, part = tensor.info, tensor.part
    if part is None or info.size < HUGE or not is_matrix(info.shape) or plan.sampling or not plan.is_lossy(info):
        return None
    choices = plan.choices[info.name]
    if choices.reducing != Reducing() or info.name in plan.zero_counts or plan.data.metrics is not None:
        return None
    if choices.quantising.exact or plan.first_dimension(info.name, info.shape):
        return None
    return HugeTensor(part, info.shape, info.dtype)


def as_stored(tensor: Tensor) -> np.ndarray[Any, Any] | HugeTensor:
    """The values of a tensor as they are; those of a huge one are read when they are written."""
    if tensor.part is not None and tensor.size >= HUGE:
        return HugeTensor(tensor.part, tensor.shape, tensor.dtype)
    with stage("read"):
        return tensor.read()


@dataclass(frozen=True, slots=True, eq=False)
class HugeTensor:
    """The values of a tensor in raster order, as `nncjit.quant.value_source.Values`."""

    part: Callable[[int, int], np.ndarray[Any, Any]]
    """Reads some elements, as `nncjit.model.Tensor` has it."""
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of a value in its file."""
        return dtypes.find(self.dtype).itemsize

    @property
    def window(self) -> int:
        """How many values are in memory at a time, about."""
        return value_source.WINDOW

    def load(self, start: int, stop: int, workers: Executor | None = None) -> Floats:
        """The values ``start`` to ``stop``."""
        ends = [*range(start, stop, STRIP), stop]
        return _gathered([_Strip(a, b, partial(self.read, a, b)) for a, b in pairwise(ends)], workers)

    def read(self, start: int, stop: int) -> Floats:
        """The same on the caller's thread."""
        with stage("read"):
            return dtypes.to_float32(self.part(start, stop), self.dtype)

    def in_scan(self, layer: Layer) -> value_source.Values:
        """The values in the order in which they are coded."""
        return ScannedTensor(self, layer) if layer.scan else self


@dataclass(frozen=True, slots=True, eq=False)
class ScannedTensor:
    """The values of a huge tensor in coding order."""

    raster: HugeTensor
    layer: Layer

    @property
    def size(self) -> int:
        """Number of values."""
        return self.raster.size

    @property
    def window(self) -> int:
        """How many values are in memory at a time, about."""
        return self.raster.window

    def load(self, start: int, stop: int, workers: Executor | None = None) -> Floats:
        """The values ``start`` to ``stop``."""
        strips = [strip for strip in self._strips(start, stop) if strip.stop > start]
        first = strips[0].start if strips else start
        return _gathered(strips, workers)[start - first : stop - first]

    def _strips(self, start: int, stop: int) -> Iterator[_Strip]:
        """Strips that hold the values ``start`` to ``stop``: whole block rows, or blocks of one that is long."""
        layer, side = self.layer, self.layer.block_side
        together = max(STRIP // (side * layer.width), 1) * side
        for top in range(start // layer.width // together * together, layer.rows, together):
            at, rows = top * layer.width, min(together, layer.rows - top)
            if at >= stop:
                return
            wide = layer.width if rows * layer.width <= STRIP else max(STRIP // side // side, 1) * side
            for left in range(0, layer.width, wide):
                right = min(left + wide, layer.width)
                yield _Strip(at + rows * left, at + rows * right, partial(self._read, top, rows, left, right))

    def _read(self, top: int, rows: int, left: int, right: int) -> Floats:
        """Some columns of some rows."""
        width, read = self.layer.width, self.raster.read
        if right - left == width:
            values = read(top * width, (top + rows) * width)
        else:
            values = np.concatenate([read(row * width + left, row * width + right) for row in range(top, top + rows)])
        return to_scan(values, self.layer._replace(rows=rows, width=right - left), overwrite=True)


class _Strip(NamedTuple):
    """Values that are read together."""

    start: int
    stop: int
    read: Callable[[], Floats]


def _gathered(strips: Sequence[_Strip], workers: Executor | None) -> Floats:
    """The values of strips, one after another."""
    if len(strips) == 1:
        return strips[0].read()
    first, stop = (strips[0].start, strips[-1].stop) if strips else (0, 0)
    values = np.empty(stop - first, np.float32)

    def fill(strip: _Strip) -> None:
        values[strip.start - first : strip.stop - first] = strip.read()

    share([partial(fill, strip) for strip in strips], workers)
    return values
