"""What one side of a chain of updates knows of the model at a moment: values, and what the next update builds on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from nncjit.model import Graph, Model, TensorInfo
from nncjit.stream.update_metadata import DIGEST_BYTES, TAG_BYTES

Array = np.ndarray[Any, Any]
Reader = Callable[[], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A tensor of a chain: its place in the parameter update tree, and how to read what is kept of it."""

    info: TensorInfo
    number: int
    """parameter_id: it stays when the tensor is renamed."""
    read: Reader
    """Its values: a storage array, which nobody may write to."""
    depth: int = 0
    """put_node_depth: how many units it has had since its values alone were known."""
    payload: Callable[[], bytes] | None = None
    """Of its latest unit, until that is kept by its hashes."""
    unit_sha256: bytes | None = None
    """Of the payload of its latest unit; None where it has had none, or where that has not been worked out."""
    unit_sha512: bytes | None = None
    value_sha256: bytes | None = None
    """Of its values, little-endian; None where that has not been worked out."""
    levels: Reader | None = None
    """int32[n], raster order: the levels of its latest unit."""
    touched: Reader | None = None
    """uint8[n], raster order: 1 where any of its updates was not zero."""
    n_levels: int = 0
    """Elements of both."""
    change: Reader | None = None
    """float32: what its latest update added, where the chain predicts by it."""
    residual: Reader | None = None
    """float32: what a sender had left over of the latest update, where it carries that into the next one."""
    release: Callable[[], None] | None = None
    """Forgets what was worked out for the readers."""

    @property
    def name(self) -> str:
        return self.info.name

    def as_base(self, name: str) -> Parameter:
        """The same tensor when only its values are known."""
        return Parameter(
            info=replace(self.info, name=name), number=self.number, read=self.read, value_sha256=self.value_sha256
        )

    def parent_hash(self, algorithm: str) -> bytes:
        """The hash that names this node as a parent: of the payload of its latest unit, or of its own values, which
        would be the payload of a unit that holds them as they are.
        """
        known = self.unit_sha256 if algorithm == "sha256" else self.unit_sha512
        if self.payload is not None:
            return hashlib.new(algorithm, self.payload()).digest()
        return known if known is not None else hashlib.new(algorithm, little_endian(self.read())).digest()

    def with_hashes(self) -> Parameter:
        """The same with the hashes of its latest unit in place of the payload."""
        if self.payload is None:
            return self
        sha256, sha512 = (self.parent_hash(algorithm) for algorithm in ("sha256", "sha512"))
        return replace(self, payload=None, unit_sha256=sha256, unit_sha512=sha512)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainState:
    """A model at a moment of a chain."""

    parameters: Mapping[str, Parameter]
    """By name, tied tensors left out."""
    tied: Mapping[str, str]
    """Name -> tensor whose memory it shares."""
    order: tuple[str, ...]
    """All names."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The metadata of the model."""
    number: int = 0
    """Updates so far."""
    next_parameter: int = 0
    """parameter_id of the next new tensor."""
    rebased: bool = False
    """Whether other values were taken for the model since the latest update."""
    graphs: tuple[Graph, ...] = ()
    """What the tensors are part of, as the file of the base has it; updates leave it alone."""

    @classmethod
    def of(cls, model: Model) -> ChainState:
        """The start of a chain: a model of which the values are known."""
        stored = [tensor for tensor in model if tensor.same_as is None]
        numbers = _numbers(tensor.name for tensor in stored)
        parameters = {t.name: Parameter(info=t.info, number=numbers[t.name], read=t.read) for t in stored}
        tied = {t.name: t.same_as for t in model if t.same_as is not None}
        return cls(
            parameters=parameters,
            tied=tied,
            order=tuple(model.names),
            texts=model.metadata,
            next_parameter=len(parameters),
            graphs=model.graphs,
        )

    def restarted(self) -> ChainState:
        """The same model as the start of a chain."""
        numbers = _numbers(self.parameters)
        parameters = {name: replace(p.as_base(name), number=numbers[name]) for name, p in self.parameters.items()}
        return replace(self, parameters=parameters, number=0, next_parameter=len(parameters))

    def with_parameters(self, parameters: Mapping[str, Parameter]) -> ChainState:
        """The same state of other parameters."""
        return replace(self, parameters=parameters)

    def without_residuals(self) -> ChainState:
        """The state where nothing is carried into the next update."""
        return self.with_parameters({name: replace(p, residual=None) for name, p in self.parameters.items()})

    def infos(self) -> list[TensorInfo]:
        """All tensors in order, tied ones too."""
        return [
            replace(self.parameters[self.tied[name]].info, name=name, same_as=self.tied[name])
            if name in self.tied
            else self.parameters[name].info
            for name in self.order
        ]


