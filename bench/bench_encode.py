"""How fast layers are coded, beside NNCodec's coder where it is installed: ``pytest bench/bench_encode.py``.

``python bench/bench_encode.py`` prints one line for each kind of layer: bits per weight, weights per second and the
ratio to NNCodec without and with chosen context initialisations, and what choosing from a sample gives up against
looking at all bins. Times are thread CPU time, best of several runs in one process, so a busy neighbour hardly matters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from timing import RIVAL, best_time, ratio

from nncjit.cabac.binarisation_kernels import binarise
from nncjit.cabac.encoder_input import prepare
from nncjit.cabac.encoder_records import BYPASS, ROW_CODES
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan, to_scan
from nncjit.cabac.size_estimate import estimate_bits
from nncjit.jit.threads import pool
from nncjit.quant.trellis import trellis

ROWS, WIDTH = 1024, 2048
UNARY_LENGTH = 11
STEPS = {"sparse": 12.0, "1.8 bits": 1.6, "3.3 bits": 0.5, "5.6 bits": 0.1}
"""Steps for weights of Student's t with six degrees of freedom, by what they come to without a trellis."""
KINDS = [(name, dq) for dq in (False, True) for name in STEPS]
IDS = [f"{name}, trellis" if dq else name for name, dq in KINDS]


def levels_of(name: str, dq: bool, scan: int = 0) -> np.ndarray:
    """int32[ROWS, WIDTH] from a fixed seed, quantised in the order of the scan."""
    weights = np.random.default_rng(6).standard_t(6, (ROWS, WIDTH)).astype(np.float32)
    if dq:
        layer = Layer.of(weights.shape, scan=scan)
        levels = trellis(to_scan(weights, layer), np.float32(STEPS[name] / 1.7))
        return from_scan(levels, layer).reshape(weights.shape)
    return np.rint(weights / STEPS[name]).astype(np.int32)


def layer_of(levels: np.ndarray, dq: bool, scan: int = 0) -> Layer:
    """How they are coded."""
    return Layer.of(levels.shape, dq=dq, unary_length=UNARY_LENGTH, scan=scan)


def ours(levels: np.ndarray, dq: bool, selection: str, scan: int = 0) -> bytes:
    """The payload of one layer. `levels` in raster order, with a trellis those of the scan."""
    layer = layer_of(levels, dq, scan)
    encoder = PayloadEncoder()
    encoder.layer(to_scan(levels, layer), layer, selection=selection, row_skip=False)
    return encoder.finish()


def nncodec(levels: np.ndarray, dq: bool, selection: bool, scan: int = 0) -> bytes:
    """NNCodec's payload of the same layer."""
    from nncodec.extensions import deepCABAC

    encoder = deepCABAC.Encoder()
    encoder.initCtxModels(UNARY_LENGTH, int(selection))
    no_base, no_history = np.zeros((1, 1), np.int32), np.zeros((1, 1), np.int8)
    profile, parent, row_skip = 1, 0, 0
    off = deepCABAC.HdspMode.AlwaysOff
    encoder.encodeLayer(levels, int(dq), scan, profile, parent, row_skip, no_base, off, no_history, 0, 0)
    return encoder.finish().tobytes()


def count_bins(levels: np.ndarray, layer: Layer) -> int:
    """How many bins the levels have, bypass bins not counted."""
    binariser = prepare(levels.reshape(-1), layer, None, None, False, None).binariser()
    chunk = int(binariser.records["chunk"][0])
    codes = np.zeros(chunk * (layer.unary_length + 37) + 2 * ROW_CODES, np.uint16)
    binariser.records["codes"] = binariser.keep(codes, writes=True)
    bins = 0
    for start in range(0, levels.size, chunk):
        found = codes[: binarise(binariser.address, start, min(start + chunk, levels.size))]
        single = found < BYPASS
        zeros = np.flatnonzero(found >> 11 == BYPASS >> 11)  # the code after such a one is their number
        single[zeros + 1] = False
        bins += int(single.sum()) + int(found[zeros + 1].sum())
    return bins


@pytest.mark.parametrize("selection", ["none", "fast"])
@pytest.mark.parametrize(("name", "dq"), KINDS, ids=IDS)
def bench_encode(measured, benchmark, name, dq, selection):
    levels = levels_of(name, dq)
    first = ours(levels, dq, selection)
    facts = {"bins": count_bins(levels, layer_of(levels, dq)), "bits_per_weight": 8 * len(first) / levels.size}
    measured(ours, levels, dq, selection, weights=levels.size, check=same_as(first), **facts)
    if RIVAL:
        if selection == "none":
            assert first == nncodec(levels, dq, selection=False)
        theirs = partial(nncodec, levels, dq, selection == "fast")
        benchmark.extra_info["ratio"] = ratio(theirs, partial(ours, levels, dq, selection))


@pytest.mark.parametrize(("name", "dq"), KINDS, ids=IDS)
def bench_encode_block_rows(measured, name, dq, threads):
    levels = levels_of(name, dq)
    layer = layer_of(levels, dq)._replace(scan=4)
    first = in_block_rows(levels, layer, 1)
    measured(in_block_rows, levels, layer, threads, weights=levels.size, check=same_as(first), threads=threads)


def in_block_rows(levels: np.ndarray, layer: Layer, threads: int | None) -> bytes:
    """The payload of a layer in blocks of 64 x 64, its rows of blocks spread over threads."""
    encoder = PayloadEncoder()
    with pool(threads) as workers:
        encoder.layer(levels.reshape(-1), layer, row_skip=False, workers=workers)
    return encoder.finish()


@pytest.mark.parametrize(("name", "dq"), KINDS, ids=IDS)
def bench_estimate(measured, name, dq):
    levels = levels_of(name, dq)
    coded = 8 * len(ours(levels, dq, "fast"))

    def check(bits: float) -> None:
        assert bits == pytest.approx(coded, rel=0.05)

    estimate = partial(estimate_bits, levels.reshape(-1), layer_of(levels, dq), row_skip=False)
    measured(estimate, weights=levels.size, check=check)


def same_as(first: bytes) -> Callable[[bytes], None]:
    """A check that bytes have not changed."""

    def check(found: bytes) -> None:
        assert found == first

    return check


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
