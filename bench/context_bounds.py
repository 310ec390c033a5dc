"""What the parts of a calibrated stream take, and what other context initialisations or estimators could save at most.

    python bench/context_bounds.py MODEL --statistics STATS.safetensors [--quality Q ...] [--json out.json]

MODEL is MiniLM or a network of the zoo. For each part, in percent of the stream: its share; and what it would take

* exact: with initialisations chosen from all bins, not from a sample;
* rates: with the best pair of adaptation rates of 1/8 to 1/256 for each context of a tensor, known in advance, that
  begins each block row with that context's probability in the tensor, of any precision, in a coder without rounding;
* no restarts: with the same that begins anew only with each tensor;
* counted: with estimators that count all bins alike (Krichevsky and Trofimov's) since the block row began.

The first is to be had, the others bound what could be: the standard's estimators, their nine initialisations and its
coder's 32 widths are fixed.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from scipy.special import betaln

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import calibration as zoo_calibration
from bench.zoo import layers, minilm
from nncjit.cabac.binarisation_kernels import binarise
from nncjit.cabac.encoder_input import prepare
from nncjit.cabac.encoder_records import BYPASS
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.row_skipping import entropy, skipped_rows
from nncjit.calibrate import Statistics
from nncjit.encoder import unit_encoder
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.quantise import QuantisedMatrix
from nncjit.errors import NncWarning

QUALITIES = (1.0, 0.7, 0.42)
LIST_ROOM = 1 << 20
"""Codes."""
RATES = tuple(2.0**-k for k in range(3, 9))
LEAST_CHANCE = 1e-4
FEWEST_ROWS = 6
"""Block rows of a sample."""


@contextmanager
def watched_units() -> Iterator[list[unit_encoder.QuantisedUnit]]:
    """The quantised units that are coded meanwhile."""
    seen: list[unit_encoder.QuantisedUnit] = []
    kept = unit_encoder.UnitInCoding.__init__

    def watch(self: Any, unit: Any, *others: Any, **keywords: Any) -> None:
        if isinstance(unit, unit_encoder.QuantisedUnit):
            seen.append(unit)
        kept(self, unit, *others, **keywords)

    unit_encoder.UnitInCoding.__init__ = watch  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        unit_encoder.UnitInCoding.__init__ = kept  # type: ignore[method-assign]


def bits(matrix: QuantisedMatrix, selection: Any) -> int:
    """Of a layer as it is coded."""
    encoder = PayloadEncoder()
    encoder.layer(matrix.levels, matrix.layer, selection=selection)
    return 8 * len(encoder.finish())


@njit(cache=True, nogil=True, error_model="numpy")
def follow(codes: np.ndarray, rates: np.ndarray, chances: np.ndarray, costs: np.ndarray) -> None:
    """Add what the bins of a list cost with each pair of rates, bits.

    codes   : uint16[n]                  context << 1 | bin
    rates   : float64[2, pairs]
    chances : float64[contexts, 2, pairs]  of a bin 1, by each of the two estimators; they move on
    costs   : float64[contexts, pairs]
    """
    for code in codes:
        context, bin = code >> 1, float(code & 1)
        for pair in range(rates.shape[1]):
            fast, slow = chances[context, 0, pair], chances[context, 1, pair]
            chance = 0.5 * (fast + slow)
            costs[context, pair] -= np.log2(max(chance if bin else 1 - chance, LEAST_CHANCE))
            chances[context, 0, pair] = fast + rates[0, pair] * (bin - fast)
            chances[context, 1, pair] = slow + rates[1, pair] * (bin - slow)


def bins(matrix: QuantisedMatrix) -> tuple[list[np.ndarray], int, float]:
    """The codes of the bins of each block row, the number of contexts, and bits that no context tells."""
    skipped = skipped_rows(matrix.levels, matrix.layer, "auto")
    prepared = prepare(matrix.levels, matrix.layer, None, None, False, skipped)
    table = prepared.binariser()
    codes = np.empty(LIST_ROOM, np.uint16)
    record = table.records[0]
    record["codes"], record["tabled"] = table.keep(codes, writes=True), 0  # without codes for runs
    chunk = LIST_ROOM // (matrix.layer.unary_length + 40)
    bypassed, found = 0, []
    for start, stop in zip(prepared.starts, prepared.intervals["stop"], strict=True):
        lists = []
        record["previous"] = 0
        for at in range(int(start), int(stop), chunk):
            listed = codes[: binarise(table.address, at, min(at + chunk, int(stop)))]
            in_contexts = listed < BYPASS
            lists.append(listed[in_contexts])
            bypassed += int((listed[~in_contexts] >> 11 & 15).sum())
        found.append(np.concatenate(lists) if lists else codes[:0].copy())
    return found, prepared.n_contexts, bypassed + (0.0 if skipped is None else entropy(skipped))


def adapted(rows: list[np.ndarray], totals: np.ndarray, *, restarts: bool) -> float:
    """Bits with the best pair of rates of each context, on a sample of the block rows where there are many."""
    taken = rows[:: max(1, len(rows) // FEWEST_ROWS)]
    share = sum(map(len, rows)) / max(sum(map(len, taken)), 1)
    rows = taken
    pairs = np.array([(fast, slow) for slow in RATES for fast in RATES if fast >= slow]).T.copy()
    start = (totals[:, 1] + 0.5) / (totals.sum(1) + 1)
    first = np.broadcast_to(start[:, None, None], (len(start), *pairs.shape))
    chances, costs = first.copy(), np.zeros((len(start), pairs.shape[1]))
    for row in rows:
        if restarts:
            chances[:] = first
        follow(row, pairs, chances, costs)
    return share * float(costs.min(1).sum())


def counted(counts: np.ndarray) -> float:
    """Bits of Krichevsky and Trofimov's estimator."""
    zeros, ones = counts[..., 0].astype(float), counts[..., 1].astype(float)
    return float(-(betaln(zeros + 0.5, ones + 0.5) - np.log(np.pi)).sum() / np.log(2))


