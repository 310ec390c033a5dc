"""The reference's layers come out with the reference's bytes and entry points."""

from __future__ import annotations

import numpy as np
import pytest
from cabac.encoding import VECTORS, vector

from nncjit.jit import JIT

pytestmark = pytest.mark.kernel

LARGEST = 10**6 if JIT else 700


def size_of(path):
    with np.load(path) as arrays:
        return arrays["levels"].size


CASES = [path for path in VECTORS if size_of(path) <= LARGEST]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_layer_gets_the_bytes_and_points_of_the_reference(path):
    given, meta, payload, points = vector(path)
    selection = "reference" if meta["param_opt"] else "none"
    coded = given.code(selection=selection, row_skip=bool(meta["row_skip"]))
    assert coded == (payload, points)


def test_all_layers_of_the_reference_are_there():
    assert len(VECTORS) == 161
