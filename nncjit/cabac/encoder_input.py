"""What the encoder's kernels work on: one layer's levels, checked, without its skipped rows, and the record that names
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import encoder_records as er
from nncjit.cabac import level_statistics_kernels as survey
from nncjit.cabac.layer import MAX_LEVEL, Contexts, Layer
from nncjit.cabac.scan import to_scan
from nncjit.cabac.tables import DQ_NEXT_STATE, FAST, RANGE_LPS, SLOW, ZERO_BIAS
from nncjit.errors import OptionError

Array = NDArray[Any]


def _shifted_widths() -> Array:
    """int64[64]: the bytes of RANGE_LPS shifted until bit 7 is set."""
    widths = RANGE_LPS.view(np.uint8)
    shifts = 8 - np.array([int(width).bit_length() for width in widths])
    shifted: Array = (widths << shifts).astype(np.uint8)
    return shifted.view(np.int64)


_BIAS = np.array([ZERO_BIAS, 1 << 15 | 1 << 31], np.uint32)
TABLES = np.concatenate([t.view(np.int32) for t in (RANGE_LPS, _shifted_widths(), FAST, SLOW, _BIAS)])
"""The coder's tables in one block, so that a kernel needs one address."""

UNBOUNDED = 1 << 40
MAX_CHUNK = 2048
"""Levels binarised at once: their codes stay in the second-level cache."""
MAX_UNARY_LENGTH = 256
MOST_ROWS = 63
"""Values whose codes are tabled: with more of them the table would crowd the first-level cache."""


def dq_steps(dq: int) -> Array:
    """int64[4]: byte s of word (|level| & 3) is 8 * the state after such a level in state s. Spec, section 6."""
    words = [0] * 4
    if dq:
        for low_bits in range(4):
            for state in range(8):
                value = (low_bits + (state & 1)) >> 1
                words[low_bits] |= int(8 * DQ_NEXT_STATE[state, value & 1]) << (8 * state)
    return np.array(words, np.int64)


STEPS = (dq_steps(0), dq_steps(1))


class _ValueTables(NamedTuple):
    """The codes of values, see `binarise_kernels.binarise`."""

    cap: int
    rows: Array
    lines: Array
    rem_row: Array

    @classmethod
    def of(cls, unary_length: int) -> _ValueTables:
        at = Contexts.for_unary_length(unary_length)
        fitting = takewhile(lambda v: len(_value_codes(at, unary_length, v, 0)) < er.ROW_CODES, range(1, MOST_ROWS + 1))
        cap = max(fitting)
        lines = np.zeros((2, unary_length + er.ROW_CODES), np.uint16)
        for negative in (0, 1):
            lines[negative, :unary_length] = 2 * (at.gtx + 2 * np.arange(unary_length) + negative) + 1
        rows = np.zeros((2 * cap + 3, er.ROW_CODES), np.uint16)
        rows[:, -1] = 2
        for value in range(1, cap + 2):
            for negative in (0, 1):
                codes = _value_codes(at, unary_length, value, negative)
                if value > cap:
                    codes = [codes[0], *lines[negative, : min(unary_length, er.HEAD)]]
                row = rows[cap + 1 + (-value if negative else value)]
                row[: len(codes)] = codes
                row[-1] = 2 * (1 + len(codes)) | (2 - negative) << er.SHAPE_CLASS | 1 << er.SHAPE_NONZERO
        rem_row = 2 * (at.rem + np.arange(2 * er.ROW_CODES)) + 1
        return cls(cap, rows, lines, rem_row.astype(np.uint16))


def _value_codes(at: Contexts, unary_length: int, value: int, negative: int) -> list[int]:
    """What a value > 0 has after its significance, for previous value 0 and without bound. Spec, section 5."""
    codes = [2 * at.sign + negative]
    codes += [2 * (at.gtx + 2 * j + negative) + (value > j + 1) for j in range(min(value, unary_length))]
    rest = value - unary_length
    if rest > 0:
        k = rest.bit_length() - 1
        codes += [2 * (at.rem + j) + (j < k) for j in range(k + 1)]
        codes += [er.BYPASS | k << 11 | rest - (1 << k)] * (k > 0)
    return codes


_value_tables = lru_cache(maxsize=64)(_ValueTables.of)


@dataclass(frozen=True, slots=True)
class Source:
    """A layer ready to be binarised."""

    layer: Layer
    skipped: Array | None
    """bool[rows]: the rows that are not coded; None where the layer has no flags for them or they are not used."""
    spans: Array
    """int64[m, SPAN_FIELDS], see `encode_record`; ends at the number of coded elements."""
    record: Array
    """int64[FIELDS]: a run without a place in the layer and without a coder."""
    levels: Array
    """The coded levels, int32[coded]."""
    kept: tuple[Array | None, ...]
    """The other arrays that the record names by address."""

    @property
    def coded(self) -> int:
        """Number of elements that are coded."""
        return int(self.spans[-1, er.SPAN_STOP])

    def run(self) -> tuple[Array, Array]:
        """A record of its own for one piece of work, and the list of codes that it names: int64[FIELDS],
        uint16[any].
        """
        run = self.record.copy()
        codes = np.empty(int(run[er.CHUNK]) * (self.layer.unary_length + 37) + 2 * er.ROW_CODES, np.uint16)
        run[er.CODES] = codes.ctypes.data
        return run, codes


