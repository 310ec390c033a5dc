"""Integers without loss: which of four ways takes the fewest bits.

As they are, where the coder can hold them. Through a codebook, where few values lie far apart; a constant then costs
nothing but its header. In limbs of 16 bits, or of 4 where the words are packed nibbles, where the coder cannot hold
them. And their own bytes, where nothing is gained. A sample of large tensors decides, by the coder's own estimate.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace

import numpy as np

from nncjit.cabac.layer import MAX_LEVEL
from nncjit.cabac.scan import to_scan
from nncjit.encoder.code import estimate
from nncjit.encoder.compatibility import refuse
from nncjit.encoder.decide import DEFAULT_UNARY_LENGTH, Settled, decide_integers, settle_integers
from nncjit.encoder.plan import Plan
from nncjit.encoder.quantise import QuantisedMatrix, with_codebooks
from nncjit.encoder.sampling import runs
from nncjit.model import TensorInfo
from nncjit.stream import integer_limbs
from nncjit.stream.integer_limbs import Limbs

SAMPLE = 1 << 16
"""Integers on which limbs and codebooks are compared."""
WORTH_A_CODEBOOK = 128
"""Bits that a codebook must save: other readers take its values for floats."""
UNARY_LENGTHS = (1, 4, 11, 16, 32, 64, 128, 256)
"""Lengths that are compared: short ones for levels with many bits, long ones for codes of any distribution."""
WORTH_MEASURING = 1024
"""Integers from which it is worth the time."""
FAR_APART = 2
"""Range of the values beside their number from which a codebook is tried."""


def can_hold(storage: np.ndarray) -> bool:
    """Whether integers can be levels as they are."""
    return integer_limbs.peak(storage) <= MAX_LEVEL


def best_limbs(info: TensorInfo, storage: np.ndarray, plan: Plan) -> tuple[Limbs | None, float]:
    """How to split an integer tensor whose values cannot be levels, None where its own bytes are smaller; and the bits
    that it takes.

    Parameters
    ----------
    storage : integers or bool, any shape, not empty

    Raises
    ------
    OptionError
        The stream shall be for a reader that does not know limbs.
    """
    if plan.options.stream.compatible is not None:
        refuse(info, f"it has values up to {integer_limbs.peak(storage)}", plan.options)
    sample = runs(storage.reshape(-1), SAMPLE)
    bits = {limbs: _sampled_bits(info.name, sample, limbs, plan) for limbs in integer_limbs.WAYS}
    best = min(bits, key=bits.__getitem__)
    if bits[best] >= 8 * sample.nbytes:
        return None, 8.0 * storage.nbytes
    return best, bits[best] * storage.size / sample.size


def level_matrix(
    name: str, levels: np.ndarray, plan: Plan, settled: Settled, workers: Executor | None
) -> QuantisedMatrix:
    """Levels in scan order, as they are."""
    decision = decide_integers(name, plan, settled)
    layer = decision.layer(levels.shape)
    return QuantisedMatrix(to_scan(levels, layer, workers=workers), layer, decision, None, 0.0, 0.0)


def by_cost(info: TensorInfo, levels: np.ndarray, plan: Plan, settled: Settled) -> Settled:
    """The same with the unary length that takes the fewest bits, for a tensor of a model that is quantised already,
    where nothing but the size counts (``quantizer="lossless"``), or where the length is left to measurement.
    """
    asked = plan.choices[info.name].coding.unary_length
    if levels.size < WORTH_MEASURING or not (
        plan.holds_levels(info) or asked == "auto" or is_lossless(info.name, plan)
    ):
        return settled
    sample = runs(levels.reshape(-1), SAMPLE)
    bits = costs_of_lengths(info.name, sample, plan, settled, levels.size / sample.size)
    return replace(settled, unary_length=min(bits, key=bits.__getitem__))


def is_lossless(name: str, plan: Plan) -> bool:
    """Whether the choices of a tensor say so, and not merely its type."""
    return plan.choices[name].quantising.quantizer == "lossless"


def costs_of_lengths(name: str, sample: np.ndarray, plan: Plan, settled: Settled, share: float) -> dict[int, float]:
    """Unary length -> bits that `share` times the sample takes; only the one that is asked for, where one is."""
    asked = plan.choices[name].coding.unary_length
    if asked != "auto" and asked != DEFAULT_UNARY_LENGTH:
        return {asked: _bits_with(name, sample, asked, plan, settled, share)}
    peak = integer_limbs.peak(sample)
    beyond = next((n for n in UNARY_LENGTHS if n > peak), UNARY_LENGTHS[-1])
    return {n: _bits_with(name, sample, n, plan, settled, share) for n in UNARY_LENGTHS if n <= beyond}


def _bits_with(name: str, sample: np.ndarray, length: int, plan: Plan, settled: Settled, scale: float) -> float:
    decision = decide_integers(name, plan, replace(settled, unary_length=length, scan_order=0))
    layer = decision.layer(sample.shape)
    return estimate(QuantisedMatrix(sample, layer, decision, None, 0.0, 0.0), scale)


def integer_matrix(
    name: str, levels: np.ndarray, limbs: Limbs | None, plan: Plan, settled: Settled, workers: Executor | None
) -> QuantisedMatrix:
    """The levels in scan order; through a codebook where they are no limbs and that is smaller.

    A codebook stands for numbers with a step, so its qp is that of the step 1.
    """
    matrix = level_matrix(name, levels, plan, settled, workers)
    if limbs is not None or plan.options.stream.compatible is not None or not _lies_far_apart(levels):
        return matrix
    with_book = with_codebooks([matrix])
    if with_book is None:
        return matrix
    other = replace(with_book[0], qp=0)
    return other if estimate(other) + WORTH_A_CODEBOOK < estimate(matrix) else matrix


def _lies_far_apart(levels: np.ndarray) -> bool:
    """Whether the values, by a sample, are few for the range that they take; or all alike."""
    low, high = int(levels.min()), int(levels.max())
    some = runs(levels.reshape(-1), SAMPLE)
    return low == high or high - low + 1 > FAR_APART * np.unique(some).size


def _sampled_bits(name: str, sample: np.ndarray, limbs: Limbs, plan: Plan) -> float:
    levels = integer_limbs.split(sample, limbs)
    decision = decide_integers(name, plan, settle_integers(name, levels.shape, plan, limbs.bits))
    layer = replace(decision, scan_order=0).layer(levels.shape)
    return estimate(QuantisedMatrix(levels.reshape(-1), layer, decision, None, 0.0, 0.0))
