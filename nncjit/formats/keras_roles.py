"""What the tensors of a Keras model do: from the class of their layer, or from their names in older files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from nncjit.model import Role

__all__ = ["classes_in", "role_by_name", "role_by_place"]

MAX_DEPTH = 200
OPTIMIZER = ("optimizer", "optimizer_weights")
"""First part of the names of what training goes on from; it is stored exactly."""

_OUTPUTS = {
    "Dense": -1, "EinsumDense": -1, "Embedding": 0, "Conv1D": -1, "Conv2D": -1, "Conv3D": -1, "Conv1DTranspose": -2,
    "Conv2DTranspose": -2, "Conv3DTranspose": -2, "DepthwiseConv1D": -2, "DepthwiseConv2D": -2,
}  # fmt: skip
"""Class of a layer with one weight and perhaps a bias -> the dimension of its outputs."""
_NORMS = ("BatchNormalization", "LayerNormalization", "GroupNormalization")
_BY_NAME = {
    "bias": "bias", "gamma": "gamma", "beta": "beta", "moving_mean": "mean", "moving_variance": "var",
}  # fmt: skip
_WEIGHTS = {"kernel": -1, "embeddings": 0, "depthwise_kernel": -2, "pointwise_kernel": -1, "recurrent_kernel": -1}
_EPSILON = 1e-3
"""The default of Keras."""


class Layer(NamedTuple):
    """A layer in the configuration of a model."""

    kind: str
    config: Mapping[str, Any]


def classes_in(text: bytes) -> dict[str, Layer]:
    """The layers of a configuration by name; empty where it is none."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return dict(_layers(config))


def _layers(config: Any, depth: int = 0) -> Iterator[tuple[str, Layer]]:
    if depth > MAX_DEPTH:
        return
    if isinstance(config, Mapping):
        kind, inner = config.get("class_name"), config.get("config")
        if isinstance(kind, str) and isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
            yield inner["name"], Layer(kind, inner)
    values = config.values() if isinstance(config, Mapping) else config if isinstance(config, list) else ()
    for value in values:
        yield from _layers(value, depth + 1)


def role_by_place(path: str, layer: Layer | None, rank: int) -> Role | None:
    """Of a tensor ``.../vars/3`` of a layer.

    Parameters
    ----------
    path : str
    layer : Layer
        That the group of the tensor names.
    rank : int
        Dimensions of the tensor.
    """
    if path.partition("/")[0] in OPTIMIZER:
        return Role("kept")
    group, _, place = path.rpartition("/")
    if layer is None or not place.isdecimal():
        return None
    if layer.kind in _OUTPUTS:
        return _of_layer(("weight", "bias")[min(int(place), 1)], group, _OUTPUTS[layer.kind], rank)
    if layer.kind in _NORMS:
        kinds = ["gamma"] * bool(layer.config.get("scale", True)) + ["beta"] * bool(layer.config.get("center", True))
        kinds += ["mean", "var"] * (layer.kind == _NORMS[0])
        epsilon = layer.config.get("epsilon", _EPSILON)
        if int(place) < len(kinds) and isinstance(epsilon, float | int):
            return Role(kinds[int(place)], eps=float(epsilon))
    return None


def role_by_name(path: str, rank: int) -> Role | None:
    """Of a tensor whose name says what it is, as in files of Keras 2."""
    if path.partition("/")[0] in OPTIMIZER:
        return Role("kept")
    group, _, last = path.rpartition("/")
    name = last.partition(":")[0]
    if name in _WEIGHTS:
        return _of_layer("weight", group, _WEIGHTS[name], rank)
    if name == "bias":
        return _of_layer("bias", group, 0, rank)
    kind = _BY_NAME.get(name)
    return None if kind is None else Role(kind, eps=_EPSILON)


def _of_layer(kind: str, layer: str, axis: int, rank: int) -> Role | None:
    if kind == "bias":
        return Role("bias", layer)
    return Role("weight", layer, axis % rank) if rank >= max(-axis, 2) else None
