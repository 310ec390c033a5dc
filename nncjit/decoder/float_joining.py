"""Floats without loss: exponents come from the arithmetic decoder, already in their words; the other bits join them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.cabac import delivery
from nncjit.cabac.delivery import Delivery
from nncjit.decoder import float_joining_kernels as kernels
from nncjit.jit import address
from nncjit.stream.float_planes import FloatPlanes

Array = np.ndarray[Any, Any]


def exponents_in_words(planes: FloatPlanes) -> Delivery:
    """The delivery that makes a word of the exponent of each level."""
    words = (planes.exponents << planes.fields.mantissa_bits).astype(planes.fields.words)
    return delivery.looked_up(lambda _: words, words.dtype, words.size, -planes.lowest, "the exponents")


def join_floats(planes: FloatPlanes, words: Array) -> Array:
    """The storage array of the floats whose exponents these words have, in the same memory; C-contiguous."""
    fields, flat = planes.fields, words.reshape(-1)
    record = np.zeros(1, kernels.PLANES)
    record["mantissa_bits"], record["exponent_bits"] = fields.mantissa_bits, fields.exponent_bits
    run_at, planes_at, words_at = address(record), address(planes.planes), address(flat, writes=True)
    for run in planes.runs(flat.size):
        record["planes"], record["n_values"], record["zeros"] = planes_at, run.stop - run.start, run.zeros
        record["n_bytes"], record["n_bits"] = divmod(fields.rest_bits - run.zeros, 8)
        kernels.join_planes(words_at + words.itemsize * run.start, words.itemsize, run_at)
        planes_at += run.n_bytes(fields)
    return words.view(dtypes.find(fields.dtype).storage)
