"""What the encoder is given: arrays that are checked, and a layer prepared for the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.coded_intervals import coded_elements, coded_intervals
from nncjit.cabac.encoder_records import MAX_CHUNK, ROW_CODES, TOO_LARGE
from nncjit.cabac.encoder_tables import blank_binariser
from nncjit.cabac.layer import MAX_LEVEL, MAX_UNARY_LENGTH, Contexts, Layer
from nncjit.errors import OptionError
from nncjit.jit import Table

Array = NDArray[Any]

_LIST_SIZE = 1 << 17
"""Codes for which a list has room, at most, about."""


@dataclass(frozen=True, slots=True)
class PreparedLayer:
    """A layer without its skipped rows, in the intervals in which it is coded."""

    layer: Layer
    levels: Array
    """The coded levels, int32[coded], in coding order."""
    base: Array | None
    """Their base levels, int32[coded]; None without temporal contexts."""
    history: Array | None
    """Their history, int8[coded] or uint8[coded]; None where it is not used."""
    intervals: Array
    """INTERVAL[m], m >= 1; the last ends at the number of coded elements."""
    starts: Array
    """The first element of each interval, int64[m]."""
    state: int = 0
    """The quantiser's state before the first, 0..7."""

    @property
    def coded(self) -> int:
        """Number of elements that are coded."""
        return int(self.intervals["stop"][-1])

    @property
    def n_contexts(self) -> int:
        return Contexts.for_unary_length(self.layer.unary_length).total

    def binariser(self) -> Table:
        """BINARISER[1] at the layer's start, with a list of codes of its own."""
        table = blank_binariser(self.layer.unary_length, self.layer.dq).copy()
        record = table.records[0]
        record["levels"] = table.keep(self.levels)
        if self.base is not None:
            record["base_levels"], record["tabled"] = table.keep(self.base), 0
        if self.history is not None:
            record["history"], record["tabled"] = table.keep(self.history), 0
        size, zero = self.layer.codebook_size, self.layer.codebook_zero
        if size:
            record["most_below"], record["most_above"], record["tabled"] = zero, size - 1 - zero, 0
            record["fixed_sign"] = zero in (0, size - 1)
        return with_codes(table, self.levels.size)


def with_codes(binariser: Table, n_levels: int) -> Table:
    """A BINARISER[1] with a list of codes for layers of at most so many levels."""
    record = binariser.records[0]
    most_codes = int(record["unary_length"]) + 37  # of a level, see the kernel `binarise`
    chunk = min(MAX_CHUNK, _LIST_SIZE // most_codes, max(n_levels, 1))
    record["chunk"] = chunk
    record["codes"] = binariser.keep(np.empty(chunk * most_codes + 2 * ROW_CODES, np.uint16), writes=True)
    return binariser


def prepare(
    levels: Array, layer: Layer, base: Array | None, history: Array | None, hdsp: bool, skipped: Array | None
) -> PreparedLayer:
    """The layer without the skipped rows, bool[rows] or None. The arrays are as `PayloadEncoder.layer` takes them, and
    checked.
    """
    base = base if layer.temporal else None
    history = history if hdsp else None
    if skipped is not None:
        kept = slice(0) if skipped.all() else coded_elements(layer, skipped)  # no mask of a huge layer of zeros
        levels = levels[kept]
        base, history = (a if a is None else a[kept] for a in (base, history))
    intervals = coded_intervals(layer, skipped)
    starts = np.zeros(len(intervals), np.int64)
    starts[1:] = intervals["stop"][:-1]
    return PreparedLayer(layer, levels, base, history, intervals, starts)


def check_arrays(levels: Array, layer: Layer, base: Array | None, history: Array | None, hdsp: bool) -> None:
    """Refuse arrays that are not as `PayloadEncoder.layer` wants them.

    Raises
    ------
    OptionError
        An array has the wrong dtype or size, or is missing, or the layer's unary length is out of range.
    """
    if not 1 <= layer.unary_length <= MAX_UNARY_LENGTH:
        raise OptionError(f"unary_length is {layer.unary_length}, must be 1..{MAX_UNARY_LENGTH}")
    wanted: list[tuple[str, Any, tuple[type, ...]]] = [("levels", levels, (np.int32,))]
    if layer.temporal:
        wanted.append(("base", base, (np.int32,)))
    if hdsp:
        wanted.append(("history", history, (np.int8, np.uint8)))
    for name, array, dtypes in wanted:
        if not isinstance(array, np.ndarray) or array.dtype not in dtypes:
            kind = getattr(array, "dtype", type(array).__name__)
            raise OptionError(f"{name} must be an array of {dtypes[0].__name__}, not {kind}")
        if array.shape != (layer.size,) or not array.flags.c_contiguous:
            raise OptionError(f"{name} must be contiguous, of shape ({layer.size},), not {array.shape}")
    if layer.codebook_size == 1 and levels.any():
        raise OptionError(f"levels {levels.min()}..{levels.max()} are outside a codebook of one value, 0..0")


def check_faults(faults: int, levels: Array, layer: Layer) -> None:
    """Refuse levels in which a binariser has found faults, with what is wrong.

    Raises
    ------
    OptionError
        A level is beyond `MAX_LEVEL`, outside the codebook, or does not fit the quantiser's state.
    """
    if not faults:
        return
    if not faults & TOO_LARGE:
        raise wrong_states()
    least, greatest = int(levels.min()), int(levels.max())
    for level in (least, greatest):
        if abs(level) > MAX_LEVEL:
            raise OptionError(f"level {level} is beyond the coder's {MAX_LEVEL}")
    size, zero = layer.codebook_size, layer.codebook_zero
    raise OptionError(f"levels {least}..{greatest} are outside the codebook's values {-zero}..{size - 1 - zero}")


def wrong_states() -> OptionError:
    """The error for levels that no dependent quantiser makes."""
    return OptionError("the levels do not follow the states of dependent quantisation")
