"""Levels to bits: what coding a matrix costs, and the coding itself.

Both take an optional reference, the levels that a receiver of an update has already: the contexts then depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from nncjit.cabac.lane_encoder import RowQueue
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.size_estimate import estimate_bits
from nncjit.encoder.quantise import QuantisedMatrix, with_codebooks


@dataclass(frozen=True, slots=True)
class Reference:
    """What the receiver of an update knows of a matrix, in scan order. Spec, section 10."""

    base: np.ndarray | None = None
    """int32[n]: levels of the parent; read where ``layer.temporal``."""
    history: np.ndarray | None = None
    """uint8[n]: 1 where an earlier update was not zero."""


NOTHING_KNOWN = Reference()


def estimate(matrix: QuantisedMatrix, share: float = 1.0, reference: Reference = NOTHING_KNOWN) -> float:
    """About how many bits `share` times as many levels like these would take, codebook included."""
    bits = estimate_bits(
        matrix.levels,
        matrix.layer,
        base=reference.base,
        history=reference.history,
        hdsp=reference.history is not None,
        selection=matrix.decision.initialisation,
    )
    return share * bits + (matrix.book.header_bits() if matrix.book is not None else 0)


def code(
    matrix: QuantisedMatrix,
    encoder: PayloadEncoder,
    base_qp: int,
    workers: Executor | None = None,
    reference: Reference = NOTHING_KNOWN,
    queue: RowQueue | None = None,
) -> None:
    """Append qp_delta and the layer of a matrix to a payload.

    Parameters
    ----------
    base_qp : int
        quantization_parameter of the parameter set in force.
    queue : RowQueue, optional
        Where the block rows may wait, see `PayloadEncoder.layer`.
    """
    if matrix.qp is not None:
        encoder.number(matrix.qp - base_qp, 6 + matrix.decision.density)
    encoder.layer(
        matrix.stored,
        matrix.layer,
        base=reference.base,
        history=reference.history,
        hdsp=reference.history is not None,
        selection=matrix.decision.initialisation,
        workers=workers,
        queue=queue,
    )


def smaller_with_codebooks(matrices: list[QuantisedMatrix], workers: Executor | None) -> list[QuantisedMatrix]:
    """The matrices with codebooks where that is smaller, measured by coding both ways."""
    others = with_codebooks(matrices)
    if others is None:
        return matrices
    return min((matrices, others), key=lambda candidate: _coded_bits(candidate, workers))


def _coded_bits(matrices: Sequence[QuantisedMatrix], workers: Executor | None) -> int:
    encoder = PayloadEncoder()
    for matrix in matrices:
        code(matrix, encoder, 0, workers)
    return 8 * len(encoder.finish()) + sum(m.book.header_bits() for m in matrices if m.book is not None)
