"""Decoding the payloads of a stream, all at once and in parallel (spec, sections 3 to 7).

Headers first, elements after: for each payload the next layer's header is read (qp_delta, flags, context
initialisation), then all elements of those layers are decoded through one flat table of segments, whatever tensors they
come from: one for each block row where there are entry points, one for each layer without. A payload with several
layers (a BLOCK) takes as many rounds as it has layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from nncjit.cabac import decoder_records as dr
from nncjit.cabac import payload_decoder_kernels as kernels
from nncjit.cabac.delivery import LEVELS, MAX_INT32, MIN_INT32, Delivery
from nncjit.cabac.layer import MAX_UNARY_LENGTH, Contexts, Layer, contexts_of
from nncjit.cabac.level_decoder_kernels import UNBOUNDED
from nncjit.cabac.pair_decoder_kernels import state_machine
from nncjit.cabac.segment_supply import Workspaces, decode_segments
from nncjit.errors import BitstreamError, OptionError
from nncjit.jit import Table
from nncjit.jit import threads as jit_threads
from nncjit.jit.teams import KernelCalls, finish

Array = np.ndarray[Any, Any]

NO_POINTS = np.empty((0, 3), np.int64)

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
_BYTES = (np.dtype(np.uint8), np.dtype(np.int8))


def _check(name: str, array: Any, dtypes: Sequence[np.dtype[Any]], size: int, *, written: bool = False) -> None:
    if not isinstance(array, np.ndarray) or array.dtype not in dtypes:
        kind = getattr(array, "dtype", type(array).__name__)
        raise OptionError(f"{name} must be an array of {dtypes[0]}, not {kind}")
    if array.size != size or not array.flags.c_contiguous:
        raise OptionError(f"{name} must be contiguous, of {size} elements, not {array.shape}")
    if written and not array.flags.writeable:
        raise OptionError(f"{name} must be writeable")


@dataclass(frozen=True, slots=True)
class LayerJob:
    """One layer of a payload.

    Attributes
    ----------
    layer : Layer
        Its parameters. `layer.size` elements must fit a limit of the caller: nothing is allocated for them here.
    out : ndarray[layer.size], C-contiguous, of any shape and of the delivery's dtype
        Gets the elements in raster order.
    qp_bits : int
        Bits of the qp_delta in front of the layer, 0 where there is none.
    delivery : Delivery
        What the levels become.
    points : int64[n, 3]
        The layer's entry points, (value, state, offset) each. May be empty although ``layer.scan > 0``.
    base : int32[layer.size], optional
        Base levels, raster order; needed where ``layer.temporal``.
    history : int8 or uint8 [layer.size], optional
        1 where an earlier update was not zero, raster order; needed where the layer's hdsp_flag can be 1.
    levels : int32[layer.size], optional
        Gets the levels, whatever the delivery makes of them.
    block_rows : range, optional
        Decode these block rows only, whose elements `out` and `levels` then are. Needs all entry points. The layer must
        be the last of its payload.

    Raises
    ------
    OptionError
        An array has the wrong dtype or size, or a parameter is out of range.
    """

    layer: Layer
    out: Array
    qp_bits: int = 0
    delivery: Delivery = LEVELS
    points: Array = field(default_factory=lambda: NO_POINTS)
    base: Array | None = None
    history: Array | None = None
    levels: Array | None = None
    block_rows: range | None = None

    def __post_init__(self) -> None:
        layer = self.layer
        if not 1 <= layer.unary_length <= MAX_UNARY_LENGTH:
            raise OptionError(f"unary_length is {layer.unary_length}, must be 1..{MAX_UNARY_LENGTH}")
        if not 0 <= self.qp_bits <= 32:
            raise OptionError(f"qp_bits is {self.qp_bits}, must be 0..32")
        if self.block_rows is not None and not (
            0 <= self.block_rows.start < self.block_rows.stop <= layer.block_rows == len(self.points) + 1
        ):
            raise OptionError(f"{self.block_rows} of {layer.block_rows} block rows, {len(self.points)} entry points")
        rows = self.rows
        size = len(rows) * layer.width
        _check("out", self.out, (self.delivery.dtype,), size, written=True)
        _check("points", self.points, (_INT64,), 3 * len(self.points))
        if self.base is not None:
            _check("base", self.base, (_INT32,), layer.size)
        if self.history is not None:
            _check("history", self.history, _BYTES, layer.size)
        if self.levels is not None:
            _check("levels", self.levels, (_INT32,), size, written=True)

    @property
    def rows(self) -> range:
        """The rows that are decoded."""
        rows, side = range(self.layer.rows), self.layer.block_side
        if self.block_rows is None:
            return rows
        return rows[side * self.block_rows.start : side * self.block_rows.stop]


@dataclass(frozen=True, slots=True)
class PayloadJob:
    """The arithmetic-coded payload of a unit.

    Attributes
    ----------
    payload : uint8[n], C-contiguous
        All of it.
    layers : tuple of LayerJob
        In coding order.
    path : str
        What an error names.
    bit : int
        Where the payload begins in the stream; added to the positions of errors.

    Raises
    ------
    OptionError
        The payload is not such an array, or a layer that is decoded in part is not the last.
    """

    payload: Array
    layers: tuple[LayerJob, ...]
    path: str = "payload"
    bit: int = 0

    def __post_init__(self) -> None:
        _check("payload", self.payload, _BYTES[:1], self.payload.size)
        if any(job.block_rows is not None for job in self.layers[:-1]):
            raise OptionError("only the last layer of a payload can be decoded in part")

    def error(self, reason: str, bit: int) -> BitstreamError:
        return BitstreamError(reason, bit=self.bit + bit, path=self.path)


@dataclass(slots=True)
class _Cursor:
    """A payload half way: the arithmetic decoder between two layers, as the standard has it (R, V, p)."""

    job: PayloadJob
    range_: int = 510
    value: int = 0
    bit: int = 9
    deltas: list[int] = field(default_factory=list)
    """The qp_delta of each layer that is done."""

    @classmethod
    def at_start(cls, job: PayloadJob) -> _Cursor:
        """Spec, section 3: R = 510, V = the first 9 bits."""
        if job.payload.size < 2:
            raise job.error("the payload is too short", 8 * job.payload.size)
        value = int(job.payload[0]) << 1 | int(job.payload[1]) >> 7
        if value >= 510:
            raise job.error(f"the payload begins with {value}, must be below 510", 0)
        return cls(job, value=value)

    @property
    def layer_job(self) -> LayerJob:
        return self.job.layers[len(self.deltas)]

    def check_end(self) -> None:
        """The terminating bin, the stop bit, and nothing after it. Spec, section 3."""
        job, size = self.job, 8 * self.job.payload.size
        if self.value < self.range_ - 2:
            raise job.error("the payload does not end after its last layer", self.bit)
        if size - self.bit >= 8:
            raise job.error(f"{(size - self.bit) // 8} bytes follow the end of the payload", self.bit)
        rest = (1 << (size - self.bit + 1)) - 1
        if int(job.payload[-1]) & rest != rest + 1 >> 1:
            raise job.error("the payload must end with a bit 1 and then zeros", self.bit - 1)


def count_segments(job: LayerJob) -> int:
    """How many segments a layer is decoded in: its block rows where there are entry points, else one."""
    return len(job.points) + 1 if job.block_rows is None else len(job.block_rows)


def decode_payloads(
    jobs: Sequence[PayloadJob], threads: int | None = None, *, lanes: bool | None = None
) -> list[list[int]]:
    """Decode all payloads; the elements go into each layer's `out`.

    Parameters
    ----------
    jobs : sequence of PayloadJob
    threads : int, optional
        Number of threads, all usable cores by default. The result does not depend on it.
    lanes : bool, optional
        Whether to decode in lanes (see `lane_choice`), by default where it pays. The result does not depend on it.

    Returns
    -------
    list of list of int
        For each payload the qp_delta of each of its layers, 0 where it has none.

    Raises
    ------
    BitstreamError
        A payload is too short or too long, ends wrongly, holds a level that int32 or the delivery cannot take, or
        contradicts its entry points.
    """
    return finish(PayloadDecoding(jobs, threads, lanes=lanes).calls())


class PayloadDecoding:
    """Payloads that are about to be decoded: their first layers are prepared, so that `calls` begin at once.

    Parameters
    ----------
    jobs, threads, lanes
        As in `decode_payloads`.
    finished : int64[n], optional
        For each segment of the first layers, in order of the jobs: counts up as soon as its elements are in `out`,
        while others are decoded. The zeros that it begins with are the caller's, and `count_segments` tells how many.
    shared : bool
        Whether other work takes the threads that this leaves.
    """

    def __init__(
        self,
        jobs: Sequence[PayloadJob],
        threads: int | None = None,
        *,
        lanes: bool | None = None,
        finished: Array | None = None,
        shared: bool = False,
    ) -> None:
        self._workspaces = Workspaces(jit_threads.count(threads), lanes, shared=shared)
        self._cursors = [_Cursor.at_start(job) for job in jobs]
        self._round = self._next_round(finished)

    def _next_round(self, finished: Array | None = None) -> _Round | None:
        """The next layer of each payload that has one."""
        active = [cursor for cursor in self._cursors if len(cursor.deltas) < len(cursor.job.layers)]
        return _Round(active, self._workspaces, finished) if active else None

    def calls(self) -> KernelCalls[list[list[int]]]:
        """Decode them, once; returns and raises what `decode_payloads` does."""
        while self._round is not None:
            yield from self._round.decode(self._workspaces)
            self._round = self._next_round()
        for cursor in self._cursors:
            if not _ends_early(cursor.job):
                cursor.check_end()
        return [cursor.deltas for cursor in self._cursors]


def _ends_early(job: PayloadJob) -> bool:
    """Whether the last block row of the last layer is left out."""
    last = job.layers[-1] if job.layers else None
    return last is not None and last.rows.stop < last.layer.rows


class _LayerTable(Table):
    """The records of one round's layers, and the arrays that they name."""

    def __init__(self, cursors: list[_Cursor]) -> None:
        super().__init__(np.zeros(len(cursors), dr.LAYER))
        self._kinds: dict[tuple[int, ...], dict[str, int]] = {}
        kinds = [self._kind(cursor.layer_job.layer) for cursor in cursors]
        n_contexts = sum(kind["n_contexts"] for kind in kinds)
        n_flags = sum(cursor.layer_job.layer.rows for cursor in cursors if cursor.layer_job.layer.has_row_flags)
        contexts = self.keep(np.empty(n_contexts, dr.CONTEXT), writes=True)
        self._skipped = np.zeros(n_flags, np.uint8)
        skipped = self._first_flag = self.keep(self._skipped, writes=True)
        rows = []
        for cursor, kind in zip(cursors, kinds, strict=True):
            layer = cursor.layer_job.layer
            rows.append(_LAYER_FIELDS(self._fields(cursor) | kind | {"contexts": contexts, "skipped": skipped}))
            contexts += dr.CONTEXT.itemsize * kind["n_contexts"]
            skipped += layer.rows * layer.has_row_flags
        self.records.view(np.int64).reshape(len(rows), -1)[:] = rows

    def _kind(self, layer: Layer) -> dict[str, int]:
        """The fields that do not depend on the shape; layers of a kind share the arrays."""
        c, z = layer.codebook_size, layer.codebook_zero
        key = (layer.dq, layer.unary_length, layer.profile, layer.temporal, c, z)
        if key in self._kinds:
            return self._kinds[key]
        signalled, signalled_hdsp = contexts_of(layer, False), contexts_of(layer, True)
        above, below = (c - 1 - z, z) if c else (UNBOUNDED, UNBOUNDED)
        machine = machine_bytes = 0
        if not layer.temporal and c != 1 and layer.unary_length <= dr.LONGEST_UNARY:
            entries = state_machine(layer.unary_length, layer.dq, above, below)
            machine, machine_bytes = self.keep(entries), entries.nbytes
        self._kinds[key] = kind = {
            "dq": layer.dq,
            "unary_length": layer.unary_length,
            "plain": int(not (layer.temporal or c)),
            "coded": int(c != 1),
            "fixed_sign": int(z != 0) if c and z in (0, c - 1) else -1,
            "below": below,
            "above": above,
            "machine": machine,
            "machine_bytes": machine_bytes,
            "signalled": self.keep(signalled),
            "n_signalled": signalled.size,
            "signalled_hdsp": self.keep(signalled_hdsp),
            "n_signalled_hdsp": signalled_hdsp.size,
            "n_contexts": Contexts.for_unary_length(layer.unary_length).total,
        }
        return kind

    def _fields(self, cursor: _Cursor) -> dict[str, float]:
        """The fields of one layer, less those of its kind."""
        job, payload = cursor.layer_job, cursor.job.payload
        layer, delivery = job.layer, job.delivery
        n_words, side = payload.size // 4, layer.block_side
        return _NO_FIELDS | {
            "words": self.keep(payload),
            "n_words": n_words,
            "last_word": int.from_bytes(payload[4 * n_words :].tobytes().ljust(4, b"\0"), "big"),
            "n_bits": 8 * payload.size,
            "rows": layer.rows,
            "width": layer.width,
            "side_rows": side,
            "side_columns": side if layer.scan else max(layer.width, 1),
            "restarts": layer.restarts,
            "base_levels": self.keep(job.base) if layer.temporal and job.base is not None else 0,
            "qp_bits": job.qp_bits,
            "parent": layer.parent,
            "has_row_flags": layer.has_row_flags,
            "kind": delivery.kind,
            "out": self.keep(job.out, writes=True),
            "out_row": job.rows.start,
            "item_size": delivery.dtype.itemsize,
            "levels": self.keep(job.levels, writes=True) if job.levels is not None else 0,
            "lowest": max(delivery.lowest, MIN_INT32),
            "highest": min(delivery.highest, MAX_INT32),
            "range_": cursor.range_,
            "value": cursor.value,
            "bit": cursor.bit,
        }

    def skips(self, segments: Array) -> Array:
        """Which segments hold skipped rows, bool[n], once the headers are read."""
        layers = self.records[segments["layer"]]
        found: Array = layers["n_skipped"] > 0
        before = np.concatenate([[0], np.cumsum(self._skipped, dtype=np.int64)])
        flags, rows = layers["skipped"][found] - self._first_flag, segments[found]
        found[found] = before[flags + rows["stop_row"]] > before[flags + rows["first_row"]]
        return found

    def take_header(self, n: int, job: LayerJob, hdsp: int, qp_delta: int) -> None:
        """Fill in what layer n needs by its header: the history, and what the delivery learns from its qp_delta."""
        delivery, record = job.delivery, self.records[n]
        if hdsp and job.history is not None:
            record["history"] = self.keep(np.equal(job.history, 1).view(np.uint8))
        if delivery.step_of is not None:
            record["step"] = delivery.step_of(qp_delta)
        if delivery.table_of is not None:
            record["table"] = self.keep(delivery.table_of(qp_delta))


