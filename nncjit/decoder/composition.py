"""The tensors of a unit, put together from its parts. Spec, section 9."""

from __future__ import annotations

from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.reduce import unfold_batchnorm
from nncjit.stream.data_units import DataUnit
from nncjit.stream.tensor_mapping import arrange
from nncjit.stream.unit_parts import Part

Array = np.ndarray[Any, Any]


def compose_unit(
    opened: DataUnit, decoded: list[tuple[Part, Array]], *, parts: bool = False
) -> list[tuple[Part, Array]]:
    """The tensors of ``opened.results(parts=parts)`` with their values, from the decoded parts."""
    if parts:
        return decoded
    arrays = {part.role: array for part, array in decoded}
    roles = {part.role: part for part, _ in decoded}
    if "LS" in roles:
        scaled = "G" if "G" in roles else "W"
        arrays[scaled] = _scale_rows(roles[scaled], arrays[scaled], roles["LS"], arrays["LS"])
    kept = [(part, array) for part, array in decoded if part.role not in ("LS", "W", "G", "H")]
    kept += _restored(opened, arrays)
    if "W" in roles:
        return kept + arrange(roles["W"], opened.unit, arrays["W"])
    if "G" in {part.role for part in opened.results()}:
        return [*kept, (roles["G"], arrays["G"]), (roles["H"], arrays["H"])]
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged stream may have any step
        product = dtypes.to_float32(arrays["G"], roles["G"].dtype) @ dtypes.to_float32(arrays["H"], roles["H"].dtype)
    whole = roles["G"]._replace(
        name=roles["G"].name.removesuffix("_G"),
        role="W",
        shape=opened.unit.context.dimensions_of(opened.unit.header),
    )
    weights = dtypes.from_float32(product.reshape(whole.shape), whole.dtype)
    return kept + arrange(whole, opened.unit, weights)


def _restored(opened: DataUnit, arrays: dict[str, Array]) -> list[tuple[Part, Array]]:
    """The vectors of a folded batch norm: with them it does nothing but, where it has the block's bias, add that."""
    if not opened.restored:
        return []
    assert opened.folded is not None
    norm = unfold_batchnorm(np.zeros(arrays["BI"].shape, np.float32), eps=opened.folded.eps)
    values = {"BN_beta": norm.beta, "BN_gamma": norm.gamma, "BN_mean": norm.mean, "BN_var": norm.var}
    return [(part, dtypes.from_float32(values[part.role], part.dtype)) for part in opened.restored]


def _scale_rows(part: Part, weights: Array, scaling_part: Part, scaling: Array) -> Array:
    rows = dtypes.to_float32(scaling, scaling_part.dtype).reshape(-1, *[1] * (weights.ndim - 1))
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = dtypes.to_float32(weights, part.dtype) * rows
    return dtypes.from_float32(scaled, part.dtype)
