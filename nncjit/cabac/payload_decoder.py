"""Decoding the arithmetic-coded strings of a stream, all at once and in parallel (spec, sections 3 to 7).

Headers first, elements after: for each string the next layer's header is read (qp_delta, flags, the start of each
model), then all elements of those layers are decoded through one flat table of segments, whatever tensors they come
from: one for each entry point, one for each layer without entry points. A string with several layers (a BLOCK) takes as
many rounds as it has layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nncjit.cabac import payload_decoder_kernels as work
from nncjit.cabac import segment_decoder_kernels as k
from nncjit.cabac.arithmetic_decoder_kernels import MODEL, TABLES
from nncjit.cabac.layer import Contexts, Layer, contexts_of
from nncjit.cabac.level_decoder_kernels import UNBOUNDED
from nncjit.cabac.pair_decoder_kernels import LONGEST_UNARY, SPACE_SIZE, state_machine
from nncjit.errors import BitstreamError
from nncjit.jit import Table, address
from nncjit.jit import threads as jit_threads

NO_POINTS = np.empty((0, 3), np.int64)

PAIRED_RATE, PAIRED_SIZE = 5.4, 1024
"""Segments below this many bits an element, and of at least this many elements, are decoded two at a time."""

STEPPED_RATES = (1.0, 3.6)
"""Between these the state machine is the faster way for one stream alone, too."""

WORTH_A_THREAD = 1 << 14
"""Elements for which it pays to wake another thread."""


@dataclass(frozen=True, slots=True)
class LayerJob:
    """One layer of a string.

    Attributes
    ----------
    layer : Layer
        Its parameters. `layer.size` elements must fit a limit of the caller: nothing is allocated for them here.
    out : int32[layer.size], C-contiguous
        Gets the levels in raster order; the bits of float32 values instead where `step_of` is given.
    qp_bits : int
        Bits of the qp_delta in front of the layer, 0 where there is none.
    step_of : callable, optional
        From qp_delta to the step, a float32: each level is replaced by the float32 product of step and level.
    points : int64[n, 3]
        The layer's entry points, (value, state, offset) each. May be empty although ``layer.scan > 0``.
    base : int32[layer.size], optional
        Base levels, raster order; needed where ``layer.temporal``.
    history : int8 or uint8 [layer.size], optional
        1 where an earlier update was non-zero, raster order; needed where the layer's hdsp_flag can be 1.
    """

    layer: Layer
    out: np.ndarray
    qp_bits: int = 0
    step_of: Callable[[int], np.float32] | None = None
    points: np.ndarray = field(default_factory=lambda: NO_POINTS)
    base: np.ndarray | None = None
    history: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class PayloadJob:
    """One arithmetic-coded string: the payload of a unit.

    Attributes
    ----------
    payload : uint8[n], C-contiguous
        All of it.
    layers : tuple of LayerJob
        In coding order.
    path : str
        What an error names.
    bit : int
        Where the payload starts in the stream; added to the positions of errors.
    """

    payload: np.ndarray
    layers: tuple[LayerJob, ...]
    path: str = "payload"
    bit: int = 0

    def error(self, reason: str, bit: int) -> BitstreamError:
        return BitstreamError(reason, bit=self.bit + bit, path=self.path)


@dataclass(slots=True)
class _Cursor:
    """A string half way: the engine between two layers, as the standard has it (R, V, p)."""

    job: PayloadJob
    span: int = 510
    value: int = 0
    bit: int = 9
    done: list[int] = field(default_factory=list)


def decode_payloads(jobs: Sequence[PayloadJob], threads: int | None = None) -> list[list[int]]:
    """Decode all strings; the levels or values go into each layer's `out`.

    Parameters
    ----------
    jobs : sequence of PayloadJob
    threads : int, optional
        Number of threads, all usable cores by default. The result does not depend on it.

    Returns
    -------
    list of list of int
        For each string the qp_delta of each of its layers, 0 where it has none.

    Raises
    ------
    BitstreamError
        A string is too short or too long, ends wrongly, holds a level that int32 cannot, or contradicts its
        entry points.
    """
    spaces = _Spaces(jit_threads.count(threads))
    cursors = [_start(job) for job in jobs]
    active = [cursor for cursor in cursors if cursor.job.layers]
    while active:
        _decode_round(active, spaces)
        active = [cursor for cursor in active if len(cursor.done) < len(cursor.job.layers)]
    for cursor in cursors:
        _check_end(cursor)
    return [cursor.done for cursor in cursors]


def _start(job: PayloadJob) -> _Cursor:
    """Spec, section 3: R = 510, V = the first 9 bits."""
    if job.payload.size < 2:
        raise job.error("the arithmetic-coded string is too short", 8 * job.payload.size)
    value = int(job.payload[0]) << 1 | int(job.payload[1]) >> 7
    if value >= 510:
        raise job.error(f"the arithmetic-coded string starts with {value}, must be below 510", 0)
    return _Cursor(job, value=value)


class _Spaces:
    """The workspaces: two for each worker."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.memory = np.zeros((2 * workers, SPACE_SIZE), np.int64)
        self.memory[:, : TABLES.size] = TABLES
        self.address = address(self.memory, writes=True)


