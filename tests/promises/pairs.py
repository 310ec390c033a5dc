"""Random models and options, and what must hold for every pair: a program and a source of cases for tests.

``python tests/promises/pairs.py --seed 1 --count 10000`` tries so many pairs and prints what failed. What must hold:

* encoding and decoding give a result or one of this package's errors that names an option;
* names, shapes and dtypes come back; integers and what is raw come back bit for bit;
* nothing grows: the stream is not larger than the tensors' own bytes and their headers;
* nothing is ruined: no tensor is further from its values than zeros are; vectors that keep default steps are exact to
  1 % of their largest value and, where all values have one sign, of each value;
* a target is met within 1 %, or a warning says what was reached.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

import nncjit
from nncjit.quant import steps

HEADER_BYTES = 160
"""Of a unit, with a name of a dozen letters; and of the stream's own units, four times as much."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pair:
    """A model, and how it is to be encoded."""

    arrays: Arrays
    options: dict[str, Any]

    def __str__(self) -> str:
        shapes = {name: f"{a.dtype}{list(a.shape)}" for name, a in self.arrays.items()}
        return f"{shapes} {self.options}"


def any_values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float64 values as networks have them, and worse."""
    normal = rng.standard_normal(shape)
    outlier, broken = 0.02 * normal, normal.copy()
    outlier.reshape(-1)[: outlier.size // 500 + 1] = 60
    broken.reshape(-1)[:1] = rng.choice([np.nan, np.inf])
    rows = (shape[0], *[1] * (len(shape) - 1)) if shape else ()
    kinds = [
        normal * np.exp(rng.normal(0, 4, shape)),
        np.abs(normal) * np.exp(rng.normal(0, 3, shape)),
        normal + 10.0 ** rng.uniform(-2, 4),
        outlier,
        np.full(shape, rng.choice([0.0, 1.0, -3.3, 1e-7, 5e8])),
        normal * (rng.random(shape) < 0.05),
        rng.choice([-0.9, 0.0, 0.31, 0.77], shape),
        normal * 10.0 ** rng.uniform(-36, 36),
        broken,
        normal * np.exp(rng.normal(0, 2, rows)),
        (1e6 ** -np.linspace(0, 1, normal.size)).reshape(shape),
        *[0.05 * normal] * 3,
    ]
    return np.asarray(kinds[rng.integers(len(kinds))])


def any_array(rng: np.random.Generator) -> np.ndarray:
    """An array of any type and shape, small."""
    shape = [
        (),
        (1,),
        (int(rng.integers(1, 400)),),
        (int(rng.integers(1, 70)), int(rng.integers(1, 70))),
        (1, int(rng.integers(1, 300))),
        (int(rng.integers(1, 200)), 1),
        (int(rng.integers(1, 9)), int(rng.integers(1, 9)), 3, 3),
        (0, 3),
        (17, 1),
        (300, 200),
    ][rng.integers(10)]
    dtype = str(rng.choice(["float32"] * 8 + ["float16", "float64", "int8", "int32", "int64", "uint8", "bool"]))
    if dtype.startswith("float"):
        with np.errstate(over="ignore"):
            return any_values(rng, shape).astype(dtype)
    if dtype == "bool":
        return rng.random(shape) < 0.3
    info = np.iinfo(dtype)
    low, high = [(info.min, info.max), (0, 15), (7, 7), (-100, 100)][rng.integers(4)]
    return rng.integers(max(low, info.min), min(high, info.max), shape, dtype=np.int64, endpoint=True).astype(dtype)


def any_options(rng: np.random.Generator, names: list[str]) -> dict[str, Any]:
    """Options that are all in range, though they may not fit the model."""

    def some(share: float) -> bool:
        return bool(rng.random() < share)

    options: dict[str, Any] = {}
    kind = rng.integers(8)
    if kind == 0:
        options["bits"] = float(rng.choice([0.01, 0.3, 0.5, 1, 2, 4, 8, 16, 30, 32]))
    elif kind == 1:
        options["ratio"] = float(rng.choice([0.05, 1, 5, 10, 20, 50, 100]))
    elif kind == 2:
        options["snr"] = float(rng.choice([0, 1, 10, 20, 40, 100, 120]))
    elif kind == 3:
        options["qp"] = int(rng.choice([-4000, -124, -50, -32, -20, -8, 0, 40, 127, 4000]))
    elif kind == 4:
        options["quality"] = float(rng.choice([0.01, 0.3, 2, 100]))
    choices: list[tuple[str, list[Any], float]] = [
        ("quantizer", ["uniform", "codebook", "auto", "raw"], 0.3),
        ("rate_weight", [0.1, 1.0, 20.0], 0.2),
        ("unary_length", [1, 4, 40, 256, "auto"], 0.2),
        ("scan_order", [0, 1, 2, 4], 0.25),
        ("selection", ["exact", "reference", "none"], 0.15),
        ("exact", [True], 0.1),
        ("qp_density", [0, 3, 7], 0.15),
        ("profile", [0], 0.15),
        ("zeros", [0.1, 0.9, 1.0], 0.15),
        ("zeros_scope", ["model"], 0.1),
        ("unify", [0.01, 0.5], 0.1),
        ("rank", [1, 3, 0.5, "auto"], 0.2),
        ("scale_rows", [True], 0.15),
        ("first_dimension", [1], 0.1),
        ("blocks", [True], 0.15),
        ("fold_batchnorm", [True], 0.1),
        ("references", ["index"], 0.1),
        ("max_unit_bytes", [300], 0.05),
    ]
    for name, values, share in choices:
        if some(share):
            options[name] = values[rng.integers(len(values))]
    if "qp" in options:
        low, high = steps.qp_range(options.get("qp_density", 2))
        options["qp"] = min(max(options["qp"], low), high)
    if some(0.2):
        name = str(rng.choice(names))
        options["rules"] = {
            name: str(rng.choice(["raw", "qp:-30", "bits:3", "snr:25", "quality:3", "uniform", "group:g"]))
        }
    return options


def any_pair(seed: int) -> Pair:
    """The pair of a seed."""
    rng = np.random.default_rng(seed)
    names = [f"layer{k}.{rng.choice(['weight', 'bias', 'other'])}" for k in range(rng.integers(1, 5))]
    return Pair({name: any_array(rng) for name in names}, any_options(rng, names))


def faults(pair: Pair) -> list[str]:
    """What does not hold for a pair; empty where all is well."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = nncjit.encode(pair.arrays, **pair.options)
        except nncjit.OptionError as error:
            return [] if _is_about_the_options(error, pair) else [f"refused: {error}"]
        except nncjit.ModelError as error:
            return [] if "holds NaN" in str(error) else [f"refused: {error}"]
        back = nncjit.decode(data)
    messages = [str(w.message) for w in caught if issubclass(w.category, nncjit.NncWarning)]
    foreign = [str(w.message) for w in caught if not issubclass(w.category, nncjit.NncWarning)]
    found = [f"foreign warning: {message}" for message in foreign]
    if list(back) != list(pair.arrays):
        return [*found, f"names are {list(back)}"]
    for name, array in pair.arrays.items():
        found += [f"{name}: {fault}" for fault in _tensor_faults(array, back[name], name, pair)]
    own = sum(array.nbytes for array in pair.arrays.values())
    if len(data) > own + HEADER_BYTES * (4 + len(pair.arrays)) and "max_unit_bytes" not in pair.options:
        found.append(f"grown: {len(data)} bytes for {own}")
    return found + _target_faults(pair, data, back, messages)


