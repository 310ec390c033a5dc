"""What other scans, factors, groups, sweeps and codes of vectors would make of a network: ideas that were tried.

    python bench/step_ideas.py [NETWORK] --statistics STATS [--ideas IDEA ...] [--kept in.json] [--json out.json]

Three kinds of ideas. Those on a stream are compared with what the library does by size at equal loss, on samples that
settings are chosen on, as those of ``bench/calibration_ideas.py``:

* scan-N: scan_order N for all tensors; 0 is raster order;
* factors-N: factors of rows between 1/N and N;
* folded-gains: gains of batch norms multiplied into the weights before them, and statistics of that network.

Those on a matrix are tried on three of MiniLM's (``bench.ideas.matrix_trials``): refit, second-sweep, groups-N.

vectors: what a stream becomes if its vectors have codebooks round the middle of their values where these are smaller,
which spare gains near 1 their distance from zero; the decoded values are the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.context_bounds import watched_units
from bench.ideas import matrix_trials
from bench.ideas.idea_curves import Idea, compare, encoded
from bench.ideas.subjects import SUBJECTS, Subject, Weights
from bench.zoo import layers
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.calibrate import Statistics
from nncjit.encoder import calibrated_parts, table_transform
from nncjit.encoder.default_steps import is_matrix
from nncjit.errors import NncWarning
from nncjit.quant.codebook import Codebook
from nncjit.torch import merge_norms

WIDEST_BOOK = 256


def scanned(order: int) -> Idea:
    """Another scan."""

    def idea(subject: Subject, known: Statistics, quality: float) -> bytes:
        return nncjit.encode(subject.weights, quality=quality, calibration=known, unreached="zero", scan_order=order)

    return idea


def within(factor: float) -> Idea:
    """Another range of the factors of rows."""

    def idea(subject: Subject, known: Statistics, quality: float) -> bytes:
        modules = (calibrated_parts, table_transform)
        kept = [module.WIDEST_SCALE for module in modules]
        for module in modules:
            module.WIDEST_SCALE = factor
        try:
            return encoded(subject.weights, known, quality)
        finally:
            for module, value in zip(modules, kept, strict=True):
                module.WIDEST_SCALE = value

    return idea


@cache
def folded(subject: Subject) -> tuple[Weights, Statistics]:
    """The same network with gains of 1, and its statistics."""
    state = {name: torch.from_numpy(array.copy()) for name, array in subject.weights.items()}
    merge_norms(state, eps=layers.NORM_EPSILON, gains=True)
    weights = {name: tensor.numpy() for name, tensor in state.items()}
    return weights, subject.collect(weights, None, None, 0)


def with_folded_gains(subject: Subject, known: Statistics, quality: float) -> bytes:  # noqa: ARG001
    """Gains of norms in the weights before them."""
    return encoded(*folded(subject), quality)


ON_STREAMS: dict[str, Idea] = {
    "folded-gains": with_folded_gains,
    **{f"scan-{order}": scanned(order) for order in (0, 2, 3)},
    **{f"factors-{factor}": within(factor) for factor in (4, 32)},
}
ON_MATRICES: dict[str, matrix_trials.Trial] = {
    "refit": matrix_trials.refit,
    "second-sweep": matrix_trials.second_sweep,
    **{f"groups-{count}": matrix_trials.in_groups(count) for count in (4, 16)},
}
IDEAS = (*ON_STREAMS, *ON_MATRICES, "vectors")


def of_vectors(subject: Subject, known: Statistics) -> list[float]:
    """By how many percent a stream changes if vectors have codebooks, at each quality."""
    changes = []
    for quality in subject.qualities:
        with watched_units() as units, warnings.catch_warnings():
            warnings.simplefilter("ignore", NncWarning)
            size = len(encoded(subject.weights, known, quality))
        saved = 0
        for unit in units:
            matrix = unit.matrices[0]
            if len(unit.matrices) == 1 and not is_matrix((matrix.layer.rows, matrix.layer.width)):
                plain = coded_bytes(matrix.levels, matrix.layer)
                saved += max(0, plain - min(with_books(matrix.levels, matrix.layer), default=plain))
        changes.append(-100 * saved / size)
    return changes


def coded_bytes(levels: np.ndarray, layer: Layer) -> int:
    """Of a payload."""
    encoder = PayloadEncoder()
    encoder.number(0, 8)
    encoder.layer(levels, layer)
    return len(encoder.finish())


def with_books(levels: np.ndarray, layer: Layer) -> Iterator[int]:
    """Bytes with codebooks of all levels between the least and the largest, by where their zero is."""
    low, high = int(levels.min()), int(levels.max())
    if high - low < WIDEST_BOOK:
        for zero in {int(np.median(levels)) - low, (high - low) // 2, 0, high - low}:
            book = Codebook(np.arange(low, high + 1), zero, 0)
            own = layer._replace(codebook_size=book.size, codebook_zero=zero)
            yield coded_bytes(book.coded(levels), own) + -(-book.header_bits() // 8)


def tried(args: argparse.Namespace, known: Statistics) -> Iterator[dict[str, Any]]:
    """What is found so far, after each idea."""
    found: dict[str, Any] = {} if args.kept is None else json.loads(args.kept.read_text("utf-8"))
    subject = SUBJECTS[args.subject]()
    for name in args.ideas:
        if name in ON_MATRICES:
            found[name] = {"matrices": matrix_trials.changes(ON_MATRICES[name], subject.weights, known)}
            for matrix, changes in found[name]["matrices"].items():
                print(f"{name} {matrix}: " + ", ".join(f"{change:+.2f} %" for change in changes), flush=True)
            yield found
        elif name == "vectors":
            found[name] = {"changes": of_vectors(subject, known)}
            print(f"{name}: " + ", ".join(f"{change:+.2f} %" for change in found[name]["changes"]), flush=True)
            yield found
    streams = {name: ON_STREAMS[name] for name in args.ideas if name in ON_STREAMS}
    if streams:
        for more in compare(streams, subject, known, found if "as it is" in found else None):
            found |= more
            yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", nargs="?", choices=SUBJECTS, default="minilm")
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--ideas", nargs="+", choices=IDEAS)
    parser.add_argument("--kept", type=Path, help="what an earlier run found, whose base is not measured again")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    is_minilm = args.subject == "minilm"
    args.ideas = args.ideas or [name for name in IDEAS if is_minilm or name not in ON_MATRICES]
    if not is_minilm and any(name in ON_MATRICES for name in args.ideas):
        parser.error(f"{', '.join(ON_MATRICES)} are tried on MiniLM's matrices")
    with Statistics.open(args.statistics) as known:
        for found in tried(args, known):
            if args.json is not None:
                args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