def _decode_round(cursors: list[_Cursor], spaces: _Spaces) -> None:
    """The next layer of each string."""
    table = _LayerTable(cursors)
    work.open_layers(spaces.address, table.address, len(cursors))
    headers = table.records.tolist()
    for n, (job, cursor) in enumerate(zip(table.jobs, cursors, strict=True)):
        _check_header(job, cursor, headers[n])
        if job.step_of is not None:
            step = np.float32(job.step_of(headers[n][k.QP_DELTA]))
            table.records[n, k.SCALED], table.records[n, k.STEP] = 1, int(step.view(np.uint32))
    pieces = [_segments(n, *args) for n, args in enumerate(zip(table.jobs, cursors, headers, strict=True))]
    segments = np.array([segment for piece in pieces for segment in piece], np.int64)
    _run(table, segments, spaces)
    _check_segments(cursors, segments)
    last = np.cumsum([len(piece) for piece in pieces]) - 1
    ends = segments[last, k.END_SPAN : k.END_BIT + 1].tolist()
    for cursor, header, (cursor.span, cursor.value, cursor.bit) in zip(cursors, headers, ends, strict=True):
        cursor.done.append(header[k.QP_DELTA])


class _LayerTable(Table):
    """The records of one round's layers, and the arrays that they name."""

    def __init__(self, cursors: list[_Cursor]) -> None:
        self.jobs = [cursor.job.layers[len(cursor.done)] for cursor in cursors]
        super().__init__(np.zeros((len(cursors), k.LAYER_FIELDS), np.int64))
        totals = [Contexts.for_unary_length(job.layer.unary_length).total for job in self.jobs]
        flags = [job.layer.rows if job.layer.has_row_flags else 0 for job in self.jobs]
        models = self.keep(np.empty(MODEL * sum(totals), np.uint8), writes=True)
        skipped = self.keep(np.empty(sum(flags), np.uint8), writes=True)
        rows = []
        for cursor, job, total, n_flags in zip(cursors, self.jobs, totals, flags, strict=True):
            row = self._record(cursor, job)
            row[k.FIRST_MODELS], row[k.N_MODELS], row[k.SKIPPED] = models, total, skipped
            rows.append(row)
            models += MODEL * total
            skipped += n_flags
        self.records[:] = rows

    def _record(self, cursor: _Cursor, job: LayerJob) -> list[int]:
        layer, payload = job.layer, cursor.job.payload
        c, z = layer.codebook_size, layer.codebook_zero
        whole = payload.size // 4
        row = [0] * k.LAYER_FIELDS
        row[k.L_DATA], row[k.L_WHOLE], row[k.L_BITS] = self.keep(payload), whole, 8 * payload.size
        row[k.L_LAST] = int.from_bytes(payload[4 * whole :].tobytes().ljust(4, b"\0"), "big")
        row[k.ROWS], row[k.WIDTH], row[k.DQ], row[k.UNARY] = layer.rows, layer.width, layer.dq, layer.unary_length
        row[k.SIDE_ROWS], row[k.SIDE_COLUMNS] = (
            layer.block_side,
            layer.block_side if layer.scan else max(layer.width, 1),
        )
        row[k.RESTARTS], row[k.PLAIN], row[k.CODED] = layer.restarts, not (layer.temporal or c), c != 1
        row[k.FIXED_SIGN] = int(z != 0) if c and z in (0, c - 1) else -1
        row[k.BELOW], row[k.ABOVE] = (z, c - 1 - z) if c else (UNBOUNDED, UNBOUNDED)
        row[k.QP_BITS], row[k.PARENT], row[k.ROW_FLAGS] = job.qp_bits, layer.parent, layer.has_row_flags
        listed, listed_hdsp = contexts_of(layer, False), contexts_of(layer, True)
        row[k.LISTED], row[k.N_LISTED] = self.keep(listed), listed.size
        row[k.LISTED_HDSP], row[k.N_LISTED_HDSP] = self.keep(listed_hdsp), listed_hdsp.size
        row[k.OUT] = self.keep(job.out, writes=True)
        if layer.temporal and job.base is not None:
            row[k.BASE] = self.keep(job.base)
        if job.history is not None:
            row[k.HISTORY] = self.keep(np.equal(job.history, 1).view(np.uint8))
        if row[k.PLAIN] and layer.unary_length <= LONGEST_UNARY:
            machine = state_machine(layer.unary_length, layer.dq)
            row[k.MACHINE], row[k.N_MACHINE] = self.keep(machine), machine.size
        row[k.L_SPAN], row[k.L_VALUE], row[k.L_BIT] = cursor.span, cursor.value, cursor.bit
        return row


