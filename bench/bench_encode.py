"""How fast layers are coded, beside NNCodec's coder where it is installed: ``pytest bench/bench_encode.py``.

``python bench/bench_encode.py`` prints one line for each kind of layer: bits per weight, weights per second and the
ratio to NNCodec without and with model selection, and what the selection gives up against looking at all bins. Times
are thread CPU time, best of several runs in one process, so a busy neighbour hardly matters.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from timing import best_time

from nncjit.cabac.encode import PayloadEncoder
from nncjit.cabac.estimate import estimate_bits
from nncjit.cabac.layer import Layer
from nncjit.quant.trellis import trellis

ROWS, WIDTH = 1024, 2048
UNARY_LENGTH = 11
STEPS = {"sparse": 12.0, "1.8 bits": 1.6, "3.3 bits": 0.5, "5.6 bits": 0.1}
"""Steps for weights of Student's t with six degrees of freedom, by what they come to without a trellis."""
KINDS = [(name, dq) for dq in (False, True) for name in STEPS]
RIVAL = importlib.util.find_spec("nncodec") is not None


def levels_of(name: str, dq: bool) -> np.ndarray:
    """int32[ROWS, WIDTH] from a fixed seed."""
    weights = np.random.default_rng(6).standard_t(6, (ROWS, WIDTH)).astype(np.float32)
    if dq:
        return trellis(weights.reshape(-1), np.float32(STEPS[name] / 1.7)).reshape(ROWS, WIDTH)
    return np.rint(weights / STEPS[name]).astype(np.int32)


def ours(levels: np.ndarray, dq: bool, selection: str) -> bytes:
    """The payload of one layer."""
    encoder = PayloadEncoder()
    layer = Layer.of(levels.shape, dq=dq, unary_length=UNARY_LENGTH)
    encoder.layer(levels.reshape(-1), layer, selection=selection, row_skip=False)
    return encoder.finish()


def nncodec(levels: np.ndarray, dq: bool, selection: bool) -> bytes:
    """NNCodec's payload of the same layer."""
    from nncodec.extensions import deepCABAC

    encoder = deepCABAC.Encoder()
    encoder.initCtxModels(UNARY_LENGTH, int(selection))
    no_base, no_history = np.zeros((1, 1), np.int32), np.zeros((1, 1), np.int8)
    scan, profile, parent, row_skip = 0, 1, 0, 0
    off = deepCABAC.HdspMode.AlwaysOff
    encoder.encodeLayer(levels, int(dq), scan, profile, parent, row_skip, no_base, off, no_history, 0, 0)
    return encoder.finish().tobytes()


@pytest.mark.parametrize("selection", ["none", "fast"])
@pytest.mark.parametrize(("name", "dq"), KINDS)
def bench_encode(benchmark, name, dq, selection):
    levels = levels_of(name, dq)
    first = ours(levels, dq, selection)  # compiles; not timed
    benchmark.extra_info["weights"] = levels.size
    assert benchmark(ours, levels, dq, selection) == first
    if RIVAL:
        if selection == "none":
            assert first == nncodec(levels, dq, selection=False)
        taken = best_time(lambda: nncodec(levels, dq, selection == "fast"), 2)
        benchmark.extra_info["ratio"] = taken / best_time(lambda: ours(levels, dq, selection), 5)


@pytest.mark.parametrize(("name", "dq"), KINDS)
def bench_estimate(benchmark, name, dq):
    levels = levels_of(name, dq)
    layer = Layer.of(levels.shape, dq=dq, unary_length=UNARY_LENGTH)
    bits = estimate_bits(levels.reshape(-1), layer, row_skip=False)
    benchmark.extra_info["weights"] = levels.size
    assert benchmark(estimate_bits, levels.reshape(-1), layer, row_skip=False) == bits
    assert bits == pytest.approx(8 * len(ours(levels, dq, "fast")), rel=0.05)


def main() -> None:
    """The table."""
    print(f"{'levels':<14}{'bits':>6}  none: Mw/s  ratio   fast: Mw/s  ratio   fast to exact   to NNCodec's")
    for name, dq in KINDS:
        levels = levels_of(name, dq)
        sizes = {selection: len(ours(levels, dq, selection)) for selection in ("none", "fast", "exact")}
        line = f"{name + (', dq' if dq else ''):<14}{8 * sizes['none'] / levels.size:>6.2f}"
        for selection in ("none", "fast"):
            taken = best_time(lambda: ours(levels, dq, selection), 6)  # noqa: B023
            line += f"{levels.size / taken / 1e6:>12.0f}"
            if RIVAL:
                line += f"{best_time(lambda: nncodec(levels, dq, selection == 'fast'), 2) / taken:>8.2f}"  # noqa: B023
        line += f"{100 * (sizes['fast'] / sizes['exact'] - 1):>+14.4f} %"
        if RIVAL:
            line += f"{100 * (sizes['fast'] / len(nncodec(levels, dq, selection=True)) - 1):>+12.4f} %"
        print(line)


if __name__ == "__main__":
    main()
