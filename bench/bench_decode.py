"""How fast layers are decoded, beside NNCodec's coder where it is installed: ``pytest bench/bench_decode.py``.

``python bench/bench_decode.py`` prints one line for each kind of layer: bits per weight, weights per second in one
thread and the ratio to NNCodec, without block rows (one stream), with them (two streams at a time), and with contexts
from an earlier update. Times are thread CPU time, best of several runs in one process. ``python bench/bench_decode.py
threads`` prints how one large tensor and many small ones scale with threads, in wall time. ``python
bench/bench_decode.py lanes`` prints block rows in lanes beside two streams at a time, where lanes can be compiled.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from bench_encode import IDS, KINDS, UNARY_LENGTH, count_bins, levels_of
from timing import RIVAL, best_time, best_wall, clock, ratio

from nncjit.cabac.entry_points import as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan
from nncjit.jit.threads import count

WAYS = ("one stream", "block rows", "temporal", "history")


class Case(NamedTuple):
    """A layer to decode, with all that its contexts need, and what must come out."""

    layer: Layer
    payload: np.ndarray
    points: np.ndarray
    base: np.ndarray
    history: np.ndarray
    levels: np.ndarray
    way: str

    def decode(self, copies: int = 1, threads: int = 1, lanes: bool | None = False) -> list[np.ndarray]:
        """Decode it as so many layers of a model; in lanes if wanted, or by default one or two streams at a time."""
        outs = [np.empty(self.layer.size, np.int32) for _ in range(copies)]
        jobs = [LayerJob(self.layer, out, points=self.points, base=self.base, history=self.history) for out in outs]
        decode_payloads([PayloadJob(self.payload, (job,)) for job in jobs], threads, lanes=lanes)
        return outs

    def nncodec(self) -> np.ndarray:
        """NNCodec's levels."""
        from nncodec.extensions import deepCABAC

        out, layer, mode = np.zeros((self.layer.rows, self.layer.width), np.int32), self.layer, deepCABAC.HdspMode
        hdsp = mode.TensorOn if self.way == "history" else mode.AlwaysOff
        history = self.history if self.way == "history" else np.zeros(0, np.int8)
        decoder = deepCABAC.Decoder()
        decoder.setStream(self.payload)
        decoder.initCtxModels(UNARY_LENGTH)
        if len(self.points):
            value, state, offset = self.points.T
            decoder.setEntryPoints((offset << 11 | value << 3 | state).astype(np.uint64))
        how = (layer.dq, layer.scan, layer.profile, layer.parent, hdsp, history, 0, 0)
        if self.way == "temporal":
            decoder.decodeLayer2(out, self.base.reshape(out.shape), *how)
        else:
            decoder.decodeLayer(out, *how)
        decoder.finish()
        return out.reshape(-1)


def case(name: str, dq: bool, way: str, rows: int | None = None) -> Case:
    """A layer of `bench_encode`, or its first rows, coded in one of the WAYS."""
    levels, rng = levels_of(name, dq)[:rows], np.random.default_rng(8)
    layer = Layer.of(
        levels.shape,
        dq=dq,
        unary_length=UNARY_LENGTH,
        scan=4 if way == "block rows" else 0,
        parent=way in ("temporal", "history"),
        temporal=way == "temporal",
    )
    base = np.rint(rng.normal(0, 1, levels.size)).astype(np.int32)
    history = rng.integers(0, 2, levels.size).astype(np.int8)
    flat, encoder = levels.reshape(-1), PayloadEncoder()
    hdsp = way == "history"
    encoder.layer(flat, layer, base=base if layer.temporal else None, history=history if hdsp else None, hdsp=hdsp)
    payload = np.frombuffer(encoder.finish(), np.uint8)
    return Case(layer, payload, as_array(encoder.entry_points[0]), base, history, from_scan(flat, layer), way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "dq"), KINDS, ids=IDS)
