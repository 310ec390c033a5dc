"""Compile the kernels now and store them in the cache, so that later runs need not wait.

Run it once after installing, or while a container image is built. Set NUMBA_CACHE_DIR to keep the cache elsewhere.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nncjit.cli import text
from nncjit.cli.arguments import add_output, add_threads, show

if TYPE_CHECKING:
    import numpy as np

    from nncjit.calibrate import Statistics

RUNS: tuple[dict[str, Any], ...] = (
    {},
    {"rate_weight": 0.5},
    {"quantizer": "uniform"},
    {"quantizer": "uniform", "rate_weight": 0.5},
    {"quantizer": "codebook", "qp": 8},  # coarse enough for codebooks to pay
    {"bits": 3.0},
    {"scan_order": 4},
    {"quantizer": "lossless"},
)
"""Options that together use every kernel of a normal run."""


@dataclass(frozen=True, slots=True)
class WarmupReport:
    """What was compiled, what was in the cache, and how long it took."""

    seconds: float
    compiled: int
    cached: int
    cache: str | None
    """The folder with the compiled kernels; None where no folder can be written."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    add_threads(parser)
    add_output(parser)


def run(args: Namespace) -> None:
    """Encode and decode a small made-up model in every usual way."""
    import nncjit
    from nncjit.decoder import stream_decoder
    from nncjit.encoder import model_encoder

    start = time.perf_counter()
    stream_decoder.compile_kernels()
    model_encoder.compile_kernels()
    model = _model()
    for options in RUNS:
        nncjit.decode(nncjit.encode(model, threads=args.threads, **options), threads=args.threads)
    nncjit.encode(model, threads=args.threads, calibration=_statistics(model))
    show(args, _report(time.perf_counter() - start), describe)


def describe(report: WarmupReport) -> str:
    """One or two lines."""
    kernels = f"{report.compiled} kernels compiled, {report.cached} were in the cache"
    return f"ready in {text.seconds(report.seconds)}: {kernels}\n{_place(report.cache)}"


def _place(cache: str | None) -> str:
    if cache is None:
        return "no folder can be written, so every new process compiles them again: set NUMBA_CACHE_DIR to one that can"
    return f"kept in {text.printable(cache)}"


def _model() -> dict[str, np.ndarray]:
    """Tensors that together use every usual kernel: a matrix with several block rows, vectors, integers, float16."""
    import numpy as np

    random = np.random.default_rng(0)
    return {
        "matrix": random.standard_normal((256, 96), dtype=np.float32),
        "sparse": random.standard_normal((96, 8, 3, 3)).astype(np.float32) * (random.random((96, 8, 3, 3)) < 0.1),
        "vector": random.standard_normal(64, dtype=np.float32),
        "half": random.standard_normal((16, 64)).astype(np.float16),
        "integers": random.integers(-100, 100, (8, 40)),
        "counter": np.array(7),
    }


def _statistics(model: dict[str, np.ndarray]) -> Statistics:
    """Of a linear layer and a convolution."""
    import numpy as np

    from nncjit.calibrate import Calibration

    random = np.random.default_rng(1)
    calibration = Calibration()
    matrix = calibration.linear("matrix", model["matrix"].shape)
    matrix.add(random.standard_normal((8, 96)), random.standard_normal((8, 256)))
    kernels = calibration.convolution("sparse", model["sparse"].shape)
    kernels.add(random.standard_normal((8, 72)), random.standard_normal((8, 96)))
    calibration.end_samples(1, output_power=1e4)
    return calibration.statistics()


def _report(seconds: float) -> WarmupReport:
    """Numba's own counts of what it compiled and what it found, over all kernels of this package."""
    from nncjit.jit.cache import folder_in_use
    from nncjit.jit.compile import KERNELS

    stats = [kernel.stats for kernel in KERNELS]
    folder = folder_in_use()
    return WarmupReport(
        seconds=seconds,
        compiled=sum(sum(s.cache_misses.values()) for s in stats),
        cached=sum(sum(s.cache_hits.values()) for s in stats),
        cache=None if folder is None else str(folder),
    )
