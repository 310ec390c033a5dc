"""Choices left to measurement: which quantiser and which unary length code a tensor in the fewest bits.

All candidates of a tensor are tried on the same sample at equal distortion, and the coder's own estimate decides.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nncjit.cabac.layer import Layer
from nncjit.encoder.choices import Choices
from nncjit.encoder.matrix import Matrix, estimated_bits, quantise_matrix, with_codebook
from nncjit.encoder.plan import Plan
from nncjit.encoder.sampling import runs
from nncjit.quant.moments import Moments

DEFAULT_UNARY_LENGTH = 11
UNARY_LENGTHS = (DEFAULT_UNARY_LENGTH, 2, 4, 7, 16, 24, 40)
QUANTIZERS = ("trellis", "uniform", "codebook")
SAMPLE = 1 << 15


def resolve(
    choices: Choices,
    name: str = "",
    values: np.ndarray | None = None,
    measured: Moments | None = None,
    plan: Plan | None = None,
) -> Choices:
    """Choices without any "auto" in quantizer and unary_length.

    Without values (integers, parts of blocks) the defaults stand for "auto".
    """
    lengths = UNARY_LENGTHS if choices.coding.unary_length == "auto" else (choices.coding.unary_length,)
    quantizers = QUANTIZERS if choices.quantising.quantizer == "auto" else (choices.quantising.quantizer,)
    if values is None or measured is None or plan is None or plan.quantizer(name, values.shape) == "uniform":
        first = "trellis" if choices.quantising.quantizer == "auto" else choices.quantising.quantizer
        return choices.replace(unary_length=lengths[0], quantizer=first)
    if len(lengths) == len(quantizers) == 1:
        return choices
    sample = runs(values.reshape(-1), SAMPLE)
    best, best_bits = choices, np.inf
    for quantizer in quantizers:
        candidate = choices.replace(quantizer=quantizer, unary_length=lengths[0])
        matrix = _sampled(candidate, name, values.shape, sample, measured, plan)
        for length in lengths if matrix is not None else ():
            assert matrix is not None
            layer = matrix.layer._replace(unary_length=int(length))
            bits = estimated_bits(replace(matrix, layer=layer), values.size / sample.size)
            if bits < best_bits:
                best, best_bits = candidate.replace(unary_length=length), bits
    return best


def _sampled(
    choices: Choices, name: str, shape: tuple[int, ...], sample: np.ndarray, measured: Moments, plan: Plan
) -> Matrix | None:
    """The sample as a matrix of one row, or None where there is no codebook for it."""
    dependent = choices.quantising.quantizer == "trellis"
    qp = plan.qp(name, shape, measured, dependent=dependent)
    layer = Layer.of(
        (1, sample.size),
        dq=dependent,
        unary_length=int(choices.coding.unary_length),
        profile=plan.options.stream.profile,
    )
    matrix = quantise_matrix(sample, measured.peak, qp, plan.density, choices, layer)
    return with_codebook(matrix) if choices.quantising.quantizer == "codebook" else matrix