def _numbers(names: Iterable[str]) -> dict[str, int]:
    """parameter_id of each tensor at the start of a chain, whatever the order in which a file has them."""
    return {name: number for number, name in enumerate(sorted(names))}


def after_unit(
    origin: Parameter | None,
    info: TensorInfo,
    number: int,
    payload: Callable[[], bytes],
    values: Array,
    levels: Array | None,
    change: Array | None,
    residual: Array | None = None,
) -> Parameter:
    """A tensor after a unit, which is the same on both sides of a chain.

    Parameters
    ----------
    origin : Parameter or None
        The tensor before.
    info : TensorInfo
        The tensor after.
    number : int
        parameter_id.
    payload : callable
        Gives that of the unit.
    values : ndarray
        Storage array.
    levels : int32[n] or None
        Of the unit, raster order; None where it has none: those of the unit before stay.
    change : float32 array or None
        What was added, where the chain predicts by it.
    residual : float32 array, optional
        What a sender has left over.
    """
    depth = 0 if origin is None else origin.depth + 1
    history: dict[str, Any] = {}
    if levels is not None:
        flat = levels.reshape(-1)

        @cache
        def touched() -> Array:
            now: Array = (flat != 0).astype(np.uint8)
            if origin is not None and origin.touched is not None and origin.n_levels == flat.size:
                now |= origin.touched()
            return now

        history = {"levels": lambda: flat, "touched": touched, "n_levels": flat.size}
    elif origin is not None:
        history = {"levels": origin.levels, "touched": origin.touched, "n_levels": origin.n_levels}
    return Parameter(
        info=info,
        number=number,
        read=lambda: values,
        depth=depth,
        payload=payload,
        change=None if change is None else lambda: change,
        residual=None if residual is None else lambda: residual,
        **history,
    )


def little_endian(storage: Array) -> memoryview:
    """The bytes of a storage array as a file or a raw unit holds them."""
    order = np.ascontiguousarray(storage).astype(storage.dtype.newbyteorder("<"), copy=False)
    return memoryview(order.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def value_digest(storage: Array) -> bytes:
    """SHA-256 of the values of a tensor."""
    return hashlib.sha256(little_endian(storage)).digest()


def model_digest(infos: Mapping[str, TensorInfo], digests: Mapping[str, bytes], tied: Mapping[str, str]) -> bytes:
    """What names a model: a hash of the names, types, shapes and values of its tensors, whatever their order.

    Parameters
    ----------
    infos, digests : mappings by name
        Of the tensors that are not tied; digests by `value_digest`.
    tied : mapping of str to str
    """
    whole = hashlib.sha256()
    for name in sorted(infos):
        info = infos[name]
        whole.update(f"{name}\0{info.dtype}\0{list(info.shape)}\0".encode() + digests[name])
    for name in sorted(tied):
        whole.update(f"{name}\0={tied[name]}\0".encode())
    return whole.digest()[:DIGEST_BYTES]


def tag_of(info: TensorInfo, digest: bytes) -> bytes:
    """What tells a tensor of a base from others, and what it becomes: a few bytes of a hash of all that it is."""
    return hashlib.sha256(f"{info.name}\0{info.dtype}\0{list(info.shape)}\0".encode() + digest).digest()[:TAG_BYTES]


def tags_of(infos: Mapping[str, TensorInfo], digests: Mapping[str, bytes]) -> bytes:
    """The tags of the tensors of a model."""
    return b"".join(tag_of(infos[name], digests[name]) for name in sorted(digests))
