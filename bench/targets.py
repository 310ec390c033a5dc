"""Measure what nncjit promises about speed and memory, and print the table: ``python bench/targets.py [--only WORD ...]
[--json FILE]``.

Every row has a figure that must be reached and one that is worth reaching for. Ratios are NNCodec's time divided by
ours, measured in this process, so NNCodec has to be installed beside nncjit (``pip install --no-deps nncodec==2.1.3``);
without it those rows are left out. Work of one thread is timed in thread CPU time, work of all threads in wall time;
each figure is the best of several runs, and results are checked against NNCodec's or against what was coded. With
everything it takes some six minutes on two cores, and 5 GB in the temporary folder. Rows of work on all cores tell how
many of them the machine had time for, at the worst moment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import bench_decode
import bench_encode
import bench_quant
import models
import numpy as np
from targets_table import show, table
from timing import RIVAL, best_time, best_wall, cores_at_hand, median_ratio, ratio, rival_time

import nncjit
from nncjit.cabac import lane_choice
from nncjit.decoder.stream_decoder import compile_kernels as compile_decoder
from nncjit.encoder.model_encoder import compile_kernels as compile_encoder
from nncjit.quant.steps import step
from nncjit.report import nncodec_worker
from nncjit.report.memory import in_child

Figures = Iterator[tuple[str, float]]
"""What was measured: the case, and its figure."""

QPS = (-38, -26)
"""Of whole models: NNCodec's default, some 6.4 bits per weight, and some 3.4 bits."""
BLOCK_SCAN = 4
"""scan_order of 64 x 64 blocks."""
PAIRS = 20
"""Of runs from file to file and in memory."""
LARGE = 2 << 30
"""Bytes of the file that memory must not depend on."""
DENSE = [(name, dq) for name, dq in bench_encode.KINDS if name != "sparse"]
FIRST = """
import sys, time
start = time.perf_counter()
import nncjit
with open(sys.argv[1], "rb") as file:
    nncjit.decode(file.read())
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Target:
    """A row of the table."""

    work: str
    must: float
    reach: float
    unit: str
    """"x": a ratio, the more the better; else the less the better."""
    measure: Callable[[], Figures]
    needs_rival: bool = True
    all_cores: bool = False
    """Whether it means little where the machine does not get the time of all its cores."""

    def is_met(self, worst: float, bound: float) -> bool:
        """Whether the worst figure keeps to a bound."""
        return worst >= bound if self.unit == "x" else worst <= bound


# ---- layers, in one thread


def decode_layers(way: str, lanes: bool = False) -> Figures:
    if lanes and not lane_choice.available():
        return
    for name, dq in DENSE:
        one = bench_decode.case(name, dq, way)
        ours = partial(one.decode, lanes=lanes)
        np.testing.assert_array_equal(ours()[0], one.nncodec())
        yield _kind(name, dq), ratio(one.nncodec, ours, 9)


def encode_layers(selection: str, scan: int = 0) -> Figures:
    for name, dq in DENSE:
        levels = bench_encode.levels_of(name, dq, scan)
        ours = partial(bench_encode.ours, levels, dq, selection, scan)
        rival = partial(bench_encode.nncodec, levels, dq, selection != "none", scan)
        if selection == "none":
            assert ours() == rival()
        ours()
        yield _kind(name, dq), ratio(rival, ours, 9)


def encode_block_rows() -> Figures:
    yield from encode_layers("fast", BLOCK_SCAN)


def selection_loss() -> Figures:
    """Percent that the fast choice of starts costs against looking at every bin."""
    for name, dq in DENSE:
        levels = bench_encode.levels_of(name, dq)
        fast, exact = (len(bench_encode.ours(levels, dq, selection)) for selection in ("fast", "exact"))
        yield _kind(name, dq), 100 * (fast / exact - 1)


def quantise(work: bench_quant.Work) -> Figures:
    values = bench_quant.weights()
    for qp in bench_quant.QPS:
        size = float(step(qp, bench_quant.DENSITY))
        work.run(values, size)
        yield f"qp {qp}", _theirs(work, qp)[1] / best_time(partial(work.run, values, size), 9)


def quality(work: bench_quant.Work) -> Figures:
    """Against NNCodec's levels: more error in dB, or, with rate, more squared error and weighted bits in percent."""
    values = bench_quant.weights()
    for qp in bench_quant.QPS:
        size = float(step(qp, bench_quant.DENSITY))
        ours, theirs = work.run(values, size), _theirs(work, qp)[0]
        mine, other = (bench_quant.cost(values, levels, size, work) for levels in (ours, theirs))
        yield f"qp {qp}", 100 * (mine / other - 1) if work.rate_weight else mine - other