def _check_header(job: LayerJob, cursor: _Cursor, record: list[int]) -> None:
    """Explain what is wrong with a header."""
    error = cursor.job.error
    if record[k.FAULT]:
        raise error("the arithmetic-coded string ends inside a layer's header", 8 * cursor.job.payload.size)
    if record[k.HDSP] and job.history is None:
        raise error("hdsp_flag is 1, but there is no history", record[k.L_BIT])
    if job.layer.temporal and job.base is None:
        raise error("temporal_context_modeling_flag is 1, but there are no base levels", record[k.L_BIT])


def _segments(n: int, job: LayerJob, cursor: _Cursor, record: list[int]) -> list[list[int]]:
    """The segments of layer n of the round, one more than it has entry points: list of SEGMENT_FIELDS ints."""
    layer, error = job.layer, cursor.job.error
    n_bits, bit = 8 * cursor.job.payload.size, record[k.L_BIT]
    if len(job.points) not in (0, layer.block_rows - 1 if layer.scan else 0):
        raise error(f"there are {len(job.points)} entry points for {layer.block_rows} block rows", cursor.bit)
    starts = [(record[k.L_SPAN], record[k.L_VALUE], bit, 0)]
    for value, state, offset in job.points.tolist():
        bit += offset
        if not (0 <= value < 256 and 0 <= state < 8 and offset >= 0 and bit <= n_bits):
            what = f"(value, state, offset) is {(value, state, offset)}"
            raise error(f"entry point {len(starts) - 1} is out of range: {what}", cursor.bit)
        starts.append((256, value, bit, state * layer.dq))
    rows = [layer.block_side * row for row in range(len(starts))]
    stops = [*rows[1:], layer.rows]
    return [[n, row, stop, *start, 0, 0, 0, 0, 0, 0] for row, stop, start in zip(rows, stops, starts, strict=True)]


