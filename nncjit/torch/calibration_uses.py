"""Which weight meets which input: a function mode that sees every product of a network's weights while it runs.

It watches functions, not modules. So it finds what modules share or hide: fused projections of attention, tied tables,
networks without modules. A weight is recognised by its place in memory, also through a view.
"""

from __future__ import annotations

import math
import types
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Part", "Use", "WeightUses", "no_parts"]

PATCH_VALUES = 1 << 24
"""Most values of unfolded inputs at once."""


class Part(NamedTuple):
    """Inputs of a weight and the gradients of its outputs, sorted by group and sample."""

    x: Tensor
    """[groups, samples, places, inputs]"""
    g: Tensor
    """[groups, samples, places, outputs]"""


@dataclass(slots=True)
class Use:
    """One product of a weight and an input."""

    name: str
    x: Tensor
    parts: Callable[[Tensor, Tensor, int], Iterator[Part]]
    """From input, gradient of the output, and number of samples."""
    kind: Literal["linear", "convolution", "table", "rows"] = "linear"
    inputs_first: bool = False
    """Whether the weight is [inputs, outputs], not [outputs, inputs]."""
    layer: int = 0
    """Of a weight of three dimensions, which of its matrices it is."""
    bias: str | None = None
    """Name of what is added to the product."""
    by_gradient: bool = False
    """Whether the weight's own gradient tells more easily what it does."""
    groups: int = 1
    taps: int = 1
    """Of a transposed convolution: numbers of the kernel at each pair of channels, counted as outputs in a `Part`."""


class _Place(NamedTuple):
    """A weight that a matrix [outputs, inputs] is, or is made of."""

    name: str
    inputs_first: bool
    """Whether the weight is [inputs, outputs]."""
    outputs: slice = slice(None)
    """Those of the matrix that the weight gives."""
    layer: int = 0
    """In a weight of three dimensions."""


class WeightUses(TorchFunctionMode):
    """Tells `see` of every use of one of `weights`, with the output, and passes on the output that `see` returns."""

    def __init__(self, weights: Mapping[str, Tensor], see: Callable[[Use, Tensor], Tensor]) -> None:
        super().__init__()
        self._see = see
        self._by_storage: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
        for name, weight in weights.items():
            self._by_storage[weight.untyped_storage().data_ptr()].append((name, weight))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            with self:
                return _attention_inside(*args, **kwargs)
        y = func(*args, **kwargs)
        # inside torch.vmap and torch.func.grad tensors stand for others, and have no place in memory
        find = None if torch._C._are_functorch_transforms_active() else _FINDERS.get(func)  # noqa: SLF001
        for use in () if find is None else find(self, args, kwargs):
            y = self._see(use, y)
        return y

    @property
    def storages(self) -> Collection[int]:
        """Places in memory where weights are."""
        return self._by_storage.keys()

    def name_of(self, weight: Tensor | None) -> str | None:
        """The name of a whole weight."""
        if weight is None:
            return None
        for name, whole in self._by_storage.get(_storage(weight), ()):
            if whole.storage_offset() == weight.storage_offset() and whole.shape == weight.shape:
                return name
        return None

    def places_of(self, matrix: Tensor) -> list[_Place]:
        """The weight that a matrix [outputs, inputs] is, or is rows of, or the weights that it holds one upon another.

        Of three dimensions, a weight is matrices in a stack, and the matrix is one of them. Such a weight is not told
        where its matrices are known, too.
        """
        flat: list[_Place] = []
        stacked: list[_Place] = []
        for name, whole in self._by_storage.get(_storage(matrix), ()):
            if whole.ndim in (2, 3) and whole.is_contiguous():
                place = _place(name, whole, matrix)
                (flat if whole.ndim == 2 else stacked).extend([] if place is None else [place])
        return flat or stacked[:1]


