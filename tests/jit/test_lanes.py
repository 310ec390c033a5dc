"""Lane programs: the machines that write vector IR, scalar IR or run NumPy agree."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.jit import address, kernel
from nncjit.jit.lanes import _NumpyMachine, lane_program

pytestmark = pytest.mark.kernel
ROWS = 3


def everything(m, floats, ints, small, table, out, masks, rows):
    """Uses every operation once, and stores what it gives."""
    last = m.cell(m.number(0.25))
    wheel = [*range(1, 16), 0]

    def step(row):
        x, k = m.load(floats, row), m.load_int(ints, row)
        low = m.load_u8(small, row)
        y = m.absolute(x) * m.repeat(table, 1) + m.spread(table, row, [0, 1] * 8) - 0.5
        low_bits = (low & 7 | 8) ^ 3
        y = m.minimum(y, m.rint(x)) + last.get()
        mask = (x < 0.5) & ~(k < low) | m.mask([True, False] * 8)
        chosen = m.select(mask, m.to_float((k << 1) >> 2), m.gather(table, low_bits))
        y = y + m.load_from(floats, m.times(row, 2, 1))
        last.set(m.shuffle(y, chosen, [lane + 16 * (lane % 2) for lane in wheel]))
        m.store(out, m.times(row, 3), last.get())
        m.store(out, m.times(row, 3, 1), m.select(mask, 1.5, chosen))
        m.store(out, m.times(row, 3, 2), m.to_int(y) + m.constant(3))
        m.store_u8(small, row, low_bits)
        m.store_bits(masks, row, mask)

    m.loop(rows, step)
    m.loop_down(rows, lambda row: last.set(last.get() + m.load(floats, row)))
    m.store_to(out, m.times(rows, 48), last.get())


as_vectors, as_scalars = lane_program(16)(everything), lane_program(16, scalar=True)(everything)


@kernel
def run_vectors(floats, ints, small, table, out, masks, rows):
    as_vectors((floats, ints, small, table, out, masks, rows))


@kernel
def run_scalars(floats, ints, small, table, out, masks, rows):
    as_scalars((floats, ints, small, table, out, masks, rows))


def run_numpy(*addresses_and_rows):
    everything(_NumpyMachine(16), *addresses_and_rows)


def outcome(run):
    rng = np.random.default_rng(3)
    floats = rng.normal(0, 3, 16 * ROWS).astype(np.float32)
    ints = rng.integers(-300, 300, 16 * ROWS).astype(np.int32)
    small = rng.integers(0, 256, 16 * ROWS).astype(np.uint8)
    table = rng.normal(0, 1, 32).astype(np.float32)
    out, masks = np.zeros(16 * (3 * ROWS + 1), np.float32), np.zeros(ROWS, np.uint16)
    arrays = [(floats, False), (ints, False), (small, True), (table, False), (out, True), (masks, True)]
    run(*(address(array, writes=writes) for array, writes in arrays), ROWS)
    return b"".join(array.tobytes() for array, _ in arrays)


@pytest.mark.parametrize("run", [run_vectors, run_scalars], ids=["vectors", "scalars"])
def test_every_machine_gives_the_same(run):
    assert outcome(run) == outcome(run_numpy)