@cache
def _theirs(work: bench_quant.Work, qp: int) -> tuple[np.ndarray, float]:
    """NNCodec's levels, and the time that it took for them."""
    found: list[np.ndarray] = []
    seconds = rival_time(lambda: found.append(bench_quant.nncodec(bench_quant.weights(), work, qp)))
    return found[0], seconds


def _work(name: str) -> bench_quant.Work:
    return next(work for work in bench_quant.WORKS if work.name == name)


def _kind(name: str, dq: bool) -> str:
    return f"{name}{', dq' if dq else ''}"


# ---- whole models, on all cores


@cache
def whole_models() -> dict[str, models.Arrays]:
    """Those that can be had here; without integers, which NNCodec cannot code in blocks."""
    found = {"ResNet50 shapes": models.resnet50()}
    if models.minilm_file() is not None:
        found["MiniLM"] = {name: array for name, array in models.minilm().items() if array.dtype.kind == "f"}
    return found


def decode_models() -> Figures:
    for name, arrays in whole_models().items():
        for qp in QPS:
            data, _ = _their_stream(name, qp)
            ours, theirs = nncjit.decode(data), nncodec_worker.decode(data)
            assert all((ours[key] == theirs[key]).all() for key in arrays)
            del ours, theirs
            rival = rival_time(lambda: nncodec_worker.decode(data), time.perf_counter)  # noqa: B023
            yield f"{name}, qp {qp}", rival / best_wall(lambda: nncjit.decode(data), 5)  # noqa: B023


def encode_models() -> Figures:
    for name, arrays in whole_models().items():
        for qp in QPS:
            options: dict[str, Any] = {"qp": qp, "scan_order": BLOCK_SCAN}
            nncjit.encode(arrays, **options)
            _, rival = _their_stream(name, qp)
            yield f"{name}, qp {qp}", rival / best_wall(lambda: nncjit.encode(arrays, **options), 5)  # noqa: B023


@cache
def _their_stream(name: str, qp: int) -> tuple[bytes, float]:
    """NNCodec's stream of a model, and the wall time that it took for it."""
    started = time.perf_counter()
    data = nncodec_worker.encode(whole_models()[name], {"qp": qp, "scan_order": BLOCK_SCAN})
    return data, time.perf_counter() - started


def model_of_vectors() -> Figures:
    """Milliseconds of processor time for each of many vectors that are too short for kernels to matter."""
    random = np.random.default_rng(0)
    vectors = {f"layer{k}.bias": random.standard_normal(16, dtype=np.float32) for k in range(1000)}
    data = nncjit.encode(vectors, threads=1)
    nncjit.decode(data, threads=1)
    yield "encode", best_time(lambda: nncjit.encode(vectors, threads=1), 9)  # of a thousand: so many ms are one's
    yield "decode", best_time(lambda: nncjit.decode(data, threads=1), 9)


# ---- files, memory, first calls


def file_to_file() -> Figures:
    """Times the time in memory: the median of many pairs, since a run of 0.1 s is often disturbed."""
    path = models.minilm_file()
    if path is None:
        return
    arrays = models.minilm()
    with tempfile.TemporaryDirectory() as name:
        stream, back = Path(name) / "model.nnc", Path(name) / "back.safetensors"
        nncjit.compress(path, stream)
        data = stream.read_bytes()
        yield "compress", median_ratio(lambda: nncjit.compress(path, stream), lambda: nncjit.encode(arrays), PAIRS)
        yield "decompress", median_ratio(lambda: nncjit.decompress(stream, back), lambda: nncjit.decode(data), PAIRS)


def memory_of_minilm() -> Figures:
    path = models.minilm_file()
    if path is not None:
        yield from _peak_memory(path)


def memory_of_large() -> Figures:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.safetensors"
        models.write_large(path, LARGE)
        yield from _peak_memory(path)


def _peak_memory(source: Path) -> Figures:
    """Of a process that compresses and of one that decompresses, megabytes."""
    with tempfile.TemporaryDirectory() as name:
        stream, back = Path(name) / "model.nnc", Path(name) / "back.safetensors"
        for verb, args in (("compress", (source, stream)), ("decompress", (stream, back))):
            work = in_child(f"nncjit:{verb}", *map(str, args))
            yield f"{verb}, {work.seconds:.1f} s", work.peak_bytes / 1e6


def help_time() -> Figures:
    yield "", best_wall(partial(_process, "-m", "nncjit", "--help"), 5)


