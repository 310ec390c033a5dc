"""How fast whole models and streams are: reading and writing their units, coding them in memory and in files.

``pytest bench/bench_codec.py``. The model has a few matrices of a quarter million weights and two hundred vectors, as
networks with batch norm have.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from safetensors.numpy import save_file

import nncjit
from nncjit.syntax import read_units

Measured = Callable[..., Any]
MATRICES, VECTORS = 4, 200


@cache
def model() -> dict[str, np.ndarray]:
    """1.05 million weights in matrices, 51 thousand in vectors."""
    random = np.random.default_rng(3)
    found = {f"layer{k}.weight": np.roll(cases.weights(), k)[:256] for k in range(MATRICES)}
    found |= {f"norm{k}.weight": (1 + 0.2 * random.standard_normal(256)).astype(np.float32) for k in range(VECTORS)}
    return found


SIZE = (MATRICES * 256 * cases.SHAPE[1]) + VECTORS * 256


@cache
def stream(**options: Any) -> bytes:
    return nncjit.encode(model(), **options)


OPTIONS: tuple[dict[str, Any], ...] = ({}, {"quantizer": "uniform"}, {"rate_weight": 0.5}, {"bits": 3.0})
"""The default, without trellis, with rate, and to a target."""


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ", ".join(f"{k} {v}" for k, v in o.items()) or "default")
def bench_encode_model(measured: Measured, options: dict[str, Any], threads: int | None) -> None:
    data = stream(**options)

    def check(found: bytes) -> None:
        assert found == data

    encode = partial(nncjit.encode, model(), threads=threads, **options)
    measured(encode, weights=SIZE, check=check, threads=threads, bits_per_weight=8 * len(data) / SIZE)


def bench_decode_model(measured: Measured, threads: int | None) -> None:
    expected = nncjit.decode(stream())

    def check(found: dict[str, np.ndarray]) -> None:
        assert all((found[name] == array).all() for name, array in expected.items())

    measured(partial(nncjit.decode, stream(), threads=threads), weights=SIZE, check=check, threads=threads)


def bench_read_units(measured: Measured) -> None:
    def check(found: list[Any]) -> None:
        assert len(found) > len(model())

    measured(lambda: list(read_units(stream())), weights=SIZE, check=check)


def bench_inspect(measured: Measured) -> None:
    def check(found: Any) -> None:
        assert len(found.tensors) == len(model())

    measured(partial(nncjit.inspect, stream()), weights=SIZE, check=check)


@pytest.mark.parametrize("verb", ["compress", "decompress"])
def bench_files(measured: Measured, tmp_path: Path, verb: str, threads: int | None) -> None:
    there, back = tmp_path / "model.safetensors", tmp_path / "back.safetensors"
    save_file(model(), there)
    small = tmp_path / "model.nnc"
    nncjit.compress(there, small)

    def check(report: Any) -> None:
        assert report.compressed_bytes == len(small.read_bytes())

    source, target = (there, tmp_path / "again.nnc") if verb == "compress" else (small, back)
    run = partial(getattr(nncjit, verb), source, target, threads=threads)
    measured(run, weights=SIZE, check=check, threads=threads)
