"""How many of the lowest bits of integers are stored beside the coded ones, by measured cost.

The coder spends about ten adaptive bins on a level of 8 bits, and each of them costs a little more than its entropy.
The lowest bits of such levels are as good as random: as they are, they take less.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from nncjit.encoder.code import estimate
from nncjit.encoder.decide import Settled
from nncjit.encoder.integer_coding import SAMPLE, WORTH_MEASURING, costs_of_lengths, integer_matrix, is_lossless
from nncjit.encoder.plan import Plan
from nncjit.encoder.sampling import runs
from nncjit.model import TensorInfo
from nncjit.stream import integer_planes
from nncjit.stream.float_planes import Split

CODED_BITS = 2
"""Bits of the spread that are coded in any case: below, bits are almost random."""


def smaller_split(info: TensorInfo, storage: np.ndarray, plan: Plan, settled: Settled) -> tuple[Split, Settled] | None:
    """The high bits of an integer tensor and the others, and how to code the high ones; None where it does not pay,
    or where neither the model nor anyone asks for the smallest of what nncjit alone reads.

    Parameters
    ----------
    storage : integers, any shape, not empty
    settled : Settled
        How they are coded as they are.
    """
    asked = plan.options.stream.compatible is None and (is_lossless(info.name, plan) or plan.holds_levels(info))
    if not asked or info.dtype not in integer_planes.CODES or storage.size < WORTH_MEASURING:
        return None
    sample = runs(storage.reshape(-1), SAMPLE)
    share = storage.size / sample.size
    row = sample.astype(np.int32).reshape(1, -1)
    whole = estimate(integer_matrix(info.name, row, None, plan, replace(settled, scan_order=0), None), share)
    costs: dict[tuple[int, int], float] = {}
    for low_bits in _candidates(sample, info.dtype):
        levels, tail, _ = integer_planes.split(sample, low_bits)
        beside = 8 * len(tail) * share
        for length, bits in costs_of_lengths(info.name, levels, plan, settled, share).items():
            costs[low_bits, length] = bits + beside
    low_bits, length = min(costs, key=costs.__getitem__)
    if costs[low_bits, length] >= whole:
        return None
    return integer_planes.split(storage, low_bits), replace(settled, unary_length=length)


def _candidates(sample: np.ndarray, dtype: str) -> list[int]:
    """Numbers of low bits that may pay: by the spread, and none at all, which leaves a middle."""
    fewest = 0 if integer_planes.FORMATS[integer_planes.CODES[dtype]].bits == 8 else 1
    usual = int(math.log2(max(float(sample.std()), 1.0))) - CODED_BITS
    return sorted({fewest, max(usual, fewest), max(usual + 1, fewest)})
