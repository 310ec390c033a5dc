"""What the tensors of an ONNX graph do, from the nodes that take them.

A tensor that several layers share belongs to none. A batch norm belongs to the layer before it where nothing else takes
what lies between; a bias that is added by a node of its own likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nncjit.formats.onnx_places import graphs, label
from nncjit.model import Role

Shapes = Mapping[tuple[str, str], tuple[int, ...]]
"""Path of a graph, name of a tensor in it -> shape."""

_PLAIN = ("", "ai.onnx")
_BOTH_SIDES = {0: "levels", 1: "scale", 2: "zero_point", 3: "levels", 4: "scale", 5: "zero_point"}
_LEVELS: dict[str, dict[int, str]] = {
    "DequantizeLinear": {0: "levels", 1: "scale", 2: "zero_point"},
    "QuantizeLinear": {1: "scale", 2: "zero_point"},
    "QLinearConv": {**_BOTH_SIDES, 6: "scale", 7: "zero_point"},
    "QLinearMatMul": {**_BOTH_SIDES, 6: "scale", 7: "zero_point"},
    "QLinearAdd": {**_BOTH_SIDES, 6: "scale", 7: "zero_point"},
    "QLinearMul": {**_BOTH_SIDES, 6: "scale", 7: "zero_point"},
    "QGemm": {**_BOTH_SIDES, 6: "levels", 7: "scale", 8: "zero_point"},
    "MatMulInteger": {1: "levels", 2: "zero_point", 3: "zero_point"},
    "ConvInteger": {1: "levels", 2: "zero_point", 3: "zero_point"},
    "DynamicQuantizeMatMul": {1: "levels", 2: "scale", 3: "zero_point"},
    "MatMulIntegerToFloat": {1: "levels", 2: "scale", 3: "scale", 4: "zero_point", 5: "zero_point"},
    "DynamicQuantizeLSTM": {1: "levels", 2: "levels", 8: "scale", 9: "zero_point", 10: "scale", 11: "zero_point"},
    "QAttention": {1: "levels", 3: "scale", 4: "scale", 6: "zero_point", 7: "zero_point"},
    "GatherBlockQuantized": {0: "levels", 2: "scale", 3: "zero_point"},
    "MatMulNBits": {1: "levels", 2: "scale", 3: "zero_point"},
    "MatMulBnb4": {1: "levels", 2: "scale"},
    "QMoE": {2: "levels", 3: "scale", 5: "levels", 6: "scale", 8: "levels", 9: "scale"},
}
"""Operator -> input -> role. Contrib operators have the domain com.microsoft."""
_NORMS = {
    "LayerNormalization": {1: "gamma", 2: "beta"},
    "InstanceNormalization": {1: "gamma", 2: "beta"},
    "GroupNormalization": {1: "gamma", 2: "beta"},
    "SimplifiedLayerNormalization": {1: "gamma"},
    "RMSNormalization": {1: "gamma"},
}
_FIXED = _LEVELS | _NORMS | {"Gather": {0: "weight"}}
"""Operators whose inputs have the same roles whatever is around them."""
_BATCHNORM = {1: "gamma", 2: "beta", 3: "mean", 4: "var"}
_EPSILON = 1e-5
"""The default of BatchNormalization."""


def roles(model: Any, shapes: Shapes) -> dict[tuple[str, str], Role]:
    """The roles of tensors by the path of their graph and their name in it."""
    found: dict[tuple[str, str], Role] = {}
    for path, graph in graphs(model):
        for name, role in _in_graph(graph, path, {name: shape for (at, name), shape in shapes.items() if at == path}):
            earlier = found.get((path, name))
            if earlier is None or (role.kind == "scale" and earlier.kind != "scale"):
                found[path, name] = role
            elif earlier != role:
                found[path, name] = Role(earlier.kind, "", earlier.axis)
    return found


def _in_graph(graph: Any, path: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Role]]:
    takers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            takers[name] = takers.get(name, 0) + 1
    for output in graph.output:
        name = output.name if hasattr(output, "name") else output  # of a function they are names
        takers[name] = takers.get(name, 0) + 1
    layer_of: dict[str, str] = {}
    for node in graph.node:
        for at, role in _of_node(node, path, shapes, layer_of):
            if at < len(node.input) and node.input[at] in shapes:
                shared = takers[node.input[at]] > 1
                yield node.input[at], replace(role, layer="") if shared else role
                if role.kind == "weight" and role.layer and node.output and takers.get(node.output[0]) == 1:
                    layer_of[node.output[0]] = role.layer
    yield from ((name, Role("scale")) for name in _scales_of_products(graph) if name in shapes)


def _scales_of_products(graph: Any) -> list[str]:
    """What the products of integers are multiplied with: a scale, or the product of two."""
    makers = {name: node for node in graph.node for name in node.output}
    products: set[str] = set()
    scales: list[str] = []
    for node in graph.node:
        is_cast = node.op_type == "Cast" and len(node.input) == 1 and node.input[0] in products
        if is_cast or node.op_type in ("MatMulInteger", "ConvInteger"):
            products.update(node.output)
        elif node.op_type == "Mul" and len(node.input) == 2:
            for at in (0, 1):
                if node.input[at] in products:
                    scale = node.input[1 - at]
                    maker = makers.get(scale)
                    scales += maker.input if maker is not None and maker.op_type == "Mul" else [scale]
    return scales


def _of_node(
    node: Any, path: str, shapes: Mapping[str, tuple[int, ...]], layer_of: Mapping[str, str]
) -> Iterator[tuple[int, Role]]:
    op = node.op_type
    if op in _FIXED:
        yield from ((at, Role(kind)) for at, kind in _FIXED[op].items())
    elif node.domain not in _PLAIN:
        return
    elif op in ("Conv", "ConvTranspose", "Gemm"):
        layer, axis = _linear(node, path)
        yield 1, Role("weight", layer, axis)
        yield 2, Role("bias", layer)
    elif op == "MatMul" and len(node.input) == 2:
        rank = len(shapes.get(node.input[1], ()))
        yield 1, Role("weight", path + label(node) if rank == 2 else "", max(rank - 1, 0))
        yield 0, Role("weight")
    elif op == "Add" and len(node.input) == 2:
        for at in (0, 1):
            if node.input[1 - at] in layer_of:
                yield at, Role("bias", layer_of[node.input[1 - at]])
    elif op == "BatchNormalization" and node.input:
        eps = float(_attribute(node, "epsilon", _EPSILON))
        yield from ((at, Role(kind, layer_of.get(node.input[0], ""), 0, eps)) for at, kind in _BATCHNORM.items())
    elif op in ("LSTM", "GRU", "RNN"):
        yield from ((1, Role("weight", "", 1)), (2, Role("weight", "", 1)), (3, Role("bias")))


def _linear(node: Any, path: str) -> tuple[str, int]:
    """The layer of a convolution or of Gemm, and the axis of its outputs. No layer where a bias is not simply added, or
    outputs are not all along that axis.
    """
    layer = path + label(node)
    if node.op_type == "ConvTranspose":
        return layer if _attribute(node, "group", 1) == 1 else "", 1
    if node.op_type == "Gemm":
        plain = _attribute(node, "alpha", 1.0) == _attribute(node, "beta", 1.0) == 1
        return layer if plain else "", 0 if _attribute(node, "transB", 0) else 1
    return layer, 0


def _attribute(node: Any, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(attribute.f) if attribute.type == 1 else int(attribute.i)
    return default
