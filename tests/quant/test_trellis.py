"""The trellis without rate: exact decisions, valid paths, and what chunks cost."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import nncjit
from nncjit.errors import OptionError
from nncjit.jit import JIT, address
from nncjit.quant import trellis_kernels, trellis_lanes_kernels
from nncjit.quant.steps import step
from nncjit.quant.trellis import chunk_table, trellis, trellis_rd
from nncjit.quant.trellis_chunks import FEWEST, LANES, Chunks
from nncjit.quant.uniform import uniform
from quant.oracle import best_path_error, case, cases, coded_values, squared_error, weights

pytestmark = pytest.mark.kernel
only_compiled = pytest.mark.skipif(not JIT, reason="takes minutes as plain Python")


@pytest.mark.parametrize("path", cases(dependent=True, rated=False), ids=lambda path: path.stem)
def test_vectors_without_rate_have_these_levels(path):
    meta, values, levels, _ = case(path)
    n = values.size if JIT else 400
    found = trellis(values[:n], step(meta["qp"], meta["qp_density"]), exact=True)
    # a path that ends early may end otherwise
    assert (found == levels[:n])[: n if JIT else n - 100].all()


@given(arrays(np.float32, st.integers(0, 12), elements=st.floats(-40, 40, width=32)), st.integers(-8, 8))
def test_exact_levels_are_the_best_of_all_paths(values, qp):
    size = step(qp, 2)
    levels = trellis(values, size, exact=True)
    assert coded_values(levels) is not None
    best = best_path_error(values.astype(np.float64) / float(size))
    assert squared_error(values, levels, size) == pytest.approx(best, abs=1e-9)


@given(arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_any_numbers_give_a_path_in_range(values):
    levels = trellis(values, 1.0, exact=True)
    coded = coded_values(levels)
    assert coded is not None
    assert max(map(abs, coded), default=0) < 2**30
    assert (levels[np.isnan(values)] <= 2).all()


@only_compiled
@pytest.mark.parametrize("qp", [-10, -20, -28, -38])
@pytest.mark.parametrize("n", [FEWEST, 20_000, 250_001])
def test_chunks_cost_less_than_a_thousandth_of_a_decibel(n, qp):
    values, size = weights(n, seed=n), step(qp, 2)
    levels, exact = trellis(values, size), trellis(values, size, exact=True)
    assert coded_values(levels) is not None
    errors = squared_error(values, levels, size), squared_error(values, exact, size)
    assert 10 * np.log10(errors[0] / errors[1]) < 0.001


@only_compiled
@pytest.mark.parametrize("share", [0.5, 0.95, 0.995])
def test_sparse_values_lose_no_more(share):
    values, size = weights(50_000), 0.01
    values[np.random.default_rng(1).random(values.size) < share] = 0
    levels, exact = trellis(values, size), trellis(values, size, exact=True)
    errors = squared_error(values, levels, size), squared_error(values, exact, size)
    assert 10 * np.log10(errors[0] / errors[1]) < 0.001


@only_compiled
def test_workers_change_nothing():
    values = weights(400_000)
    with ThreadPoolExecutor(3) as pool:
        assert (trellis(values, 0.01, workers=pool) == trellis(values, 0.01)).all()


@pytest.mark.parametrize("size", [0.0, -1.0, np.inf, np.nan, 2.0**-130])
def test_steps_without_an_inverse_are_refused(size):
    for quantise in (trellis, uniform):
        with pytest.raises(OptionError, match="step is"):
            quantise(np.ones(3, np.float32), size)


def test_inputs_may_be_read_only():
    values = weights(200 if JIT else 20)
    fixed = values.copy()
    fixed.flags.writeable = False
    assert (trellis(fixed, 0.01) == trellis(values, 0.01)).all()
    assert (trellis_rd(fixed, 0.01, 1.0) == trellis_rd(values, 0.01, 1.0)).all()


@only_compiled
@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e30])
def test_odd_numbers_in_a_large_tensor_leave_a_path(odd):
    values = weights(FEWEST + 5)
    values[[7, 5000]] = odd
    assert coded_values(trellis(values, 0.01)) is not None
    assert coded_values(trellis_rd(values, 0.01, 1.0)) is not None


def test_a_block_in_lanes_is_a_path_between_its_states():
    length, window = 24, 12
    chunks = Chunks(length, window, task=0, blocks_end=0)
    values = weights(2 * LANES * length + 3, spread=2.0)
    levels, again = np.zeros(values.size, np.int32), np.zeros(values.size, np.int32)
    table = chunk_table(values, 1.0, levels, chunks)
    scratch = np.zeros(trellis_lanes_kernels.scratch_size(chunks.depth), np.uint8)
    memory = address(scratch, writes=True)
    end = trellis_lanes_kernels.quantise_blocks(table.address, memory, 0, 2, 0)
    tail = slice(2 * LANES * length, None)
    last, last_levels = values[tail], levels[tail]
    trellis_kernels.quantise(address(last), last.size, 1.0, end, -1, address(last_levels, writes=True))
    assert coded_values(levels) is not None
    assert squared_error(values, levels, 1.0) < 1.25 * best_path_error(values.astype(np.float64))
    # a worker that begins with the second block takes up the same path
    second = slice(LANES * length, tail.start)
    table = chunk_table(values, 1.0, again, chunks)
    trellis_lanes_kernels.quantise_blocks(table.address, memory, second.start, 1, -1)
    assert (again[second] == levels[second]).all()


GENERIC = """
import numpy as np
from nncjit.quant.moments import moments, products
from nncjit.quant.trellis import trellis, trellis_rd
from nncjit.quant.uniform import uniform_rd
values = (np.random.default_rng(5).standard_t(6, 20_000) * 0.05).astype(np.float32)
found = [trellis(values, 0.01), trellis_rd(values, 0.01, 1.0), uniform_rd(values, 0.02, 1.0)]
print(*(int(levels.astype(np.int64) @ np.arange(1, levels.size + 1)) for levels in found))
print(*(x.hex() for x in (moments(values[3:]).power, *products(values[3:], found[2][3:]))))
"""


@only_compiled
@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        {"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": ""},
        {"NNCJIT_SCALAR": "1"},
    ],
    ids=["generic", "without-avx", "scalar"],
)
def test_other_machines_decide_alike(environment, tmp_path):
    def run(**changes):
        places = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(nncjit.__file__).parent.parent)}
        command = [sys.executable, "-c", GENERIC]
        done = subprocess.run(command, env=os.environ | places | changes, capture_output=True, text=True, check=True)
        return done.stdout.split()

    here, there = run(), run(**environment)
    # without vectors the trellis without rate is the exact one
    first = 1 if "NNCJIT_SCALAR" in environment else 0
    assert there[first:] == here[first:]
