"""What encoder and decoder must agree on before a layer is coded, and which contexts it has.

The layout of the contexts has one home: kernels get a `Contexts` and write ``at.sig + k``. Which contexts are signalled
is worked out here once, as a list of indices, so that the kernels that read and write the list are one plain loop.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

MAX_LEVEL = (1 << 30) - 1
"""Largest magnitude of a level that the encoder codes (spec, section 5)."""
MAX_UNARY_LENGTH = 256
"""Largest unary length that a header can state (spec, section 2)."""


class Contexts(NamedTuple):
    """Where each family of contexts begins. Spec, section 5."""

    sig: int
    """24 for significance: 3 * state + sign class of the previous value."""
    sig_temporal: int
    """16: 2 * state + (the base level is above 1 in magnitude)."""
    sig_history: int
    """8: one a state."""
    sign: int
    """5: sign class of the previous value; 3 + (base level > 0) with a temporal context."""
    gtx: int
    """2 * unary_length: 2 * j + negative."""
    gtx_temporal: int
    """2 * unary_length: 2 * j + (base magnitude below j)."""
    rem: int
    """32 bins of the Exp-Golomb prefix."""
    select: int
    row: int
    total: int

    @classmethod
    def for_unary_length(cls, unary_length: int) -> Contexts:
        gtx = 24 + 16 + 8 + 5
        rem = gtx + 4 * unary_length
        return cls(0, 24, 40, 48, gtx, gtx + 2 * unary_length, rem, rem + 32, rem + 33, rem + 34)


class Layer(NamedTuple):
    """The parameters of one coded matrix; all ints, so that it goes into kernels as it is. Spec, section 5.

    `scan` must already be 0 where `width` or `rows` is 1, and `codebook_size` 0 in profile 0 (see `Layer.of`).
    """

    rows: int
    """First dimension (1 for a scalar)."""
    width: int
    """Product of the other dimensions."""
    dq: int
    """1: dependent quantisation, 8 states."""
    unary_length: int
    """1..256."""
    scan: int
    """0 row by row, s in 1..4: blocks of 4 * 2^s squared."""
    profile: int
    """0 first edition, 1 second."""
    parent: int
    """1: the unit has a parent node (an hdsp_flag is coded)."""
    temporal: int
    """1: base levels take part in the choice of contexts."""
    codebook_size: int
    """Number of values of the codebook, 0 without."""
    codebook_zero: int
    """Index of the codebook's zero."""

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        *,
        dq: bool = False,
        unary_length: int = 10,
        scan: int = 0,
        profile: int = 1,
        parent: bool = False,
        temporal: bool = False,
        codebook_size: int = 0,
        codebook_zero: int = 0,
    ) -> Layer:
        """The layer of a tensor of this shape, with the rules that shape and profile impose already applied."""
        rows = int(shape[0]) if shape else 1
        width = math.prod(shape[1:])
        if profile == 0:
            codebook_size = codebook_zero = 0
        if rows == 1 or width == 1:
            scan = 0
        return cls(
            rows, width, int(dq), unary_length, scan, profile, int(parent), int(temporal), codebook_size, codebook_zero
        )

    @property
    def size(self) -> int:
        return self.rows * self.width

    @property
    def block_side(self) -> int:
        """Rows of a block row; all rows without block scan."""
        return 4 << self.scan if self.scan else max(self.rows, 1)

    @property
    def block_rows(self) -> int:
        return -(-self.rows // self.block_side)

    @property
    def has_row_flags(self) -> bool:
        """Whether the layer begins with hdsp_flag (with a parent) and row_skip_flag. Spec, section 5, step 1."""
        return self.profile == 1 and self.width > 1 and self.rows > 1 and self.codebook_size != 1

    @property
    def has_hdsp_flag(self) -> bool:
        """Whether an hdsp_flag is coded: the history can take part in the choice of contexts."""
        return bool(self.parent) and self.has_row_flags

    @property
    def restarts(self) -> bool:
        """Whether the range is set to 256 at the first block row too. Spec, section 5, step 3."""
        return self.scan > 0 and (self.block_rows > 1 or self.profile == 0)


@lru_cache(maxsize=256)
def signalled_contexts(
    unary_length: int, profile: int, dq: int, temporal: int, hdsp: int, codebook_size: int, codebook_zero: int
) -> np.ndarray:
    """The signalled contexts in their order: int64[m], indices in `Contexts`. Spec, section 5, step 2."""
    at = Contexts.for_unary_length(unary_length)
    c, z = codebook_size, codebook_zero
    bound = max(z, c - 1 - z)
    contexts: list[int] = []
    if c != 1:
        contexts += range(at.sig, at.sig + (24 if dq else 3))
        if temporal:
            contexts += range(at.sig_temporal, at.sig_temporal + (16 if dq else 2))
        if hdsp:
            contexts += range(at.sig_history, at.sig_history + (8 if dq else 1))
        if c == 0 or z not in (0, c - 1):
            contexts += range(at.sign, at.sign + (5 if temporal else 3))
    contexts += (at.gtx + a for a in range(2 * unary_length) if c == 0 or a < 2 * bound)
    if temporal:
        contexts += (at.gtx_temporal + a for a in range(2 * unary_length) if c == 0 or a < 2 * (bound - 1))
    contexts += (
        at.rem + a for a in range(31 if profile == 1 else 32) if c == 0 or unary_length - 1 + (2 << a) - 1 < bound
    )
    indices = np.array(contexts, np.int64)
    indices.flags.writeable = False
    return indices


def contexts_of(layer: Layer, hdsp: bool) -> np.ndarray:
    """`signalled_contexts` of a layer."""
    return signalled_contexts(
        layer.unary_length,
        layer.profile,
        layer.dq,
        layer.temporal,
        int(hdsp),
        layer.codebook_size,
        layer.codebook_zero,
    )