def bench_decode(measured, benchmark, name, dq, way):
    one = case(name, dq, way, rows=256)

    def check(found: list[np.ndarray]) -> None:
        np.testing.assert_array_equal(found[0], one.levels)

    facts = {"bits_per_weight": 8 * one.payload.size / one.layer.size}
    if way in ("one stream", "block rows"):
        facts["bins"] = count_bins(levels_of(name, dq)[:256], one.layer)
    measured(one.decode, weights=one.layer.size, check=check, **facts)
    if RIVAL:
        np.testing.assert_array_equal(one.nncodec(), one.levels)
        benchmark.extra_info["ratio"] = ratio(one.nncodec, one.decode)


@pytest.mark.parametrize("copies", [1, 64], ids=["one large", "64 small"])
def bench_decode_threads(measured, copies, threads):
    large = copies == 1
    one = case("1.8 bits", dq=True, way="block rows" if large else "one stream", rows=None if large else 32)

    def check(found: list[np.ndarray]) -> None:
        assert all((levels == one.levels).all() for levels in found)

    measured(one.decode, copies, count(threads), weights=copies * one.layer.size, check=check, threads=threads)


def table() -> None:
    """Each kind of layer in one thread."""
    print(f"{'levels':<14}{'bits':>6}" + "".join(f"{way + ': Mw/s':>18}{'ratio':>7}" for way in WAYS))
    for name, dq in KINDS:
        line = ""
        for way in WAYS:
            one = case(name, dq, way)
            assert (one.decode()[0] == one.levels).all()
            taken = best_time(one.decode, 6)
            times = f"{best_time(one.nncodec, 3) / taken:.2f}" if RIVAL else "-"
            line = line or f"{name + (', dq' if dq else ''):<14}{8 * one.payload.size / one.layer.size:>6.2f}"
            line += f"{one.layer.size / taken / 1e6:>18.0f}{times:>7}"
        print(line, flush=True)


def lanes() -> None:
    """Block rows in lanes and two streams at a time, alternating, in one thread; cycles of a bin in lanes."""
    cycles = clock()
    print(f"{'levels':<16}{'bits':>6}{'pairs: Mw/s':>14}{'lanes: Mw/s':>14}{'gain':>7}{'cycles a bin':>14}")
    for name, dq in KINDS:
        one = case(name, dq, "block rows")
        assert (one.decode(lanes=True)[0] == one.levels).all()
        bins = count_bins(levels_of(name, dq), one.layer)
        times = [[best_time(lambda: one.decode(lanes=wanted), 2) for wanted in (False, True)] for _ in range(6)]  # noqa: B023
        pairs, taken = (min(column) for column in zip(*times, strict=True))
        line = f"{name + (', dq' if dq else ''):<16}{8 * one.payload.size / one.layer.size:>6.2f}"
        speeds = f"{one.layer.size / pairs / 1e6:>14.0f}{one.layer.size / taken / 1e6:>14.0f}{pairs / taken:>7.2f}"
        print(f"{line}{speeds}{taken * cycles / bins:>14.1f}", flush=True)


def scaling() -> dict[str, Any]:
    """How one large tensor and many small ones scale with threads: millions of weights a second, by threads."""
    large, small = case("1.8 bits", dq=True, way="block rows"), case("1.8 bits", dq=True, way="one stream", rows=32)
    found: dict[str, list[float]] = {"one tensor of 2 M weights": [], "64 tensors of 64 k weights": []}
    for threads in range(1, count() + 1):
        for speeds, one, copies in zip(found.values(), (large, small), (1, 64), strict=True):
            wall = best_wall(lambda: one.decode(copies, threads), 15)  # noqa: B023
            speeds.append(copies * one.layer.size / wall / 1e6)
    return {"cores": count(), "speeds": found}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["kinds", "lanes", "threads"], default="kinds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="with threads: keep the figures there")
    arguments = parser.parse_args()
    if arguments.what == "kinds":
        table()
        return
    if arguments.what == "lanes":
        lanes()
        return
    found = scaling()
    for name, speeds in found["speeds"].items():
        print(f"{name}: {', '.join(f'{speed:.0f}' for speed in speeds)} Mweights/s with 1 to {found['cores']} threads")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
