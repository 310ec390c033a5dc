"""One tensor inside a data unit."""

from __future__ import annotations

import math
from typing import NamedTuple

from nncjit.dtypes import find
from nncjit.syntax import CodebookSyntax


class Part(NamedTuple):
    """One tensor inside a unit."""

    name: str
    role: str
    """"W", "G", "H", "LS", "BI", "BN_beta", "BN_gamma", "BN_mean" or "BN_var"."""
    shape: tuple[int, ...]
    dtype: str
    """Of the result; "float64" for a codebook without a format."""
    coded_shape: tuple[int, ...]
    """As its layer is coded: for integers in limbs with one dimension more."""
    codebook: CodebookSyntax | None = None

    @property
    def size(self) -> int:
        """Number of coded elements."""
        return math.prod(self.coded_shape)

    @property
    def size_in_bytes(self) -> int:
        """Bytes of the result."""
        return math.prod(self.shape) * find(self.dtype).itemsize