def _run(table: _LayerTable, segments: np.ndarray, spaces: _Spaces) -> None:
    """Decode the segments: the largest first, those that can be paired last, where they fill what time is left."""
    layer = table.records[segments[:, k.LAYER]]
    size = layer[:, k.WIDTH] * (segments[:, k.STOP_ROW] - segments[:, k.FIRST_ROW])
    stop_bit = layer[:, k.L_BITS].copy()
    np.copyto(stop_bit[:-1], segments[1:, k.AT_BIT], where=segments[1:, k.LAYER] == segments[:-1, k.LAYER])
    rate = (stop_bit - segments[:, k.AT_BIT]) / np.maximum(size, 1)
    segments[:, k.STEPPED] = (rate >= STEPPED_RATES[0]) & (rate <= STEPPED_RATES[1])
    paired = (layer[:, k.MACHINE] != 0) & (layer[:, k.SKIPS] == 0) & (layer[:, k.HDSP] == 0)
    paired &= (size >= PAIRED_SIZE) & (rate < PAIRED_RATE)
    order = np.lexsort((-size, paired))
    ordered = np.take(segments, order, axis=0)
    n_single = len(segments) - int(np.count_nonzero(paired))
    workers = max(1, min(spaces.workers, len(segments), int(size.sum()) // WORTH_A_THREAD))
    what = np.zeros(work.WORK_FIELDS, np.int64)
    what[[work.SPACES, work.LAYERS, work.SEGMENTS]] = (
        spaces.address,
        table.address,
        address(ordered, writes=True),
    )
    what[[work.N_SINGLE, work.N_ALL, work.TAKEN_PAIRED, work.WORKERS]] = n_single, len(segments), n_single, workers
    jit_threads.run(work.decode_share, address(what, writes=True), workers)
    segments[order] = ordered


_FAULTS = {
    k.TRUNCATED: "the arithmetic-coded string ends",
    k.WRONG_START: "the decoder's value does not fit the start of a block row",
    k.TOO_LARGE: "a level does not fit 32 bits or the codebook",
}


def _check_segments(cursors: list[_Cursor], segments: np.ndarray) -> None:
    """Explain the first fault; make sure that each segment ended where and how the next entry point says."""
    ended, said = segments[:-1, k.END_VALUE : k.END_STATE + 1], segments[1:, k.AT_VALUE : k.AT_STATE + 1]
    differs = np.append((ended != said).any(axis=1) & (segments[:-1, k.LAYER] == segments[1:, k.LAYER]), False)
    wrong = np.flatnonzero(differs | (segments[:, k.END_FAULT] != k.FINE))
    if wrong.size == 0:
        return
    n = int(wrong[0])
    segment = segments[n].tolist()
    job, rows, fault = (
        cursors[segment[k.LAYER]].job,
        f"rows {segment[k.FIRST_ROW]} to {segment[k.STOP_ROW] - 1}",
        segment[k.END_FAULT],
    )
    bit = min(segment[k.END_BIT], 8 * job.payload.size)
    if fault:
        raise job.error(f"{_FAULTS[fault]} in {rows}", bit)
    raise job.error(
        f"{rows} end with (value, bit, state) {ended[n].tolist()}, but the next entry point says {said[n].tolist()}",
        bit,
    )


def _check_end(cursor: _Cursor) -> None:
    """The terminating bin, the stop bit, and nothing behind. Spec, section 3."""
    job, size = cursor.job, 8 * cursor.job.payload.size
    if cursor.value < cursor.span - 2:
        raise job.error("the arithmetic-coded string does not end after its last layer", cursor.bit)
    if size - cursor.bit >= 8:
        raise job.error(f"{(size - cursor.bit) // 8} bytes follow the end of the arithmetic-coded string", cursor.bit)
    rest = (1 << (size - cursor.bit + 1)) - 1
    if int(job.payload[-1]) & rest != rest + 1 >> 1:
        raise job.error("the arithmetic-coded string must end with a bit 1 and then zeros", cursor.bit - 1)