def first_decode(*, cold: bool) -> Figures:
    """Seconds from ``import nncjit`` until a small model is decoded, in a new process."""
    data = nncjit.encode({"w": np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)})
    with tempfile.TemporaryDirectory() as name:
        stream, cache = Path(name) / "model.nnc", Path(name) / "cache"
        stream.write_bytes(data)
        times = []
        for k in range(2 if cold else 5):
            folder = cache / str(k if cold else 0)
            times.append(float(_process("-c", FIRST, str(stream), NUMBA_CACHE_DIR=str(folder))))
        yield "", min(times)


def _process(*args: str, **environment: str) -> str:
    command = [sys.executable, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment).stdout


# ---- the table


TARGETS = (
    Target("decode a layer, one stream", 2, 3, "x", partial(decode_layers, "one stream")),
    Target("decode a layer, block rows (two at a time)", 2, 3, "x", partial(decode_layers, "block rows")),
    Target("decode a layer, block rows (16 lanes)", 6, 10, "x", partial(decode_layers, "block rows", lanes=True)),
    Target("decode a whole model, all cores", 9, 14, "x", decode_models, all_cores=True),
    Target("encode a layer, context initialisation fixed", 2, 3, "x", partial(encode_layers, "none")),
    Target("encode a layer, context initialisation chosen", 8, 12, "x", partial(encode_layers, "fast")),
    Target("encode a layer, block rows, initialisation chosen", 16, 25, "x", encode_block_rows),
    Target("... size beside the exhaustive choice", 0.02, 0.02, "%", selection_loss, needs_rival=False),
    Target("trellis", 20, 35, "x", partial(quantise, _work("trellis"))),
    Target("... error beside the exact trellis", 0.001, 0.001, "dB", partial(quality, _work("trellis"))),
    Target("trellis with rate 0.5", 12, 70, "x", partial(quantise, _work("trellis, rate 0.5"))),
    Target("... cost beside NNCodec's", 0, 0, "%", partial(quality, _work("trellis, rate 0.5"))),
    Target("trellis with rate 1", 12, 70, "x", partial(quantise, _work("trellis, rate 1"))),
    Target("... cost beside NNCodec's", 0, 0, "%", partial(quality, _work("trellis, rate 1"))),
    Target("uniform with rate 0.5", 4, 10, "x", partial(quantise, _work("uniform, rate 0.5"))),
    Target("uniform with rate 1", 4, 10, "x", partial(quantise, _work("uniform, rate 1"))),
    Target("encode a whole model, all cores", 32, 45, "x", encode_models, all_cores=True),
    Target("a model of vectors, encode and decode, for each", 0.15, 0.05, "ms", model_of_vectors, needs_rival=False),
    Target(
        "file to file beside the time in memory", 1.15, 1.15, "times", file_to_file, needs_rival=False, all_cores=True
    ),
    Target("peak memory, MiniLM (91 MB)", 350, 350, "MB", memory_of_minilm, needs_rival=False),
    Target("peak memory, a file of 2 GB", 450, 450, "MB", memory_of_large, needs_rival=False),
    Target("cold start: nncjit --help", 0.25, 0.25, "s", help_time, needs_rival=False),
    Target("first decode, kernels in the cache", 1.0, 0.6, "s", partial(first_decode, cold=False), needs_rival=False),
    Target("first decode, nothing in the cache", 12, 6, "s", partial(first_decode, cold=True), needs_rival=False),
)


def measure(targets: Iterable[Target]) -> list[dict[str, Any]]:
    """The rows, as JSON has them. What is being measured is told on standard error."""
    rows = []
    for target in targets:
        if target.needs_rival and not RIVAL:
            continue
        figures, cores = [], [cores_at_hand()] if target.all_cores else []
        for case, value in target.measure():
            figures.append({"case": case, "value": value})
            print(f"{target.work}: {case}: {show(value, target.unit)}", file=sys.stderr, flush=True)
            cores += [cores_at_hand()] if target.all_cores else []
        if not figures:
            continue
        worst = (min if target.unit == "x" else max)(figure["value"] for figure in figures)
        met = "right" if target.is_met(worst, target.reach) else "middle" if target.is_met(worst, target.must) else ""
        fields = {name: getattr(target, name) for name in ("work", "must", "reach", "unit")}
        rows.append({**fields, "met": met, "figures": figures, **({"cores_at_hand": min(cores)} if cores else {})})
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[""], help="rows with one of these in their names")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures there")
    arguments = parser.parse_args()
    chosen = [target for target in TARGETS if any(word in target.work for word in arguments.only)]
    if not chosen:
        sys.exit(f"targets: no row has any of {', '.join(arguments.only)} in its name")
    if not RIVAL:
        print("NNCodec is not installed here: no ratios", file=sys.stderr)
    compile_decoder()
    compile_encoder()
    rows = measure(chosen)
    print(table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