_LAYER_FIELDS = itemgetter(*dr.LAYER.names or ())
"""The values of a dictionary in the order of the record's fields, which take 8 bytes each."""
_NO_FIELDS: dict[str, float] = dict.fromkeys(dr.LAYER.names or (), 0)


class _Position(NamedTuple):
    """Where a segment is in its layer, and the arithmetic decoder and the quantiser at both of its ends: the first
    fields of SEGMENT.
    """

    layer: int
    first_row: int
    stop_row: int
    range_: int
    value: int
    bit: int
    state: int
    next_value: int
    next_bit: int
    next_state: int


assert dr.SEGMENT.names is not None
assert dr.SEGMENT.names[: len(_Position._fields)] == _Position._fields


class _Round:
    """A layer of each payload: headers are read when it is made. `finished` as in `PayloadDecoding`."""

    def __init__(self, cursors: list[_Cursor], workspaces: Workspaces, finished: Array | None) -> None:
        self._cursors, self._table = cursors, _LayerTable(cursors)
        kernels.read_headers(workspaces.streams.address, self._table.address, len(cursors))
        fields = ["fault", "hdsp", "qp_delta", "range_", "value", "bit"]
        self._headers = self._table.records[fields].tolist()
        positions, counts = [], []
        for n, (cursor, (fault, hdsp, qp_delta, *decoder)) in enumerate(zip(cursors, self._headers, strict=True)):
            cursor.range_, cursor.value, cursor.bit = decoder
            _check_header(cursor, fault, hdsp)
            self._table.take_header(n, cursor.layer_job, hdsp, qp_delta)
            found = _positions(n, cursor)
            positions += found
            counts.append(len(found))
        self._last = np.cumsum(counts) - 1
        self._segments = segments = np.zeros(len(positions), dr.SEGMENT)
        segments.view(np.int64).reshape(len(positions), -1)[:, : len(_Position._fields)] = positions
        if finished is not None:
            _check("finished", finished, (_INT64,), len(segments), written=True)
            first = self._table.keep(finished, writes=True)
            segments["finished"] = first + _INT64.itemsize * np.arange(len(segments))

    def decode(self, workspaces: Workspaces) -> KernelCalls[None]:
        """All elements of the layers; the cursors are behind them then."""
        workspaces.streams.records["machine"] = (
            0  # the machines of the round before are gone, and their addresses may come again
        )
        segments = self._segments
        yield from decode_segments(self._table, segments, self._table.skips(segments), workspaces)
        _check_segments(self._cursors, segments)
        ends = (segments[name][self._last].tolist() for name in ("end_range", "end_value", "end_bit"))
        for cursor, (_, _, qp_delta, *_), *decoder in zip(self._cursors, self._headers, *ends, strict=True):
            cursor.range_, cursor.value, cursor.bit = decoder
            cursor.deltas.append(qp_delta)


