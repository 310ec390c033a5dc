"""One coded matrix. Spec, sections 5 to 7."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from oracle.bits import DamagedError
from oracle.engine import TABLES, Engine, Model

NEXT_STATE = TABLES["dq_next_state"]


@dataclass
class LayerShape:
    """All that a decoder knows before the first bin of a layer."""

    shape: tuple[int, ...]
    dq: bool = False
    unary_length: int = 10
    scan: int = 0
    profile: int = 1
    parent: bool = False
    temporal: bool = False
    codebook_size: int = 0
    codebook_zero: int = 0
    base: Sequence[int] | None = None
    history: Sequence[int] | None = None
    size: int = field(init=False)
    width: int = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = math.prod(self.shape)
        self.width = math.prod(self.shape[1:])
        self.rows = self.shape[0] if self.shape else 1
        if self.width == 1 or self.rows == 1:
            self.scan = 0
        if self.profile == 0:
            self.codebook_size = self.codebook_zero = 0

    @property
    def block(self) -> int:
        return 4 * 2**self.scan

    @property
    def block_rows(self) -> int:
        return -(-self.rows // self.block)


@dataclass
class Decoded:
    """Levels q in raster order, and the entry points that the layer turned out to have: (value, state, offset)."""

    levels: list[int]
    points: list[tuple[int, int, int]]


def scan_order(layer: LayerShape) -> Iterator[tuple[bool, int, list[int]]]:
    """Runs of one row: whether a block row starts here, the row, and the columns. Spec, section 7."""
    if layer.scan == 0:
        for row in range(layer.rows):
            yield False, row, list(range(layer.width))
        return
    side = layer.block
    for top in range(0, layer.rows, side):
        first = True
        for left in range(0, layer.width, side):
            for row in range(top, min(top + side, layer.rows)):
                yield first, row, list(range(left, min(left + side, layer.width)))
                first = False


class Models:
    """The models of one layer, by family. Spec, section 5."""

    def __init__(self, unary_length: int) -> None:
        self.sig = [Model() for _ in range(24)]
        self.sig_temporal = [Model() for _ in range(16)]
        self.sig_history = [Model() for _ in range(8)]
        self.sign = [Model() for _ in range(5)]
        self.gtx = [Model() for _ in range(2 * unary_length)]
        self.gtx_temporal = [Model() for _ in range(2 * unary_length)]
        self.rem = [Model() for _ in range(32)]
        self.select = Model()
        self.row = Model()

    def reset(self) -> None:
        families = (self.sig, self.sig_temporal, self.sig_history, self.sign, self.gtx, self.gtx_temporal, self.rem)
        for family in families:
            for model in family:
                model.reset()

    def listed(self, layer: LayerShape, hdsp: bool) -> list[Model]:
        """The signalled models, in their order."""
        c, z, u = layer.codebook_size, layer.codebook_zero, layer.unary_length
        bound = max(z, c - 1 - z)
        models: list[Model] = []
        if c != 1:
            models += self.sig[: 24 if layer.dq else 3]
            if layer.temporal:
                models += self.sig_temporal[: 16 if layer.dq else 2]
            if hdsp:
                models += self.sig_history[: 8 if layer.dq else 1]
            if not (c > 0 and z in (0, c - 1)):
                models += self.sign[: 5 if layer.temporal else 3]
        models += [self.gtx[a] for a in range(2 * u) if c == 0 or a < 2 * bound]
        if layer.temporal:
            models += [self.gtx_temporal[a] for a in range(2 * u) if c == 0 or a < 2 * (bound - 1)]
        n_rem = 31 if layer.profile == 1 else 32
        models += [self.rem[a] for a in range(n_rem) if c == 0 or u - 1 + 2 ** (a + 1) - 1 < bound]
        return models

    def read_selection(self, engine: Engine, layer: LayerShape, hdsp: bool) -> None:
        for model in self.listed(layer, hdsp):
            model.k = 1 + engine.bypass(3) if engine.bin(self.select) else 0
            model.reset()


def by_sign(previous: int) -> int:
    return 0 if previous == 0 else 1 if previous < 0 else 2


def decode_value(
    engine: Engine, models: Models, layer: LayerShape, previous: int, state: int, base: int, history: bool
) -> int:
    """One element as coded (before dependent quantisation)."""
    c, z, u = layer.codebook_size, layer.codebook_zero, layer.unary_length
    if c == 1:
        return 0
    temporal = layer.temporal and base != 0
    if history:
        model = models.sig_history[state]
    elif temporal:
        model = models.sig_temporal[2 * state + (abs(base) > 1)]
    else:
        model = models.sig[3 * state + by_sign(previous)]
    if engine.bin(model) == 0:
        return 0
    if c > 0 and z in (0, c - 1):
        negative = z != 0
    elif temporal:
        negative = engine.bin(models.sign[3 + (base > 0)]) == 1
    else:
        negative = engine.bin(models.sign[by_sign(previous)]) == 1
    bound = math.inf if c == 0 else z if negative else c - 1 - z
    value = 1
    if bound > 1:
        value = decode_magnitude(engine, models, u, bound, negative, base if temporal else None)
    return -value if negative else value


def decode_magnitude(
    engine: Engine, models: Models, unary_length: int, bound: float, negative: bool, base: int | None
) -> int:
    """What follows the sign where the bound is not already reached."""
    value, j = 1, 0
    while True:
        if base is not None:
            model = models.gtx_temporal[2 * j + (0 if abs(base) >= j else 1)]
        else:
            model = models.gtx[2 * j + negative]
        bin_ = engine.bin(model)
        value += bin_
        if not (bin_ == 1 and j + 1 < unary_length and value < bound):
            break
        j += 1
    if bin_ == 1 and value < bound:
        r = j = 0
        while True:
            bin_ = engine.bin(models.rem[j])
            if bin_:
                value += 2**r
                r += 1
            j += 1
            if not (bin_ == 1 and j < 32 and bound >= value + 2**r):
                break
        if r > 31:
            raise DamagedError("escape of more than 31 bits")
        value += engine.bypass(r)
    return value


def read_flags(engine: Engine, models: Models, layer: LayerShape) -> tuple[bool, list[int]]:
    """hdsp_flag, and for each row whether it is skipped."""
    if layer.profile == 0 or layer.width <= 1 or layer.rows <= 1 or layer.codebook_size == 1:
        return False, [0] * layer.rows
    hdsp = layer.parent and engine.bypass() == 1
    if engine.bypass() == 0:
        return hdsp, [0] * layer.rows
    return hdsp, [engine.bin(models.row) for _ in range(layer.rows)]


def decode_layer(engine: Engine, layer: LayerShape) -> Decoded:
    """The levels of one layer. Spec, section 5."""
    levels = [0] * layer.size
    points: list[tuple[int, int, int]] = []
    if layer.size == 0:
        return Decoded(levels, points)
    models = Models(layer.unary_length)
    hdsp, skipped = read_flags(engine, models, layer)
    models.read_selection(engine, layer, hdsp)
    if layer.scan > 0 and (layer.block_rows > 1 or layer.profile == 0):
        engine.restart()
    previous = state = 0
    row_start = engine.pos - 9
    started = False
    for block_row_starts, row, columns in scan_order(layer):
        if block_row_starts and started:
            engine.restart()
            models.reset()
            previous = 0
            points.append((engine.value, state, engine.pos - 9 - row_start))
            row_start = engine.pos - 9
        started = True
        if skipped[row]:
            if layer.dq:
                for _ in range(layer.width):
                    state = NEXT_STATE[state][0]
            continue
        for column in columns:
            at = row * layer.width + column
            base = layer.base[at] if layer.temporal and layer.base is not None else 0
            history = hdsp and layer.history is not None and layer.history[at] == 1
            value = decode_value(engine, models, layer, previous, state, base, history)
            previous = value
            if layer.dq and value:
                levels[at] = 2 * value - (1 if value > 0 else -1) * (state & 1)
            else:
                levels[at] = value
            if layer.dq:
                state = NEXT_STATE[state][value & 1]
    return Decoded(levels, points)
