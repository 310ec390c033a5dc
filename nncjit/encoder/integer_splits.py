"""Whether integers are coded in another way than bin by bin, and how, by measured cost.

The coder spends about ten adaptive bins on a level of 8 bits, four on one of 4 bits, and each of them costs a little
more than its entropy. The lowest bits of levels with many bits are as good as random: as they are, they take less. In
a large tensor, frequencies of whole levels that are sent take still less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from nncjit.encoder.code import estimate
from nncjit.encoder.decide import Settled, settle_integers
from nncjit.encoder.integer_coding import SAMPLE, WORTH_MEASURING, costs_of_lengths, integer_matrix, is_lossless
from nncjit.encoder.integer_piece_encoder import cheapest_way, in_pieces
from nncjit.encoder.plan import Plan
from nncjit.encoder.sampling import runs
from nncjit.encoder.unit_layout import ExactContents, UnitLayout
from nncjit.model import TensorInfo
from nncjit.stream import integer_planes
from nncjit.stream.float_planes import Split

CODED_BITS = 2
"""Bits of the spread that are coded in any case: below, bits are almost random."""


IN_PIECES = "in pieces with counted frequencies"
LOW_BITS = "its lowest bits are stored as they are"


class _Choice(NamedTuple):
    """A way to split a tensor."""

    bits: float
    split: Callable[[], Split]
    settled: Settled
    reason: str


def smaller_split(
    info: TensorInfo, storage: np.ndarray, plan: Plan, settled: Settled, workers: Executor | None
) -> ExactContents | None:
    """An integer tensor in pieces, or its high bits and the others; None where it does not pay, or where neither the
    model nor anyone asks for the smallest of what nncjit alone reads.

    Parameters
    ----------
    storage : integers, any shape, not empty
    settled : Settled
        How they are coded as they are.
    """
    asked = plan.options.stream.compatible is None and (is_lossless(info.name, plan) or plan.holds_levels(info))
    if not asked or storage.size < WORTH_MEASURING or storage.itemsize > 2:
        return None
    sample = runs(storage.reshape(-1), SAMPLE)
    share = storage.size / sample.size
    row = sample.astype(np.int32).reshape(1, -1)
    whole = estimate(integer_matrix(info.name, row, None, plan, replace(settled, scan_order=0), None), share)
    choices = []
    if info.dtype in integer_planes.CODES:
        choices.append(_high_bits(info, storage, sample, plan, settled))
    choices += _pieces(info, storage, sample, plan, workers)
    return _best(info, choices, whole)


def smaller_pieces(
    info: TensorInfo, storage: np.ndarray, bits: float, plan: Plan, workers: Executor | None
) -> ExactContents | None:
    """Packed codes in pieces; None where these take no less than so many bits."""
    return _best(info, _pieces(info, storage, runs(storage.reshape(-1), SAMPLE), plan, workers), bits)


def _best(info: TensorInfo, choices: list[_Choice], bits: float) -> ExactContents | None:
    """The one that takes the fewest bits, and less than so many."""
    best = min(choices, key=lambda choice: choice.bits, default=None)
    if best is None or best.bits >= bits:
        return None
    return ExactContents(UnitLayout(infos=(info,), shape=info.shape, settled=best.settled), best.split(), best.reason)


def _high_bits(info: TensorInfo, storage: np.ndarray, sample: np.ndarray, plan: Plan, settled: Settled) -> _Choice:
    share = storage.size / sample.size
    costs: dict[tuple[int, int], float] = {}
    for low_bits in _candidates(sample, info.dtype):
        levels, tail, _ = integer_planes.split(sample, low_bits)
        beside = 8 * len(tail) * share
        for length, bits in costs_of_lengths(info.name, levels, plan, settled, share).items():
            costs[low_bits, length] = bits + beside
    low_bits, length = min(costs, key=costs.__getitem__)
    split = partial(integer_planes.split, storage, low_bits)
    return _Choice(costs[low_bits, length], split, replace(settled, unary_length=length), LOW_BITS)


def _pieces(
    info: TensorInfo, storage: np.ndarray, sample: np.ndarray, plan: Plan, workers: Executor | None
) -> list[_Choice]:
    found = cheapest_way(storage, info.dtype, sample)
    if found is None:
        return []
    settled = replace(settle_integers(info.name, info.shape, plan), scan_order=0)
    return [_Choice(found.bits, partial(in_pieces, storage, found.way, workers), settled, IN_PIECES)]


def _candidates(sample: np.ndarray, dtype: str) -> list[int]:
    """Numbers of low bits that may pay: by the spread, and none at all, which leaves a middle."""
    fewest = 0 if integer_planes.FORMATS[integer_planes.CODES[dtype]].bits == 8 else 1
    usual = int(math.log2(max(float(sample.std()), 1.0))) - CODED_BITS
    return sorted({fewest, max(usual, fewest), max(usual + 1, fewest)})
