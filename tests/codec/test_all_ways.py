"""Whichever way kernels take, and on however many threads: the same bytes are coded, and the same values decoded."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from cabac.decoding import WAYS, take_way

import nncjit
from nncjit.cabac import lane_encoder, short_layers
from nncjit.errors import NncError
from nncjit.jit import JIT
from nncjit.jit.processor import has_wide_vectors

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore::nncjit.errors.NncWarning"),
    pytest.mark.skipif(not JIT or not has_wide_vectors(), reason="needs compiled kernels and vectors of 512 bits"),
]

CHOICES: dict[str, tuple[Any, ...]] = {
    "quantizer": ("trellis", "uniform", "codebook", "auto", "lossless"),
    "unary_length": (1, 2, 10, 11, 12, 33, "auto"),
    "scan_order": (0, 1, 2, 3, 4, "auto"),
    "selection": ("fast", "exact", "reference", "none"),
    "zeros": (0.5, 0.99),
    "rate_weight": (0.3, 2.0),
    "rank": (1, 0.9),
    "scale_rows": (True,),
    "first_dimension": (1,),
    "transform_tables": (True,),
    "max_unit_bytes": (5000,),
    "profile": (0,),
    "qp": (-38, -20, -4),
    "quality": (0.1, 3),
}
OF_UPDATES = ("quantizer", "unary_length", "scan_order", "selection", "zeros", "qp", "quality")


def any_model(seed: int) -> dict[str, np.ndarray]:
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    shapes = [(rng.randint(1, 200), rng.randint(1, 120)), (rng.randint(300, 2000), rng.randint(1, 9))]
    shapes += [(rng.randint(1, 9), rng.randint(100, 2000)), (rng.randint(9, 60), rng.randint(1, 20), 3, 3), (300,)]
    model = {}
    for k, shape in enumerate(rng.sample(shapes, 3)):
        rows = numbers.random((shape[0], *(1 for _ in shape[1:]))) < rng.choice([0.2, 1.0])  # others may be skipped
        model[f"{k}.weight"] = (numbers.laplace(size=shape) * rows).astype(rng.choice(["float32", "float16"]))
    return model


def any_options(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    chosen = rng.sample(list(CHOICES), 5)
    if "qp" in chosen and "quality" in chosen:
        chosen.remove("quality")
    return {name: rng.choice(CHOICES[name]) for name in chosen}


def take(patch: pytest.MonkeyPatch, way: str) -> None:
    """One way through the decoder, and lanes in the encoder wherever they can be, or nowhere."""
    take_way(patch, way)
    patch.setattr(lane_encoder, "lanes_here", lambda: "lanes" in way)
    patch.setattr(lane_encoder.ROWS_KERNEL, "pays", lambda _: True)
    patch.setattr(lane_encoder, "FEWEST_ROWS", 1)
    patch.setattr(short_layers, "MOST_LEVELS", 0 if "lanes" in way else short_layers.MOST_LEVELS)


def outcome(seed: int, threads: int) -> list[Any]:
    """A model coded, decoded whole and in slices, and two updates of it: bytes, or what is refused."""
    model, options, numbers = any_model(seed), any_options(seed), np.random.default_rng(seed)
    of_updates = {name: value for name, value in options.items() if name in OF_UPDATES}
    found: list[Any] = []
    try:
        found.append(nncjit.encode(model, threads=threads, **options))
        state = nncjit.decode(found[0], threads=threads)
        found += [array.tobytes() for array in state.values()]
        with nncjit.open(found[0], threads=threads) as file:
            found += [file.get_slice(name)[len(array) // 3 :].tobytes() for name, array in state.items()]
        for _ in range(2):  # the second one has the contexts of the first
            new = {k: (a + 0.05 * numbers.standard_normal(a.shape)).astype(a.dtype) for k, a in state.items()}
            found.append(nncjit.update(state, new, threads=threads, **of_updates))
            state = nncjit.apply(state, found[-1], threads=threads)
            found += [array.tobytes() for array in state.values()]
    except NncError as error:
        found.append(str(error))
    return found


def test_all_ways_give_the_same_bytes_and_values():
    refused = 0
    for seed in range(25):
        wanted = None
        for way in WAYS:
            for threads in (1, 3, 64) if way == "lanes" else (2,):
                with pytest.MonkeyPatch.context() as patch:
                    take(patch, way)
                    found = outcome(seed, threads)
                wanted = wanted or found
                assert found == wanted, (seed, way, threads, any_options(seed))
        refused += isinstance(wanted[-1], str)
    assert refused < 8
