"""Tensors of quantised models whose names say that they go with integers: GPTQ, AWQ, compressed-tensors, bitsandbytes.

Scales decide what levels mean. An error in one of them is an error in a whole row or block, and what was gained by it
would be next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nncjit.dtypes import find
from nncjit.model import TensorInfo

__all__ = ["exact_names"]

LEVELS = ("qweight", "qzeros", "weight", "weight_packed", "in_proj_weight")
"""Last part of the names of levels, which are integers or floats of eight bits."""
SCALES = (
    "scales", "scale", "weight_scale", "weight_scale_inv", "weight_global_scale", "weight_zero_point", "input_scale",
    "input_global_scale", "output_scale", "absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB", "zeros",
    "k_scale", "v_scale",
)  # fmt: skip
"""Last part of the names of floats that stand beside them, or below them."""


def exact_names(infos: Iterable[TensorInfo]) -> Iterator[str]:
    """The floats of quantised layers: scales, and levels of eight bits that have any."""
    infos = list(infos)
    levels = {info.name: info for info in _levels_in(infos)}
    for info in infos:
        layer, _, last = info.name.rpartition(".")
        if last not in SCALES or find(info.dtype).kind != "f":
            continue
        named = [name for name in (layer, *(f"{layer}.{part}".lstrip(".") for part in LEVELS)) if name in levels]
        if named:
            yield info.name
        yield from (name for name in named if find(levels[name].dtype).kind == "f")


def _levels_in(infos: Iterable[TensorInfo]) -> Iterator[TensorInfo]:
    """Tensors that may be levels."""
    for info in infos:
        row = find(info.dtype)
        if info.name.rpartition(".")[2] in LEVELS and (row.kind in "iu" or (row.kind == "f" and row.bits == 8)):
            yield info
