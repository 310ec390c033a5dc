"""What cannot be coded is refused, with its value, and never coded as something else."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.errors import OptionError

pytestmark = pytest.mark.kernel

MATRIX = Layer.of((4, 5))


def levels(*values: int) -> np.ndarray:
    array = np.zeros(20, np.int32)
    array[: len(values)] = values
    return array


def refused(match: str, array: np.ndarray, layer: Layer = MATRIX, **options: object) -> None:
    with pytest.raises(OptionError, match=match):
        PayloadEncoder().layer(array, layer, **options)


@pytest.mark.parametrize("selection", ["none", "fast", "exact", "reference"])
@pytest.mark.parametrize("level", [2**30, -(2**30), 2**31 - 1, -(2**31)])
def test_levels_beyond_the_coder(level, selection):
    refused(f"level {level} is beyond", levels(0, 1, level), selection=selection)
    refused(f"level {level} is beyond", levels(level), Layer.of((20,), dq=True), selection=selection)


@pytest.mark.parametrize(
    ("size", "zero", "level"), [(5, 2, 3), (5, 2, -3), (5, 0, -1), (5, 4, 1), (1, 0, 1), (2, 1, 1)]
)
def test_levels_outside_the_codebook(size, zero, level):
    layer = Layer.of((4, 5), codebook_size=size, codebook_zero=zero)
    refused("outside", levels(0, level), layer)


@pytest.mark.parametrize("wrong", [(1,), (2, 0, 0, 0, 1), (0, 3), (2, 2, 2)])
def test_levels_that_no_dependent_quantiser_makes(wrong):
    refused("do not follow the states", levels(*wrong), Layer.of((4, 5), dq=True))


def test_arrays_of_the_wrong_kind():
    refused("levels must be an array of int32, not int64", np.zeros(20, np.int64))
    refused("levels must be an array of int32, not list", [0] * 20)
    refused(r"shape \(20,\), not \(4, 5\)", np.zeros((4, 5), np.int32))
    refused(r"shape \(20,\), not \(19,\)", np.zeros(19, np.int32))
    refused("levels must be contiguous", np.zeros(40, np.int32)[::2])
    temporal = Layer.of((4, 5), parent=True, temporal=True)
    refused("base must be an array of int32, not NoneType", levels(), temporal)
    refused("history must be an array of int8", levels(), Layer.of((4, 5), parent=True), hdsp=True)


def test_options_out_of_range():
    refused("selection is 'best'", levels(), selection="best")
    refused("hdsp needs a layer with a parent", levels(), hdsp=True)
    for unary_length in (0, 257):
        refused(f"unary_length is {unary_length}", levels(), Layer.of((4, 5), unary_length=unary_length))
    with pytest.raises(OptionError, match="256 does not fit into 9 bits"):
        PayloadEncoder().number(256, 9)