def prepare(
    levels: Array, layer: Layer, base: Array | None, history: Array | None, hdsp: bool, skipped: Array | None
) -> Source:
    """The source of a layer; arrays as `PayloadEncoder.layer` takes them, already checked."""
    spans = _spans(layer, skipped)
    if skipped is not None:
        used = to_scan(np.repeat(~skipped, layer.width).view(np.uint8), layer).view(np.bool_)
        levels = levels[used]
        base, history = (a if a is None else a[used] for a in (base, history))
    at = Contexts.for_unary_length(layer.unary_length)
    values, steps = _value_tables(layer.unary_length), STEPS[layer.dq]
    base = base if layer.temporal else None
    history = history if hdsp else None
    c, z = layer.codebook_size, layer.codebook_zero

    record = np.zeros(er.FIELDS, np.int64)
    arrays = (levels, base, history, steps, *values[1:], spans, TABLES)
    slots = (er.LEVELS, er.BASE, er.HISTORY, er.STEPS, er.ROWS, er.LINES, er.REM_ROW, er.SPANS, er.TABLES)
    for slot, array in zip(slots, arrays, strict=True):
        record[slot] = 0 if array is None else array.ctypes.data
    record[er.HALVE] = layer.dq
    record[er.UNARY], record[er.CAP] = layer.unary_length, values.cap
    record[er.PLAIN] = int(base is None and history is None and c == 0)
    record[er.MOST_BELOW], record[er.MOST_ABOVE] = (z, c - 1 - z) if c else (UNBOUNDED, UNBOUNDED)
    record[er.FIXED_SIGN] = int(c > 0 and z in (0, c - 1))
    record[er.SIG_TEMPORAL], record[er.SIG_HISTORY], record[er.SIGN] = at.sig_temporal, at.sig_history, at.sign
    record[er.GTX], record[er.GTX_TEMPORAL], record[er.REM] = at.gtx, at.gtx_temporal, at.rem
    record[er.N_MODELS] = at.total
    record[er.STOP_SPAN] = len(spans)
    record[er.CHUNK] = min(MAX_CHUNK, (1 << 17) // (layer.unary_length + 37), max(int(spans[-1, er.SPAN_STOP]), 1))
    return Source(layer, skipped, spans, record, levels, arrays[1:])


def _spans(layer: Layer, skipped: Array | None) -> Array:
    """int64[m, SPAN_FIELDS]: the block rows, counted in coded elements; finer where skipped rows move the quantiser."""
    side = layer.block_side
    if layer.dq and layer.width % 4 and skipped is not None:
        return _visits(layer, skipped)
    used = np.ones(layer.rows, np.bool_) if skipped is None else ~skipped
    if layer.codebook_size == 1:
        used = np.zeros(layer.rows, np.bool_)
    tops = np.arange(0, max(layer.rows, 1), side)
    spans = np.zeros((len(tops) if layer.rows else 1, er.SPAN_FIELDS), np.int64)
    if layer.rows:
        spans[:, er.SPAN_STOP] = np.cumsum(np.add.reduceat(used, tops, dtype=np.int64)) * layer.width
    spans[:, er.RESTART] = int(layer.restarts)
    return spans


def _visits(layer: Layer, skipped: Array) -> Array:
    """Spans, one for each time that the scan meets a row. A skipped one is empty, and its zero-steps stand in the next
    span.
    """
    side = layer.block_side
    columns = side if layer.scan else layer.width
    widths = np.minimum(columns, layer.width - np.arange(0, layer.width, columns))
    rows = [np.tile(np.arange(top, min(top + side, layer.rows)), len(widths)) for top in range(0, layer.rows, side)]
    lengths = [np.repeat(widths, len(r) // len(widths)) for r in rows]
    skips = skipped[np.concatenate(rows)]
    spans = np.zeros((len(skips) + 1, er.SPAN_FIELDS), np.int64)
    spans[:-1, er.SPAN_STOP] = np.cumsum(np.concatenate(lengths) * ~skips)
    spans[-1, er.SPAN_STOP] = spans[-2, er.SPAN_STOP]
    spans[1:, er.ZERO_STEPS] = (layer.width & 3) * skips
    if layer.restarts:
        spans[np.cumsum([0] + [len(r) for r in rows[:-1]]), er.RESTART] = 1
    return spans


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


def check_levels(mismatch: int, source: Source) -> None:
    """Refuse levels that `binarise` found wrong, with what is wrong.

    Raises
    ------
    OptionError
        A level is beyond `MAX_LEVEL`, outside the codebook, or does not fit the quantiser's state.
    """
    if not mismatch:
        return
    if mismatch & 2 == 0:
        raise wrong_states()
    least, greatest = int(source.levels.min()), int(source.levels.max())
    for level in (least, greatest):
        if abs(level) > MAX_LEVEL:
            raise OptionError(f"level {level} is beyond the coder's {MAX_LEVEL}")
    c, z = source.layer.codebook_size, source.layer.codebook_zero
    raise OptionError(f"levels {least}..{greatest} are outside the codebook's values {-z}..{c - 1 - z}")


def wrong_states() -> OptionError:
    """The error for levels that no dependent quantiser makes."""
    return OptionError("the levels do not follow the states of dependent quantisation")


def zero_rows(levels: Array, layer: Layer) -> tuple[Array, int]:
    """Which rows of the matrix are all zero, bool[rows], and how many levels are not; `levels` in scan order."""
    used = np.zeros(layer.rows, np.uint8)
    columns = layer.block_side if layer.scan else max(layer.width, 1)
    count = survey.mark_rows(levels.ctypes.data, layer.rows, layer.width, layer.block_side, columns, used.ctypes.data)
    return used == 0, int(count)
