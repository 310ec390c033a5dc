"""Streams to ONNX files whose weights stay integers: levels, scales and a DequantizeLinear node for each.

What type a tensor's levels need is known only when they are decoded, and the file's layout depends on it. So the
levels wait in a temporary file, in that type, until the layout is known.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

import numpy as np

from nncjit.convert.encoded_onnx import is_encoded
from nncjit.decoder.concurrent_decoder import ConcurrentDecoder
from nncjit.decoder.level_decoder import UnitLevels, decode_levels, why_no_levels
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import Decoded
from nncjit.errors import ModelError, NncWarning, OptionError
from nncjit.files import os_errors, read_at, write_at
from nncjit.formats.onnx_dequantize import AXIS_OPSET, INT16_OPSET, LEAST_OPSET, DequantizedGraph
from nncjit.model import Graph, TensorInfo
from nncjit.stream.data_units import DataUnit
from nncjit.stream.unit_parts import Part

Array = np.ndarray[Any, Any]

LISTED = 3
"""Tensors that a warning names for each reason."""


def check_form(source: Any, target: Any) -> None:
    """Refuse what cannot become an ONNX file with integers.

    Raises
    ------
    OptionError
        The target is no ONNX file, or the source is not one stream.
    """
    single = not isinstance(source, str | PathLike) or not (
        is_encoded(source) or fspath(source).lower().endswith(".json") or Path(source).is_dir()
    )
    is_path = isinstance(target, str | PathLike)
    if not single or not is_path or not fspath(target).lower().endswith(".onnx") or is_encoded(target):
        raise OptionError(f"{target}: the form qdq is for one stream (.nnc) that becomes an ONNX file (.onnx)")


@dataclass(slots=True)
class Form:
    """What is written of a stream: as it is, or some of its weights as levels that are decoded already."""

    infos: Sequence[TensorInfo]
    graphs: Sequence[Graph]
    units: Sequence[DataUnit]
    """Those that are left to decode."""
    names: dict[str, str] = field(default_factory=dict)
    """Name in the stream -> name in the file, where they differ."""
    waiting: list[tuple[Part, DataUnit, np.dtype[Any], int]] = field(default_factory=list)
    """Tensors that are decoded, and where they are in the temporary file."""
    file: BinaryIO | None = None

    def decoded(self, decoder: ConcurrentDecoder, *, pieces: bool = False) -> Iterator[Decoded]:
        """All tensors, in the type that they have in the file; in pieces, where that is wanted. The decoder has begun
        with those that are left.
        """
        for part, opened, dtype, offset in self.waiting:
            array = np.empty(part.shape, dtype)
            assert self.file is not None
            if read_at(self.file, array, offset) < array.nbytes:
                raise ModelError(f"{part.name}: its levels are gone from the temporary file")
            yield Decoded(part, array, opened)
        yield from decoder.results(pieces=pieces)


@contextmanager
def dequantized(form: Form, target: Any, budget: MemoryBudget, threads: int | None) -> Iterator[Form]:
    """The form of a stream with integers and scales instead of weights.

    Parameters
    ----------
    form : Form
        As it is.
    target : path
        Levels wait in a temporary file beside it.
    budget : MemoryBudget
        For the levels.
    threads : int, optional

    Raises
    ------
    OptionError
        The graph's opset has no DequantizeLinear.
    """
    graph = next((graph for graph in form.graphs if graph.format == "onnx" and not graph.quantization), None)
    if graph is None:
        yield form  # which no ONNX file can be made of, as its writer says
        return
    network = DequantizedGraph(graph)
    if network.opset < LEAST_OPSET:
        raise OptionError(f"{target}: DequantizeLinear needs opset {LEAST_OPSET}, the network has {network.opset}")
    with _beside(target) as file:
        maker = _Maker(network, form.infos, file)
        for unit in decode_levels(maker.suitable(form.units), budget, threads=threads):
            maker.take(unit)
        maker.tell(target)
        yield Form(
            [
                replace(i, name=maker.names.get(i.name, i.name), dtype=maker.dtypes.get(i.name, i.dtype))
                for i in form.infos
            ],
            [network.graph(), *(other for other in form.graphs if other is not graph)],
            [opened for opened in form.units if id(opened) not in maker.done],
            maker.names,
            maker.waiting,
            file,
        )


def _beside(target: Any) -> BinaryIO:
    """A temporary file in the target's folder."""
    with os_errors(target):
        return cast(BinaryIO, TemporaryFile(dir=Path(target).resolve().parent))


