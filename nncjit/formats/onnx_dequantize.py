"""Weights of an ONNX graph as integers behind a DequantizeLinear node, whose output has the weight's name."""

from __future__ import annotations

from typing import Any

import numpy as np

from nncjit.extras import require
from nncjit.formats.onnx_places import graphs, places
from nncjit.model import Graph

Array = np.ndarray[Any, Any]

LEAST_OPSET, AXIS_OPSET, INT16_OPSET = 10, 13, 21
"""From which DequantizeLinear exists, takes a scale for each row, and takes int16."""

_FLOAT = 1
_CODES = {"int8": 3, "int16": 5}
_DOMAINS = ("", "ai.onnx")


class DequantizedGraph:
    """A graph whose initialisers become integers, one after the other.

    Parameters
    ----------
    graph : Graph
        As `nncjit.formats.onnx` makes it, without data.
    """

    def __init__(self, graph: Graph) -> None:
        self._onnx = require("onnx", "ONNX files")
        self._format = graph.format
        self._model = self._onnx.ModelProto.FromString(graph.data)
        main = self._model.graph
        self._initial = {tensor.name: tensor for tensor in main.initializer}
        self._bound = {info.name for info in [*main.input, *main.output]}
        self._places = {place.name for place in places(self._model)}
        self._taken = self._places | self._bound
        for _, inner in graphs(self._model):
            for node in inner.node:
                self._taken |= {*node.input, *node.output, node.name}
            self._taken |= {tensor.name for tensor in getattr(inner, "initializer", ())}
        self._nodes: list[Any] = []

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return max((row.version for row in self._model.opset_import if row.domain in _DOMAINS), default=1)

    def refusal(self, name: str) -> str:
        """Why a tensor cannot become integers; empty where it can."""
        tensor = self._initial.get(name)
        if tensor is None or f"{name}~2" in self._places:
            return "not initialisers of the main graph"
        if name in self._bound or self._model.training_info:
            return "inputs or outputs of the graph, or trained by it"
        return "" if tensor.data_type == _FLOAT else "not of the type float"

    def dequantize(self, name: str, dtype: str, scale: Array, axis: int) -> str:
        """Make an initialiser the levels of its values; their name in the graph.

        Parameters
        ----------
        name : str
            One without a `refusal`.
        dtype : str
            int8 or int16.
        scale : float32 array
            0-d or 1-d.
        axis : int
            The dimension along which a scale that is 1-d runs.
        """
        levels, scales, label = (self._free(f"{name}.{what}") for what in ("levels", "scale", "dequantize"))
        tensor = self._initial.pop(name)
        tensor.name, tensor.data_type = levels, _CODES[dtype]
        self._model.graph.initializer.append(self._onnx.numpy_helper.from_array(scale, scales))
        along = {"axis": axis} if scale.ndim else {}
        make = self._onnx.helper.make_node
        self._nodes.append(make("DequantizeLinear", [levels, scales], [name], name=label, **along))
        return levels

    def graph(self) -> Graph:
        """The graph with all nodes that were asked for, in front of the others."""
        model = self._onnx.ModelProto()
        model.CopyFrom(self._model)
        others = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*self._nodes, *others])
        return Graph(self._format, model.SerializeToString(deterministic=True))

    def _free(self, wanted: str) -> str:
        """The name, or one with a number where it is taken."""
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}{number}", number + 1
        self._taken.add(name)
        return name