def _check_header(cursor: _Cursor, fault: int, hdsp: int) -> None:
    """Explain what is wrong with a header."""
    job, error = cursor.layer_job, cursor.job.error
    if fault:
        raise error("the payload ends inside a layer's header", 8 * cursor.job.payload.size)
    if hdsp and job.history is None:
        raise error("hdsp_flag is 1, but there is no history", cursor.bit)
    if job.layer.temporal and job.base is None:
        raise error("temporal_context_modeling_flag is 1, but there are no base levels", cursor.bit)


def _positions(n: int, cursor: _Cursor) -> list[_Position]:
    """The segments of layer n of the round."""
    job, error = cursor.layer_job, cursor.job.error
    layer, n_bits, bit = job.layer, 8 * cursor.job.payload.size, cursor.bit
    if len(job.points) not in (0, layer.block_rows - 1 if layer.scan else 0):
        raise error(f"there are {len(job.points)} entry points for {layer.block_rows} block rows", bit)
    starts = [(cursor.range_, cursor.value, bit, 0)]
    for value, state, offset in job.points.tolist():
        bit += offset
        if not (0 <= value < 256 and 0 <= state < 8 and offset >= 0 and bit <= n_bits):
            what = f"(value, state, offset) is {(value, state, offset)}"
            raise error(f"entry point {len(starts) - 1} is out of range: {what}", cursor.bit)
        starts.append((256, value, bit, state * layer.dq))
    rows = [layer.block_side * k for k in range(len(starts))] + [layer.rows]
    following = [start[1:] for start in starts[1:]] + [(-1, -1, -1)]
    wanted = range(len(starts)) if job.block_rows is None else job.block_rows
    return [_Position(n, rows[k], rows[k + 1], *starts[k], *following[k]) for k in wanted]


