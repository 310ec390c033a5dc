"""The shape of a data unit's tensor and what hangs on it. Spec, section 2."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

from nncjit.syntax.constants import MAX_ELEMENTS, ParameterTypes, PayloadType

DEFAULT_UNARY_LENGTH_MINUS1 = 9
_DC = int(ParameterTypes.DC)


class InputParameters(NamedTuple):
    """What a data unit may say of its tensor, or leave to an earlier unit or the caller. Spec, section 2.

    None where nothing is known; types and unary length have the standard's defaults.
    """

    tensor_dimensions: tuple[int, ...] | None = None
    cabac_unary_length_minus1: int = DEFAULT_UNARY_LENGTH_MINUS1
    compressed_parameter_types: int = 0
    decomposition_rank: int | None = None
    g_number_of_rows: int | None = None

    @classmethod
    def of(cls, header: Any, known: InputParameters) -> InputParameters:
        """What a data unit's header says, else what was known."""
        dims, unary, types = (
            header.tensor_dimensions,
            header.cabac_unary_length_minus1,
            header.compressed_parameter_types,
        )
        rank, rows = header.decomposition_rank, header.g_number_of_rows
        return cls(
            known.tensor_dimensions if dims is None else dims,
            known.cabac_unary_length_minus1 if unary is None else unary,
            known.compressed_parameter_types if types is None else types,
            known.decomposition_rank if rank is None else rank,
            known.g_number_of_rows if rows is None else rows,
        )

    def problem(self, header: Any) -> str | None:
        """What is wrong with these dimensions for this header, or None."""
        block = header.nnr_compressed_data_unit_payload_type == PayloadType.BLOCK
        dims = self.tensor_dimensions
        if dims is not None and math.prod(dims) > MAX_ELEMENTS:
            return f"dimensions {dims} make more than {MAX_ELEMENTS} elements"
        if block:
            n = (
                (header.count_topology_elements_minus2 or 0) + 2
                if header.nnr_multiple_topology_elements_present_flag
                else 1
            )
            if n != len(block_roles(self.compressed_parameter_types)):
                roles = ", ".join(block_roles(self.compressed_parameter_types))
                return f"lists {n} elements, a block of types {self.compressed_parameter_types} holds {roles}"
            return self._factor_problem() if self.compressed_parameter_types & _DC else None
        return self._mapping_problem(header) if header.split_index is not None and dims is not None else None

    def _factor_problem(self) -> str | None:
        rank, rows, dims = self.decomposition_rank, self.g_number_of_rows, self.tensor_dimensions
        if rank is None or rows is None or dims is None:
            return "rank, rows of G or dimensions of a decomposed tensor are neither in the stream nor given"
        size = math.prod(dims)
        if rank < 1 or rows < 1 or size % rows:
            return f"G of {rows} rows and rank {rank} does not make dimensions {dims}"
        if rows * rank > MAX_ELEMENTS or size // rows * rank > MAX_ELEMENTS:
            return f"rank {rank} makes factors of more than {MAX_ELEMENTS} elements"
        return None

    def _mapping_problem(self, header: Any) -> str | None:
        dims, axis = self.tensor_dimensions or (), header.concatenation_axis_index or 0
        if axis >= len(dims):
            return f"elements are joined along axis {axis} of dimensions {dims}"
        cuts = [0, *header.split_index, dims[axis]]
        if any(b < a for a, b in pairwise(cuts)):
            return f"axis {axis} of dimensions {dims} is split at {header.split_index}"
        for index, value in (shift for shifts in header.shifts or () for shift in shifts):
            if index >= len(dims) or value > index:
                return f"axis {index} of dimensions {dims} is moved left by {value}"
        return None


NOTHING_KNOWN = InputParameters()
"""Of a data unit that says nothing."""


def block_roles(types: int) -> tuple[str, ...]:
    """The tensors of a block in the order of its element ids. Spec, section 2."""
    types = int(types)  # plain integers: the operators of IntFlag are slow
    return (
        *(("G", "H") if types & _DC else ("W",)),
        *(("LS",) if types & ParameterTypes.LS.value else ()),
        *(("BN_beta", "BN_gamma", "BN_mean", "BN_var") if types & ParameterTypes.BN.value else ()),
        *(("BI",) if types & ParameterTypes.BI.value else ()),
    )