class _Maker:
    """Decides which weights become integers, and keeps them."""

    def __init__(self, network: DequantizedGraph, infos: Sequence[TensorInfo], file: BinaryIO) -> None:
        self._network, self._file, self._size = network, file, 0
        self._shapes = {info.name: info.shape for info in infos}
        self._tied = {name for info in infos if info.same_as is not None for name in (info.name, info.same_as)}
        self._floats: dict[str, list[str]] = defaultdict(list)
        self.names: dict[str, str] = {}
        self.dtypes: dict[str, str] = {}
        self.waiting: list[tuple[Part, DataUnit, np.dtype[Any], int]] = []
        self.done: set[int] = set()
        """The units that are decoded, by identity."""

    def suitable(self, units: Iterable[DataUnit]) -> Iterator[DataUnit]:
        """Units whose weights may become integers; why others do not is remembered."""
        for opened in units:
            weights = [part for part in opened.results() if _is_weight(part)]
            reason = why_no_levels(opened) or next(filter(None, map(self._refusal, weights)), "")
            if reason:
                self._stay(weights, reason)
            elif weights:
                yield opened

    def take(self, unit: UnitLevels) -> None:
        """Keep the tensors of a unit, its weights as integers; or leave it to be decoded to floats."""
        levels, scale = _with_positive_scale(unit)
        largest = max(int(np.abs(array).max(initial=0)) for _, array in levels)
        dtype = "int8" if largest <= 127 else "int16"
        reason = self._misfit(largest, scale)
        if reason:
            self._stay([part for part, _ in levels], reason)
            return
        for part, array in levels:
            self._keep(part, unit.opened, array.astype(dtype))
            self.names[part.name] = self._network.dequantize(part.name, dtype, scale, unit.axis)
            self.dtypes[part.name] = dtype
        for part, array in unit.others:
            self._keep(part, unit.opened, array)
        self.done.add(id(unit.opened))

    def tell(self, target: Any) -> None:
        """Warn of weights that stay floats."""
        if not self._floats:
            return
        count = sum(map(len, self._floats.values()))
        reasons = "; ".join(f"{_listed(names)}: {reason}" for reason, names in self._floats.items())
        warnings.warn(f"{target}: {count} tensors stay floats: {reasons}", NncWarning, stacklevel=5)

    def _refusal(self, part: Part) -> str:
        if part.dtype != "float32":
            return "not of the type float"
        if part.name in self._tied:
            return "tied"
        if self._shapes[part.name] != part.shape:
            return "pruned, and brought to full size"
        return self._network.refusal(part.name)

    def _misfit(self, largest: int, scale: Array) -> str:
        opset = self._network.opset
        size = np.abs(scale)
        if not (np.isfinite(scale).all() and ((size >= np.finfo(np.float32).tiny) | (size == 0)).all()):
            return "a scale is no normal number"
        if scale.ndim and opset < AXIS_OPSET:
            return f"a scale for each row needs opset {AXIS_OPSET}, the network has {opset}"
        if largest > 32767:
            return "levels beyond int16"
        if largest > 127 and opset < INT16_OPSET:
            return f"levels beyond int8, and int16 needs opset {INT16_OPSET}, the network has {opset}"
        return ""

    def _stay(self, parts: Iterable[Part], reason: str) -> None:
        names = [part.name for part in parts]
        if names:
            self._floats[reason] += names

    def _keep(self, part: Part, opened: DataUnit, array: Array) -> None:
        with os_errors("the temporary file of levels"):
            write_at(self._file, np.ascontiguousarray(array), self._size)
        self.waiting.append((part, opened, array.dtype, self._size))
        self._size += array.nbytes


def _is_weight(part: Part) -> bool:
    """Whether a tensor is a matrix or the kernel of a convolution."""
    return part.role == "W" and len(part.shape) > 1 and part.dtype in ("float32", "float16", "bfloat16", "float64")


def _with_positive_scale(unit: UnitLevels) -> tuple[list[tuple[Part, Array]], Array]:
    """Weights and scale; where a row's scale is negative, as folding of batch norms makes it, both change signs."""
    if not (unit.scale < 0).any():
        return unit.weights, unit.scale
    sign = np.where(unit.scale < 0, np.int32(-1), np.int32(1))

    def turned(array: Array) -> Array:
        return array * sign.reshape([-1 if k == unit.axis else 1 for k in range(array.ndim)])

    return [(part, turned(array)) for part, array in unit.weights], np.abs(unit.scale)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"
