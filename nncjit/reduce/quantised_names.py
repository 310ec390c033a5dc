"""Tensors of quantised models whose names say that they go with integers: GPTQ, AWQ, compressed-tensors, bitsandbytes,
HQQ, Quanto, MLX, EETQ, AQLM, QuIP#, EXL3, and the blocks of MXFP4.

Scales decide what levels mean. An error in one of them is an error in a whole row or block, and what was gained by it
would be next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from nncjit.dtypes import find
from nncjit.model import TensorInfo

__all__ = ["QuantisedNames", "quantised_names"]

LEVELS = (
    "qweight", "qzeros", "weight", "weight_packed", "in_proj_weight", "W_q", "_data", "codes", "Qidxs", "trellis",
)  # fmt: skip
"""Last part of the names of levels, which are integers or floats of eight bits."""
SCALES = (
    "scales", "scale", "weight_scale", "weight_scale_inv", "weight_global_scale", "weight_zero_point", "input_scale",
    "input_global_scale", "output_scale", "absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB", "zeros",
    "k_scale", "v_scale", "weight_scale_2", "zero", "_scale", "_shift", "biases", "weight_scales", "codebooks", "SU",
    "SV", "Wscale", "suh", "svh",
)  # fmt: skip
"""Last part of the names of floats that stand beside them, or below them."""
BLOCKS, BLOCK_SCALES = "_blocks", "_scales"
"""How names of MXFP4's codes end, and those of their exponents, which are bytes, too."""


class QuantisedNames(NamedTuple):
    """Names of the tensors of quantised layers."""

    exact: Set[str]
    """Floats: scales, and levels of eight bits that have any."""
    levels: Set[str]
    """Integers."""


def quantised_names(infos: Iterable[TensorInfo]) -> QuantisedNames:
    """The tensors of layers whose names say that they are quantised."""
    infos = list(infos)
    candidates = {info.name: info for info in _levels_in(infos)}
    scales, levels = set(), set()
    for info in infos:
        layer, _, last = info.name.rpartition(".")
        if last in SCALES and find(info.dtype).kind == "f":
            beside = {layer, *(f"{layer}.{part}".lstrip(".") for part in LEVELS)} & candidates.keys()
            if beside:
                scales.add(info.name)
                levels |= beside
    floats = {name for name in levels if find(candidates[name].dtype).kind == "f"}
    return QuantisedNames(frozenset(scales | floats), frozenset(levels - floats | _blocks(infos)))


def _blocks(infos: Iterable[TensorInfo]) -> set[str]:
    """Blocks of MXFP4 and their exponents."""
    named = {info.name for info in infos if info.dtype == "uint8"}
    stems = {name.removesuffix(BLOCKS) for name in named if name.endswith(BLOCKS)}
    whole = [stem for stem in stems if stem + BLOCK_SCALES in named]
    return {stem + end for stem in whole for end in (BLOCKS, BLOCK_SCALES)}


def _levels_in(infos: Iterable[TensorInfo]) -> Iterator[TensorInfo]:
    """Tensors that may be levels."""
    for info in infos:
        row = find(info.dtype)
        if info.name.rpartition(".")[2] in LEVELS and (row.kind in "iu" or (row.kind == "f" and row.bits == 8)):
            yield info
