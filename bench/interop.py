"""Do nncjit and NNCodec read each other's streams exactly? ``python bench/interop.py [model ...] [--rival PYTHON]``.

NNCodec is looked for in this interpreter, or in the one given by ``--rival``: an environment of its own with
``pip install numpy && pip install --no-deps nncodec``. Each model is encoded by one side and decoded by both; names,
order, shapes and every bit of every value must agree. Exit code 0: all agree, or there is no NNCodec to ask;
1: something differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nncjit
from nncjit.report.nncodec_worker import load, save

WORKER = Path(__file__).with_name("nncodec_once.py")
Arrays = dict[str, np.ndarray]


class Rival:
    """NNCodec in a process of its own for each call: it does not survive all streams."""

    def __init__(self, python: str, folder: Path) -> None:
        self.python, self.folder = python, folder

    @staticmethod
    def find(python: str | None) -> str | None:
        """The interpreter that has NNCodec, None where there is none."""
        if python is None:
            return sys.executable if importlib.util.find_spec("nncodec") else None
        try:
            done = subprocess.run([python, "-c", "import nncodec.nnc_core"], capture_output=True, check=False)
        except OSError:
            return None
        return python if done.returncode == 0 else None

    def _run(self, verb: str, source: Path, target: Path, options: dict[str, Any]) -> None:
        command = [self.python, str(WORKER), verb, str(source), str(target), json.dumps(options)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"died with code {done.returncode}"]
            raise RuntimeError(f"NNCodec cannot {verb} it: {lines[-1]}")

    def encode(self, arrays: Arrays, options: dict[str, Any]) -> bytes:
        source, target = self.folder / "in.npz", self.folder / "out.nnc"
        save(source, arrays)
        self._run("encode", source, target, options)
        return target.read_bytes()

    def decode(self, data: bytes) -> Arrays:
        source, target = self.folder / "in.nnc", self.folder / "out.npz"
        source.write_bytes(data)
        self._run("decode", source, target, {})
        return load(target)


class Row(NamedTuple):
    """One line of the table."""

    writer: str
    model: str
    options: dict[str, Any]
    size: int
    fault: str


# ---- models


def network() -> Arrays:
    """A small convolutional network with batch norm, the kinds of layers that a checkpoint has."""
    rng = np.random.default_rng(1)

    def layer(*shape: int) -> np.ndarray:
        return (rng.standard_t(5, shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    return {
        "conv1.weight": layer(32, 3, 3, 3),
        "conv1.bias": layer(32, 1).ravel(),
        "bn1.weight": 1 + layer(32, 9).mean(1),
        "bn1.bias": layer(32, 9).mean(1),
        "bn1.running_mean": layer(32, 9).mean(1),
        "bn1.running_var": np.abs(layer(32, 9).mean(1)) + np.float32(0.5),
        "bn1.num_batches_tracked": np.array(1200, np.int32),
        "conv2.weight": layer(64, 32, 3, 3),
        "fc.weight": layer(200, 576),
        "fc.bias": layer(200, 1).ravel(),
        "embedding.weight": layer(1000, 48),
    }


def odd() -> Arrays:
    """Shapes and values at the edges."""
    rng = np.random.default_rng(2)
    sparse = rng.standard_normal((150, 70)).astype(np.float32)
    sparse[rng.random(150) < 0.6] = 0
    return {
        "scalar": np.array(0.7, np.float32),
        "one": np.array([3.0], np.float32),
        "column": rng.standard_normal((100, 1)).astype(np.float32),
        "row": rng.standard_normal((1, 100)).astype(np.float32),
        "zeros": np.zeros((70, 66), np.float32),
        "rows of zeros": sparse,
        "constant": np.full((40, 8), 0.25, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "nan": np.array([1.0, np.nan, -np.inf], np.float32),
        "huge": (rng.standard_normal((9, 9)) * 1e30).astype(np.float32),
        "tiny": (rng.standard_normal((9, 9)) * 1e-30).astype(np.float32),
        "outlier": np.concatenate([rng.standard_normal(5000) * 1e-3, [100.0]]).astype(np.float32),
        "überschicht/重み:0": rng.standard_normal((5, 6)).astype(np.float32),
        "int32": rng.integers(-(2**29), 2**29, (7, 5), np.int32),
        "bits": rng.integers(0, 2, (30, 40), np.int32),
        "float16": rng.standard_normal((20, 30)).astype(np.float16),
        "float64": rng.standard_normal((20, 30)),
        "uint8": rng.integers(0, 256, (20, 30), np.uint8),
        "bool": rng.random((20, 30)) < 0.3,
        "int64": rng.integers(-1000, 1000, (20, 30)),
        "nine dimensions": rng.standard_normal((1, 2, 1, 2, 1, 3, 1, 2, 2)).astype(np.float32),
    }


def ours() -> Iterator[tuple[str, Arrays, dict[str, Any]]]:
    """(model, arrays, options) that nncjit writes."""
    for options in (
        {},
        {"qp": -28},
        {"bits": 3.0},
        {"snr": 25.0},
        {"quantizer": "uniform"},
        {"quantizer": "codebook", "qp": -8},
        {"quantizer": "auto", "qp": -12},
        {"rate_weight": 0.5, "qp": -20},
        {"scan_order": 0},
        {"scan_order": 1},
        {"scan_order": 4},
        {"unary_length": 1},
        {"unary_length": 40},
        {"selection": "exact"},
        {"selection": "reference"},
        {"selection": "none"},
        {"qp_density": 4, "qp": -60},
        {"rules": {".*bias": "raw"}},
        {"threads": 2},
    ):
        yield "network", network(), options
    for options in ({}, {"qp": -20}, {"quantizer": "uniform", "scan_order": 2}):
        yield "odd", odd(), options


def theirs() -> Iterator[tuple[str, Arrays, dict[str, Any]]]:
    """(model, arrays, options) that NNCodec writes; it takes no scalars and only some dtypes."""
    plain = {name: array for name, array in network().items() if array.ndim}
    edge = {
        name: array
        for name, array in odd().items()
        if array.ndim and array.size and array.dtype in (np.float32, np.int32) and np.isfinite(array).all()
    }
    for options in (
        {},
        {"qp": -20},
        {"dq": False},
        {"scan_order": 1},
        {"scan_order": 4},
        {"param_opt": False},
        {"row_skip": False},
        {"lambda_scale": 0.5, "qp": -20},
        {"codebook_mode": 1, "qp": -12},
        {"unary_length": 1},
        {"unary_length": 30},
        {"qp_density": 4, "qp": -60},
    ):
        yield "network", plain, options
        if not {"codebook_mode", "scan_order"} & set(options):  # it fails on matrices of width 1 with a block scan
            yield "odd", edge, options


# ---- comparison


def fault(ours: Arrays, rival: Arrays) -> str:
    """What differs, in a few words. NNCodec gives float32 and int32 (float64 for codebooks), so its arrays are cast."""
    firsts = {id(array): name for name, array in reversed(ours.items())}
    untied = {name: array for name, array in ours.items() if firsts[id(array)] == name}
    if list(untied) != list(rival):
        return f"names differ: {sorted(set(untied) ^ set(rival))[:3] or 'order'}"
    for name, array in untied.items():
        if array.shape != rival[name].shape:
            return f"{name}: shape {array.shape} and {rival[name].shape}"
        other = rival[name].astype(array.dtype)
        if array.tobytes() != other.tobytes():
            return f"{name}: {int((array != other).sum())} of {array.size} values differ"
    return ""


def compare(rival: Rival, given: list[str]) -> Iterator[Row]:
    """All comparisons, one row each."""
    for model, arrays, options in ours():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", nncjit.NncWarning)
                data = nncjit.encode(arrays, **options)
        except nncjit.NncError as error:
            yield Row("nncjit", model, options, 0, f"nncjit cannot encode it: {error}")
        else:
            yield Row("nncjit", model, options, len(data), both(rival, data))
    for path in given:
        target = rival.folder / "given.nnc"
        nncjit.compress(path, target)
        data = target.read_bytes()
        yield Row("nncjit", Path(path).name, {}, len(data), both(rival, data))
    for model, arrays, options in theirs():
        try:
            data = rival.encode(arrays, options)
        except RuntimeError as error:
            yield Row("NNCodec", model, options, 0, str(error))
        else:
            yield Row("NNCodec", model, options, len(data), both(rival, data))


def both(rival: Rival, data: bytes) -> str:
    """What differs between the two readers of a stream, or the reason why one of them refuses it."""
    try:
        return fault(nncjit.decode(data), rival.decode(data))
    except (RuntimeError, nncjit.NncError) as error:
        return str(error)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", help="model files to compare on too, in any format that nncjit reads")
    parser.add_argument("--rival", metavar="PYTHON", help="an interpreter that has NNCodec")
    args = parser.parse_args(arguments)
    python = Rival.find(args.rival)
    if python is None:
        print(f"interop: no NNCodec in {args.rival or 'this interpreter'}, nothing compared")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for row in compare(Rival(python, Path(folder)), args.model):
            options = " ".join(f"{name}={value}" for name, value in row.options.items()) or "defaults"
            print(f"{row.writer:8}{row.model:24}{options:34}{row.size:>10}  {row.fault or 'equal'}", flush=True)
            rows.append(row)
    bad = sum(bool(row.fault) for row in rows)
    print(f"{len(rows) - bad} of {len(rows)} streams decode to the same tensors on both sides")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