def _is_about_the_options(error: nncjit.OptionError, pair: Pair) -> bool:
    """Options may contradict a model: a rank above the matrix, a dimension that it does not have, parts too small."""
    said = str(error)
    about = (
        "rank",
        "dimensions",
        "parts of",
        "block",
        "matches no tensor",
        "no elements",
        "n:m",
        "joined",
        "first edition",
    )
    return any(word in said for word in about)


def _tensor_faults(array: np.ndarray, back: np.ndarray, name: str, pair: Pair) -> list[str]:
    if back.shape != array.shape or back.dtype != array.dtype:
        return [f"came back as {back.dtype}{list(back.shape)}"]
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        return [] if np.array_equal(array, back, equal_nan=array.dtype.kind == "f") else ["changed"]
    if not np.isfinite(back).all():
        return ["has values that are not finite"]
    values, error = array.astype(np.float64), back.astype(np.float64) - array
    found = []
    scale = np.abs(values).max(initial=0.0) or 1.0
    with np.errstate(under="ignore"):
        power, lost = np.square(values / scale).sum(), np.square(error / scale).sum()
    if lost > power * 1.02 + 1e-30:
        found.append(f"below 0 dB: error {lost:g}, power {power:g}")
    if sum(side > 1 for side in array.shape) < 2 and _has_default_steps(pair):
        if np.abs(error).max(initial=0.0) > 0.01 * scale:
            found.append("a vector is off by more than 1 %")
        some = values[values != 0]
        if some.size and ((values >= 0).all() or (values <= 0).all()):
            worst = np.abs(error[values != 0] / some).max()
            if worst > 0.01 + np.finfo(array.dtype).eps:
                found.append(f"a vector of one sign is off by {100 * worst:.1f} % of a value")
    return found


def _has_default_steps(pair: Pair) -> bool:
    given = {"rules", "zeros", "unify", "quality", "blocks", "fold_batchnorm", "rate_weight", "scale_rows", "rank"}
    return not given & set(pair.options)


def _target_faults(pair: Pair, data: bytes, back: Arrays, messages: list[str]) -> list[str]:
    weights, own = sum(a.size for a in pair.arrays.values()), sum(a.nbytes for a in pair.arrays.values())
    options = pair.options
    if "bits" in options:
        wanted, reached = options["bits"], 8 * len(data) / max(weights, 1)
    elif "ratio" in options:
        wanted, reached = options["ratio"], 100 * len(data) / max(own, 1)
    else:
        return []
    if abs(reached - wanted) <= 0.0101 * wanted or any("reached" in m or "nothing is lost" in m for m in messages):
        return []
    return [f"target {wanted:g} missed without a word: {reached:g}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    args = parser.parse_args()
    started, failed, tried = time.monotonic(), 0, 0
    for seed in range(args.seed, args.seed + args.count):
        if time.monotonic() - started > args.seconds:
            break
        tried += 1
        pair = any_pair(seed)
        try:
            found = faults(pair)
        except Exception:  # noqa: BLE001 - any exception that is not ours is a finding
            found = [traceback.format_exc(limit=-4)]
        if found:
            failed += 1
            print(f"seed {seed}: {pair}", *found, sep="\n  ", flush=True)
    print(f"{tried} pairs, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
