"""A slow writer that makes any choice it is told to: readers are tested on streams that no encoder would choose.

Spec, sections 1 to 7. The arithmetic coder keeps `low` as one unbounded integer: no carry to propagate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from oracle.engine import RLPS, Model
from oracle.layer import NEXT_STATE, LayerShape, Models, by_sign, scan_order


class BitsOut:
    """Header bits, most significant first."""

    def __init__(self) -> None:
        self.out: list[int] = []

    def u(self, n: int, x: int) -> BitsOut:
        if not 0 <= x < 1 << n:
            raise ValueError(f"{x} does not fit u({n})")
        self.out += [x >> k & 1 for k in range(n - 1, -1, -1)]
        return self

    def i(self, n: int, x: int) -> BitsOut:
        return self.u(n, x & ((1 << n) - 1))

    def ue(self, k: int, x: int) -> BitsOut:
        while x >= 1 << k:
            self.out.append(0)
            x -= 1 << k
            k += 1
        self.out.append(1)
        return self.u(k, x)

    def ie(self, k: int, x: int) -> BitsOut:
        return self.ue(k, 2 * x - 1 if x > 0 else -2 * x)

    def st(self, text: str | bytes) -> BitsOut:
        assert len(self.out) % 8 == 0
        for byte in (text.encode() if isinstance(text, str) else text) + b"\0":
            self.u(8, byte)
        return self

    def align(self) -> BitsOut:
        self.out.append(1)
        self.out += [0] * (-len(self.out) % 8)
        return self

    def bytes(self) -> bytes:
        padded = self.out + [0] * (-len(self.out) % 8)
        return bytes(int("".join(map(str, padded[at : at + 8])), 2) for at in range(0, len(padded), 8))


class EngineOut:
    """The arithmetic encoder. Spec, sections 3 and 12."""

    def __init__(self) -> None:
        self.low = 0
        self.range = 510
        self.shifts = 0
        self.marks: list[tuple[int, int, int, int]] = []

    def _shift(self) -> None:
        self.low *= 2
        self.shifts += 1

    def bin(self, model: Model, bin_: int) -> None:
        less_probable = RLPS[self.range >> 5 & 7][abs(model.t >> 7)]
        self.range -= less_probable
        if bin_ != (model.t >= 0):
            self.low += self.range
            self.range = less_probable
        while self.range < 256:
            self.range *= 2
            self._shift()
        model.update(bin_)

    def bypass(self, number: int, n: int = 1) -> None:
        for k in range(n - 1, -1, -1):
            self._shift()
            if number >> k & 1:
                self.low += self.range

    def iae(self, number: int, n: int) -> None:
        self.bypass(number & ((1 << n) - 1), n)

    def restart(self) -> None:
        self.range = 256

    def finish(self) -> bytes:
        """The payload; `points` turns the marks made on the way into entry points afterwards."""
        self.range -= 2
        self.low += self.range
        self.low |= 1
        n = 9 + self.shifts
        pad = -n % 8
        return (self.low << pad).to_bytes((n + pad) // 8, "big")

    def points(self) -> list[tuple[int, int, int]]:
        """(value, state, offset) of each mark, once finished."""
        return [
            ((self.low >> (self.shifts - shifts)) - low, state, shifts - since)
            for low, shifts, state, since in self.marks
        ]


def code_magnitude(
    engine: EngineOut, models: Models, u: int, bound: float, negative: bool, size: int, base: int | None
) -> None:
    value, j = 1, 0
    while True:
        bin_ = int(size > value)
        index = 2 * j + (int(negative) if base is None else 0 if abs(base) >= j else 1)
        engine.bin((models.gtx if base is None else models.gtx_temporal)[index], bin_)
        value += bin_
        if not (bin_ and j + 1 < u and value < bound):
            break
        j += 1
    if bin_ and value < bound:
        r = j = 0
        while True:
            bin_ = int(size >= value + 2**r)
            engine.bin(models.rem[j], bin_)
            if bin_:
                value += 2**r
                r += 1
            j += 1
            if not (bin_ and j < 32 and bound >= value + 2**r):
                break
        engine.bypass(size - value, r)


def code_value(
    engine: EngineOut,
    models: Models,
    layer: LayerShape,
    value: int,
    previous: int,
    state: int,
    base: int,
    history: bool,
) -> None:
    c, z = layer.codebook_size, layer.codebook_zero
    if c == 1:
        return
    temporal = layer.temporal and base != 0
    if history:
        model = models.sig_history[state]
    elif temporal:
        model = models.sig_temporal[2 * state + (abs(base) > 1)]
    else:
        model = models.sig[3 * state + by_sign(previous)]
    engine.bin(model, int(value != 0))
    if value == 0:
        return
    negative = value < 0
    if not (c > 0 and z in (0, c - 1)):
        engine.bin(models.sign[3 + (base > 0)] if temporal else models.sign[by_sign(previous)], int(negative))
    bound = math.inf if c == 0 else z if negative else c - 1 - z
    if bound > 1:
        code_magnitude(engine, models, layer.unary_length, bound, negative, abs(value), base if temporal else None)


def code_flags(
    engine: EngineOut, models: Models, layer: LayerShape, values: Sequence[int], row_skip: bool, hdsp: bool
) -> tuple[bool, list[int]]:
    """hdsp_flag as far as it can be set, and the rows that are skipped."""
    skipped = [0] * layer.rows
    if layer.profile == 0 or layer.width <= 1 or layer.rows <= 1 or layer.codebook_size == 1:
        return False, skipped
    if layer.parent:
        engine.bypass(int(hdsp))
    engine.bypass(int(row_skip))
    if row_skip:
        skipped = [int(not any(values[r * layer.width : (r + 1) * layer.width])) for r in range(layer.rows)]
        for flag in skipped:
            engine.bin(models.row, flag)
    return hdsp and layer.parent, skipped


def code_selection(engine: EngineOut, listed: list[Model], select: Model, choose: Callable[[int], int]) -> None:
    for index, model in enumerate(listed):
        model.k = choose(index)
        engine.bin(select, int(model.k > 0))
        if model.k:
            engine.bypass(model.k - 1, 3)
        model.reset()


def encode_layer(
    engine: EngineOut,
    layer: LayerShape,
    values: Sequence[int],
    *,
    row_skip: bool = False,
    hdsp: bool = False,
    choose: Callable[[int], int] = lambda index: 0,
) -> list[int]:
    """Code `values` (raster order, as coded: before the expansion of dependent quantisation); returns the levels q.

    `choose` gives the start k of each listed model. `row_skip` skips every row that is all zero.
    """
    levels = [0] * layer.size
    if layer.size == 0:
        return levels
    models = Models(layer.unary_length)
    hdsp, skipped = code_flags(engine, models, layer, values, row_skip, hdsp)
    code_selection(engine, models.listed(layer, hdsp), models.select, choose)
    if layer.scan > 0 and (layer.block_rows > 1 or layer.profile == 0):
        engine.restart()
    previous = state = 0
    since, started = engine.shifts, False
    for block_row_starts, row, columns in scan_order(layer):
        if block_row_starts and started:
            engine.restart()
            models.reset()
            previous = 0
            engine.marks.append((engine.low, engine.shifts, state, since))
            since = engine.shifts
        started = True
        if skipped[row]:
            for _ in range(layer.width if layer.dq else 0):
                state = NEXT_STATE[state][0]
            continue
        for column in columns:
            at = row * layer.width + column
            value = values[at]
            base = layer.base[at] if layer.temporal and layer.base is not None else 0
            history = hdsp and layer.history is not None and layer.history[at] == 1
            code_value(engine, models, layer, value, previous, state, base, history)
            previous = value
            levels[at] = 2 * value - (1 if value > 0 else -1) * (state & 1) if layer.dq and value else value
            if layer.dq:
                state = NEXT_STATE[state][value & 1]
    return levels


def unit(kind: int, body: bytes, *, independent: int = 1, size: int | None = None, long_form: bool = False) -> bytes:
    """A whole unit around header and payload bytes; `size` may lie."""
    head = 5 if long_form else 3
    size = len(body) + head if size is None else size
    bits = BitsOut().u(1, int(long_form)).u(31 if long_form else 15, size).u(6, kind).u(1, independent).u(1, 0)
    return bits.bytes() + body


def start(
    profile: int = 1,
    density: int = 2,
    qp: int = 0,
    *,
    method: int = 1,
    topology: bool = True,
    parents: bool = False,
    indexed: bool = False,
    base_model_id: str | None = None,
    metric: str | None = None,
) -> bytes:
    """STR, MPS and, if asked for, an empty TPL."""
    mps = BitsOut().u(1, int(topology)).u(4, 0).u(3, method).u(1, int(indexed))
    if profile == 0:
        mps.u(7, 0)
    else:
        mps.u(1, int(base_model_id is not None)).u(1, 0).u(1, int(metric is not None)).u(1, int(parents)).u(3, 0)
        for text in (base_model_id, metric):
            if text is not None:
                mps.st(text)
    if method & 3:
        mps.u(3, density).i(13, qp)
    out = unit(0, bytes([profile])) + unit(1, mps.align().bytes())
    return out + (unit(3, bytes(3)) if topology else b"")


def ndu(
    names: Sequence[str],
    shape: Sequence[int],
    payload: bytes,
    *,
    kind: int = 1,
    profile: int = 1,
    dq: bool = False,
    unary_length: int | None = 11,
    scan: int = 0,
    points: Sequence[tuple[int, int, int]] = (),
    fmt: int | None = None,
    node: tuple[int, int, int] | None = None,
    parent_signalling: bool = False,
    parent: tuple[int, ...] | None = None,
    temporal: bool = False,
    codebook: tuple[Sequence[int], int, int] | None = None,
    types: int = 0,
    rank: int = 0,
    g_rows: int = 0,
    shift: int = 0,
    no_input: bool = False,
    indices: Sequence[int] = (),
    joined: tuple[int, Sequence[int], Sequence[Sequence[tuple[int, int]]]] | None = None,
) -> bytes:
    """A whole NDU. `codebook` is (values, zero, egk); `indices` stand for the names; `joined` is (axis, split indices,
    shifts of each tensor).
    """
    bits = BitsOut().u(5, kind).u(1, int(len(names) > 1)).u(1, int(fmt is not None)).u(1, int(not no_input))
    _elements(bits, names, indices)
    if profile:
        _nodes(bits, node, parent_signalling, parent, temporal)
    if kind in (1, 3):
        _codebook(bits, codebook)
    if kind != 2:
        bits.u(1, int(dq))
    if fmt is not None:
        bits.u(7, fmt)
    if not no_input:
        _input(bits, shape, unary_length, types, rank, g_rows, joined)
    if len(shape) > 1:
        if profile:
            bits.ue(1, shift)
        bits.u(4, scan)
        if scan:
            _points(bits, points, dq)
    body = bits.align().bytes() + payload
    return unit(5, body, long_form=len(body) > 32000)


def _elements(bits: BitsOut, names: Sequence[str], indices: Sequence[int]) -> None:
    if len(names) > 1:
        bits.ue(7, len(names) - 2)
        if not indices:
            bits.align()
    for index in indices:
        bits.ue(7, index)
    if indices and len(names) > 1:
        bits.align()
    for name in () if indices else names:
        bits.st(name)


def _input(
    bits: BitsOut,
    shape: Sequence[int],
    unary_length: int | None,
    types: int,
    rank: int,
    g_rows: int,
    joined: tuple[int, Sequence[int], Sequence[Sequence[tuple[int, int]]]] | None,
) -> None:
    bits.u(1, 1).u(1, int(unary_length is not None)).u(4, types)
    if types & 1:
        bits.ue(3, rank).ue(3, g_rows)
    bits.ue(1, len(shape))
    for n in shape:
        bits.ue(7, n)
    if joined is not None:
        axis, cuts, shifts = joined
        bits.u(8, axis)
        for cut in cuts:
            bits.ue(7, cut)
        for moves in shifts:
            bits.ue(1, len(moves))
            for index, value in moves:
                bits.ue(7, index).ue(1, value)
    if unary_length is not None:
        bits.u(8, unary_length - 1)


def _nodes(
    bits: BitsOut, node: tuple[int, int, int] | None, signalling: bool, parent: tuple[int, ...] | None, temporal: bool
) -> None:
    bits.u(1, int(node is not None))
    if node is not None:
        bits.ue(1, node[0]).ue(5, node[1]).ue(4, node[2])
    if not signalling:
        return
    bits.u(1, int(parent is not None))
    if parent is not None:
        bits.u(2, 0).u(1, int(temporal)).ue(1, parent[0])
        if node is None:
            bits.ue(5, parent[1]).ue(4, parent[2])


def _codebook(bits: BitsOut, codebook: tuple[Sequence[int], int, int] | None) -> None:
    bits.u(1, int(codebook is not None))
    if codebook is None:
        return
    values, zero, egk = codebook
    bits.u(4, egk).ue(2, len(values)).ie(2, zero - (len(values) >> 1)).ie(7, values[zero])
    for j in range(zero - 1, -1, -1):
        bits.ue(egk, values[j + 1] - values[j] - 1)
    for j in range(zero + 1, len(values)):
        bits.ue(egk, values[j] - values[j - 1] - 1)


def _points(bits: BitsOut, points: Sequence[tuple[int, int, int]], dq: bool) -> None:
    last = None
    for value, state, offset in points:
        bits.u(8, value)
        if dq:
            bits.u(3, state)
        if last is None:
            bits.ue(11, offset)
        else:
            bits.ie(7, offset - last)
        last = offset