def _place(name: str, whole: Tensor, matrix: Tensor) -> _Place | None:
    """How a matrix lies in a weight of the same memory, or the weight in it."""
    rows, columns = whole.shape[-2:]
    first, offset = divmod(int(matrix.storage_offset()) - int(whole.storage_offset()), max(1, columns))
    if offset:
        return None
    if _are_rows(matrix, columns):
        n = len(matrix)
        if whole.ndim == 2 and first <= 0 and rows - first <= n:
            return _Place(name, False, slice(-first, rows - first))
        layer = first // rows
        inside = first >= 0 and (layer + 1) * rows * columns <= whole.numel() and first + n <= (layer + 1) * rows
        return _Place(name, False, layer=layer) if inside else None
    whole_layer = matrix.shape[1] == rows and first % rows == 0 and 0 <= first * columns < whole.numel()
    return _Place(name, True, layer=first // rows) if whole_layer and _are_rows(matrix.T, columns) else None


def _storage(tensor: Any) -> int:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        return -1
    return tensor.untyped_storage().data_ptr()


def _are_rows(matrix: Tensor, columns: int) -> bool:
    """Whether the matrix is whole rows of `columns` values each."""
    n, width = matrix.shape
    return width == columns and (width == 1 or matrix.stride(1) == 1) and (n == 1 or matrix.stride(0) == columns)


_attention_inside = types.FunctionType(
    functional.multi_head_attention_forward.__code__,
    {**functional.__dict__, "has_torch_function": lambda _: False},
    argdefs=functional.multi_head_attention_forward.__defaults__,
)
"""Attention as PyTorch computes it, without its question whether a mode is active: what it calls is seen instead."""


def _linear(mode: WeightUses, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
    bound = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return _product(mode, bound["input"], bound["weight"], mode.name_of(bound.get("bias")))


def _times(mode: WeightUses, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
    """Input times [inputs, outputs]."""
    x, weight = (*args, *kwargs.values())[:2]
    if isinstance(weight, Tensor) and weight.ndim == 3:
        return _products_in_batches(mode, (x, weight), {})
    fit = isinstance(weight, Tensor) and isinstance(x, Tensor) and weight.ndim == 2 and x.ndim > 0
    return _product(mode, x, weight.T) if fit and x.shape[-1] == len(weight) else []


def _plus_times(mode: WeightUses, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
    """A product times ``alpha``, by which its input counts more or less."""
    bound = dict(zip(("input", "mat1", "mat2"), args, strict=False)) | kwargs
    factor = bound.get("alpha", 1)
    x = bound["mat1"] if factor == 1 else bound["mat1"] * factor
    return _times(mode, (x, bound["mat2"]), {})


def _product(
    mode: WeightUses, x: Tensor, matrix: Tensor, bias: str | None = None, rows: slice = slice(None)
) -> list[Use]:
    """The uses of a matrix [outputs, inputs], by these rows of the input."""
    x = x if x.layout == torch.strided else x.to_dense()

    def uses() -> Iterator[Use]:
        for name, inputs_first, outputs, layer in mode.places_of(matrix):

            def parts(x: Tensor, g: Tensor, samples: int, outputs: slice = outputs) -> Iterator[Part]:
                yield Part(by_sample(x[rows], samples)[None], by_sample(g[rows][..., outputs], samples)[None])

            yield Use(name, x, parts, inputs_first=inputs_first, layer=layer, bias=bias)

    return list(uses())


def _products_in_batches(mode: WeightUses, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
    """Inputs [layers, places, inputs] times matrices [layers, inputs, outputs]."""
    x, matrices = (*args, *kwargs.values())[:2]
    fit = all(isinstance(t, Tensor) and t.ndim == 3 for t in (x, matrices)) and len(x) == len(matrices)
    if not fit or _storage(matrices) not in mode.storages:
        return []
    return [use for k, m in enumerate(matrices) for use in _product(mode, x, m.T, rows=slice(k, k + 1))]


def _products_by_rows(mode: WeightUses, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
    """Rows of the input, in order, times the matrices [layers, inputs, outputs] that they are sent to."""
    bound = dict(zip(("input", "mat2", "offs"), args, strict=False)) | kwargs
    x, matrices, ends = bound["input"], bound["mat2"], bound.get("offs")
    if x.ndim != 2 or matrices.ndim != 3 or ends is None:
        return []
    bounds = [0, *ends.tolist()]
    by_layer = zip(matrices, bounds, bounds[1:], strict=False)
    return [use for m, a, b in by_layer if b > a for use in _product(mode, x, m.T, rows=slice(a, b))]


def by_sample(t: Tensor, samples: int) -> Tensor:
    """[samples, places, features] where the first dimension counts the samples, otherwise all as one sample.

    One sample for all is right in the mean: the probes of different samples are independent, so the products of their
    gradients vanish.
    """
    if t.ndim > 1 and len(t) == samples:
        return t.reshape(samples, -1, t.shape[-1])
    return t.reshape(1, -1, t.shape[-1])


def _convolution(mode: WeightUses, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    bound = dict(zip(names, args, strict=False)) | kwargs
    weight = bound["weight"]
    name = mode.name_of(weight)
    if name is None:
        return []
    kernel = tuple(weight.shape[2:])
    shape = _Window(kernel, *(_each(bound.get(k, 1), len(kernel)) for k in ("stride", "dilation")))
    padding, groups = shape.padding(bound.get("padding", 0)), bound.get("groups", 1)

    def parts(inputs: Tensor, gradients: Tensor, _: int) -> Iterator[Part]:
        for x, g in _pieces(inputs, gradients, len(kernel) + 2, math.prod(kernel)):
            patches = shape.patches(x, padding, groups)
            places = g.reshape(len(g), groups, -1, g.shape[2:].numel()).permute(1, 0, 3, 2)
            yield Part(patches, places)

    bias = mode.name_of(bound.get("bias"))
    return [Use(name, bound["input"], parts, "convolution", groups=groups, bias=bias)]


def _transposed_convolution(mode: WeightUses, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
    """A linear layer from the input's channels to the taps of all outputs, at each place of the input."""
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    bound = dict(zip(names, args, strict=False)) | kwargs
    weight = bound["weight"]
    name = mode.name_of(weight)
    if name is None:
        return []
    kernel = tuple(weight.shape[2:])
    shape = _Window(kernel, *(_each(bound.get(k, 1), len(kernel)) for k in ("stride", "dilation")))
    padding, groups = shape.padding(bound.get("padding", 0)), bound.get("groups", 1)

    def parts(inputs: Tensor, gradients: Tensor, _: int) -> Iterator[Part]:
        for x, g in _pieces(inputs, gradients, len(kernel) + 2, math.prod(kernel)):
            places = x.reshape(len(x), groups, -1, x.shape[2:].numel()).permute(1, 0, 3, 2)
            yield Part(places, shape.patches(g, padding, groups, at_most=tuple(x.shape[2:])))

    kind: dict[str, Any] = {"inputs_first": True, "groups": groups, "taps": math.prod(kernel)}
    return [Use(name, bound["input"], parts, "convolution", **kind, bias=mode.name_of(bound.get("bias")))]


def _pieces(x: Tensor, g: Tensor, ndim: int, taps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Input and gradient of so many samples at a time that their unfolded input is of limited size.

    The first dimension is taken to count samples. Where it counts more (frames, windows), what they have in common is
    not seen.
    """
    x, g = (t if t.ndim == ndim else t[None] for t in (x, g))
    step = max(1, PATCH_VALUES // max(1, taps * x[0].numel()))
    for at in range(0, len(x), step):
        yield x[at : at + step], g[at : at + step]


class _Window(NamedTuple):
    """How a convolution's kernel moves over its input."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    def padding(self, given: Any) -> tuple[tuple[int, int], ...]:
        """What is added before and after each axis."""
        if given == "valid":
            given = 0
        if given == "same":
            more = [d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True)]
            return tuple((m // 2, m - m // 2) for m in more)
        return tuple((p, p) for p in _each(given, len(self.kernel)))

    def patches(
        self, x: Tensor, padding: tuple[tuple[int, int], ...], groups: int, at_most: tuple[int, ...] | None = None
    ) -> Tensor:
        """What the kernel meets at each place: [groups, n, places, channels / groups * taps]."""
        x = functional.pad(x, [p for pair in reversed(padding) for p in pair])
        n, channels, *sizes = x.shape
        strides = x.stride()
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        steps = [(size - span) // s + 1 for size, span, s in zip(sizes, spans, self.stride, strict=True)]
        steps = steps if at_most is None else [min(a, b) for a, b in zip(steps, at_most, strict=True)]
        moves = [s * by for s, by in zip(strides[2:], self.stride, strict=True)]
        taps = [s * by for s, by in zip(strides[2:], self.dilation, strict=True)]
        shape = (groups, channels // groups, n, *steps, *self.kernel)
        view = x.as_strided(shape, (strides[1] * (channels // groups), strides[1], strides[0], *moves, *taps))
        k = len(steps)
        order = (0, 2, *range(3, 3 + k), 1, *range(3 + k, 3 + 2 * k))
        return view.permute(order).reshape(groups, n, math.prod(steps), -1)


def _each(value: Any, n: int) -> tuple[int, ...]:
    """One number for each axis."""
    if isinstance(value, int):
        return (value,) * n
    return tuple(value) if len(value) == n else (value[0],) * n


def _embedding(mode: WeightUses, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
    bound = dict(zip(("input", "weight"), args, strict=False)) | kwargs
    name = mode.name_of(bound["weight"])

    def parts(x: Tensor, g: Tensor, samples: int) -> Iterator[Part]:
        ids, gradients = by_sample(x[..., None], samples), by_sample(g, samples)
        yield Part(ids[None], gradients[None])

    return [] if name is None else [Use(name, bound["input"], parts, "table")]


def _embedding_bag(mode: WeightUses, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
    bound = dict(zip(("input", "weight"), args, strict=False)) | kwargs
    name = mode.name_of(bound["weight"])
    return [] if name is None else [Use(name, bound["input"], no_parts, "table", by_gradient=True)]


def no_parts(*_: Any) -> Iterator[Part]:
    """Of a weight whose own gradient is taken."""
    return iter(())


def _rows_by_number(mode: WeightUses, args: tuple[Any, ...], _: dict[str, Any]) -> list[Use]:
    """Indexing of a table by integers."""
    table, index = args
    by_number = isinstance(index, Tensor) and not index.is_floating_point() and index.dtype != torch.bool
    return _embedding(mode, (index, table), {}) if by_number and table.ndim == 2 else []


_Finder = Callable[[WeightUses, tuple[Any, ...], dict[str, Any]], list[Use]]
_FINDERS: dict[Any, _Finder] = {
    functional.linear: _linear,
    functional.embedding: _embedding,
    functional.embedding_bag: _embedding_bag,
    Tensor.__getitem__: _rows_by_number,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm), _times),
    **dict.fromkeys((torch.bmm, Tensor.bmm), _products_in_batches),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _plus_times),
    torch._grouped_mm: _products_by_rows,  # noqa: SLF001 - what functional.grouped_mm calls
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed_convolution),
}