def kind(unit: unit_encoder.QuantisedUnit, role: str, matrix: QuantisedMatrix) -> str:
    """Of a part, in words."""
    table = "G" in unit.roles
    if role == "LS":
        return "factors of rows of tables" if table else "factors of rows"
    if table:
        return "tables" if role == "G" else "H of tables"
    return "matrices" if is_matrix((matrix.layer.rows, matrix.layer.width)) else "vectors"


def bounds(weights: dict[str, np.ndarray], known: Statistics, quality: float) -> dict[str, Any]:
    """Of one stream, bytes."""
    with watched_units() as units, warnings.catch_warnings():
        warnings.simplefilter("ignore", NncWarning)
        data = nncjit.encode(weights, quality=quality, calibration=known, unreached="zero")
    parts: dict[str, Any] = defaultdict(lambda: defaultdict(float))
    for unit in units:
        for role, matrix in zip(unit.roles, unit.matrices, strict=True):
            part = parts[kind(unit, role, matrix)]
            rows, n, others = bins(matrix)
            counts = np.array([np.bincount(row, minlength=2 * n) for row in rows]).reshape(-1, n, 2)
            part["weights"] += matrix.layer.size
            part["bytes"] += bits(matrix, matrix.decision.initialisation) / 8
            part["exact"] += bits(matrix, "exact") / 8
            for key, restarts in (("rates", True), ("no restarts", False)):
                part[key] += (adapted(rows, counts.sum(0), restarts=restarts) + others) / 8
            part["counted"] += (counted(counts) + others) / 8
    raw = sum(array.nbytes for array in weights.values())
    found: dict[str, Any] = {"percent": 100 * len(data) / raw, "bytes": len(data)}
    return found | {"parts": {name: dict(part) for name, part in parts.items()}}


def show(found: dict[str, Any]) -> None:
    """As a table."""
    whole = found["bytes"]
    columns = ("bytes", "exact", "rates", "no restarts", "counted")
    print(f"{found['percent']:.3f} % of the original" + "".join(f"{name:>13}" for name in columns))
    for name, part in sorted(found["parts"].items(), key=lambda item: -item[1]["bytes"]):
        rate = f"{8 * part['bytes'] / part['weights']:.2f} bit"
        changes = "".join(f"{100 * (part[key] - part['bytes']) / whole:+12.2f}%" for key in columns[1:])
        print(f"{name:<26}{rate:>9}{100 * part['bytes'] / whole:9.2f} %{changes}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["minilm", *sorted(zoo_calibration.TASKS)])
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--quality", nargs="+", type=float, default=QUALITIES)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    is_minilm = args.model == "minilm"
    weights = layers.load(minilm.WEIGHTS) if is_minilm else zoo_calibration.merged(args.model)
    found = {}
    with Statistics.open(args.statistics) as known:
        for quality in args.quality:
            found[f"{quality:g}"] = bounds(dict(weights), known, quality)
            show(found[f"{quality:g}"])
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
