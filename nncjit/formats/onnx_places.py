"""Where an ONNX model keeps tensors: initialisers, constants and other attributes of nodes, in graphs of any depth,
functions and training information.

Every tensor has a name of its own. An initialiser has its own name, a constant that of its node's output, both behind
the path of their subgraph. The names depend on nothing but the graph, so whoever walks the same graph finds the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from nncjit.errors import ModelError


class Place(NamedTuple):
    """A tensor of a model."""

    name: str
    """Unique in the model."""
    where: str
    """The node that holds it, for errors; empty for an initialiser of the main graph."""
    tensor: Any
    """TensorProto."""
    local: str
    """Its name inside its graph, empty where no node there can refer to it."""
    graph: str
    """Path of that graph."""


def places(model: Any) -> Iterator[Place]:
    """All tensors of a ModelProto, in order."""
    taken: set[str] = set()
    for place in _all(model):
        name = place.name or "tensor"
        number = 2
        while name in taken:
            name, number = f"{place.name or 'tensor'}~{number}", number + 1
        taken.add(name)
        yield place._replace(name=name)


def graphs(model: Any) -> Iterator[tuple[str, Any]]:
    """Every graph or function body with nodes, and its path."""
    yield from _below(model.graph, "")
    for function in model.functions:
        yield from _below(function, f"{function.domain}.{function.name}/")


def label(node: Any) -> str:
    """What a node is called: its name, or that of its first output."""
    return _text(node.name or next(iter(node.output), "") or node.op_type)


def _text(value: str | bytes) -> str:
    """A text of a protocol buffer, which gives bytes where it is no valid Unicode."""
    if isinstance(value, bytes):
        raise ModelError(f"is damaged: the name {value!r} is not valid Unicode")
    return value


def _below(graph: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, graph
    for node in graph.node:
        for attribute in node.attribute:
            for key, inner in _subgraphs(node, attribute, path):
                yield from _below(inner, key)


def _subgraphs(node: Any, attribute: Any, path: str) -> Iterator[tuple[str, Any]]:
    stem = f"{path}{label(node)}.{_text(attribute.name)}"
    if attribute.HasField("g"):
        yield f"{stem}/", attribute.g
    for k, inner in enumerate(attribute.graphs):
        yield f"{stem}{k}/", inner


def _all(model: Any) -> Iterator[Place]:
    yield from _graph(model.graph, "", "")
    for function in model.functions:
        name = f"{_text(function.domain)}.{_text(function.name)}"
        yield from _nodes(function.node, f"{name}/", f"function {name}, ")
        for attribute in function.attribute_proto:
            yield from _attribute(attribute, f"{name}/{_text(attribute.name)}", f"function {name}", "", f"{name}/")
    for k, info in enumerate(model.training_info):
        for part in ("initialization", "algorithm"):
            yield from _graph(getattr(info, part), f"training{k}.{part}/", f"training {part}, ")


def _graph(graph: Any, path: str, within: str) -> Iterator[Place]:
    for tensor in graph.initializer:
        name = _text(tensor.name)
        yield Place(path + name, within.rstrip(", "), tensor, name, path)
    for sparse in graph.sparse_initializer:
        name = _text(sparse.values.name)
        yield from _sparse(sparse, path + name, within.rstrip(", "), name, path)
    yield from _nodes(graph.node, path, within)


def _nodes(nodes: Any, path: str, within: str) -> Iterator[Place]:
    for node in nodes:
        constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx") and len(node.output) == 1
        where = f"{within}node {label(node)} ({node.op_type})"
        for attribute in node.attribute:
            stem = _text(node.output[0]) if constant else f"{label(node)}.{_text(attribute.name)}"
            local = stem if constant else ""
            yield from _attribute(attribute, path + stem, where, local, path)
            for key, inner in _subgraphs(node, attribute, path):
                yield from _graph(inner, key, f"{where}, {attribute.name}, ")


def _attribute(attribute: Any, name: str, where: str, local: str, path: str) -> Iterator[Place]:
    if attribute.HasField("t"):
        yield Place(name, where, attribute.t, local, path)
    for tensor in attribute.tensors:
        yield Place(name, where, tensor, "", path)
    if attribute.HasField("sparse_tensor"):
        yield from _sparse(attribute.sparse_tensor, name, where, local, path)
    for sparse in attribute.sparse_tensors:
        yield from _sparse(sparse, name, where, "", path)


def _sparse(sparse: Any, name: str, where: str, local: str, path: str) -> Iterator[Place]:
    yield Place(name, where, sparse.values, local, path)
    yield Place(f"{name}.indices", where, sparse.indices, "", path)