_FAULTS = {
    dr.TRUNCATED: "the payload ends",
    dr.WRONG_START: "the decoder's value does not fit the start of a block row",
    dr.TOO_LARGE: "a level does not fit 32 bits or the codebook",
}


def _check_segments(cursors: list[_Cursor], segments: Array) -> None:
    """Explain the first fault; make sure that each segment ended where and how the next entry point says."""
    differs = np.zeros(len(segments), np.bool_)
    for what in ("value", "bit", "state"):
        differs |= segments[f"end_{what}"] != segments[f"next_{what}"]
    differs &= segments["next_bit"] >= 0
    wrong = segments[differs | (segments["fault"] != dr.FINE)]
    if wrong.size == 0:
        return
    segment = wrong[0]
    cursor, fault = cursors[segment["layer"]], int(segment["fault"])
    rows = f"rows {segment['first_row']} to {segment['stop_row'] - 1}"
    bit = min(int(segment["end_bit"]), 8 * cursor.job.payload.size)
    if fault == dr.OUT_OF_RANGE:
        raise cursor.job.error(f"a level is outside {cursor.layer_job.delivery.elements} in {rows}", bit)
    if fault:
        raise cursor.job.error(f"{_FAULTS[fault]} in {rows}", bit)
    ended, said = ([int(segment[f"{end}_{what}"]) for what in ("value", "bit", "state")] for end in ("end", "next"))
    raise cursor.job.error(f"{rows} end with (value, bit, state) {ended}, but the next entry point says {said}", bit)
