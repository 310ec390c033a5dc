"""The nodes that make tensors of NNC streams inside an ONNX graph: put into it, found in it, taken out of it.

In the place of a tensor X, the graph has a tensor of bytes X.nnc, and the node ``X = Decode(X.nnc, target_type)`` of
the domain ``nncjit``, which is this project's own. Its attributes are ``to``, the data_type of X, and ``shape``. As
with CastLike, the second input says what type comes out, for runtimes that tell types of outputs by those of inputs.
Types that operators in Python cannot hand over leave the node in a wider one, and a Cast makes X of that, exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.formats.onnx_places import Place, graphs, label, places
from nncjit.formats.onnx_tensors import TYPES
from nncjit.model import TensorInfo

DOMAIN, OPERATOR, VERSION = "nncjit", "Decode", 1
BYTES, VALUES = ".nnc", ".nnc.values"
"""Behind a tensor's name: of its bytes, and of its values in a wider type."""

_FLOAT, _UINT8, _INT8 = 1, 2, 3
_WIDER = dict.fromkeys((10, 16, 17, 18, 19, 20, 23, 24, 27, 28), _FLOAT) | {
    21: _UINT8,
    25: _UINT8,
    22: _INT8,
    26: _INT8,
}
"""data_type -> one that holds all its values, and that every runtime hands over."""
_FLOAT8 = (17, 18, 19, 20)
_INITIALISERS_APART = 4
"""IR version from which an initialiser that is an input of the graph, too, may have another value there."""


class NodeMaker:
    """Puts nodes into the graphs of one model.

    Parameters
    ----------
    model : ModelProto
    """

    def __init__(self, model: Any) -> None:
        self._onnx = require("onnx", "ONNX files")
        self._model = model
        self._graphs = {path: graph for path, graph in graphs(model) if hasattr(graph, "initializer")}
        self._opset = max((row.version for row in model.opset_import if row.domain in ("", "ai.onnx")), default=1)
        self._types: dict[int, str] = {}
        self._taken = {place.local for place in places(model)}
        self._replaceable: dict[str, set[str]] = {}
        for path, graph in self._graphs.items():
            inputs = {given.name for given in graph.input}
            self._taken |= inputs | {name for node in graph.node for name in (*node.input, *node.output)}
            names = Counter(node.output[0] for node in _constants(graph) if node.attribute[0].HasField("t"))
            names.update(tensor.name for tensor in graph.initializer)
            given = inputs if model.ir_version >= _INITIALISERS_APART else set()
            self._replaceable[path] = {name for name, count in names.items() if name and count == 1} - given

    def can_make(self, place: Place) -> bool:
        """Whether a node can stand for the tensor: nodes of its graph call it by a name, no user of the model gives it
        another value, and the model's version of Cast knows its type.
        """
        if place.local not in self._replaceable.get(place.graph, ()) or place.local + BYTES in self._taken:
            return False
        sparse = self._graphs[place.graph].sparse_initializer
        return self._castable(place) and not any(place.tensor is row.values for row in sparse)

    def put(self, place: Place, size: int) -> None:
        """Put a tensor of `size` bytes and a node in the place of a tensor."""
        graph, tensor = self._graphs[place.graph], place.tensor
        name, to, shape = place.local, tensor.data_type, list(tensor.dims)
        handed_over = _WIDER.get(to, to)
        made = name if handed_over == to else name + VALUES
        at = 0
        for k, constant in enumerate(graph.node):
            if constant.op_type == "Constant" and list(constant.output) == [name]:
                constant.output[0] = name + BYTES
                at = k + 1
        if not at:
            tensor.name = name + BYTES
            _retype_input(graph, name, tensor.name, _UINT8, [size])
        tensor.data_type = _UINT8
        tensor.dims[:] = [size]
        nodes = [
            self._onnx.helper.make_node(
                OPERATOR,
                [name + BYTES, self._target_type(handed_over)],
                [made],
                name=f"{name}{BYTES}.decode",
                domain=DOMAIN,
                to=to,
                shape=shape,
            )
        ]
        if made != name:
            exact = {"saturate": 0} if to in _FLOAT8 else {}
            nodes.append(
                self._onnx.helper.make_node("Cast", [made], [name], name=f"{name}{BYTES}.cast", to=to, **exact)
            )
        for node in reversed(nodes):
            graph.node.insert(at, node)
        if all(row.domain != DOMAIN for row in self._model.opset_import):
            self._model.opset_import.add(domain=DOMAIN, version=VERSION)

    def _castable(self, place: Place) -> bool:
        to = place.tensor.data_type
        if to not in _WIDER:
            return True
        schema = self._onnx.defs.get_schema("Cast", min(self._opset, self._onnx.defs.onnx_opset_version()), "")
        wanted = f"tensor({self._onnx.TensorProto.DataType.Name(to).lower()})"
        known = next(row.allowed_type_strs for row in schema.type_constraints if row.type_param_str == "T2")
        return wanted in known and place.local + VALUES not in self._taken

    def _target_type(self, code: int) -> str:
        """The name of a tensor that says a type."""
        if code not in self._types:
            name = f"nnc.target_type.{self._onnx.TensorProto.DataType.Name(code)}"
            while name in self._taken:
                name += "_"
            graph = self._model.graph
            graph.initializer.append(self._onnx.helper.make_tensor(name, code, [], [0]))
            if self._model.ir_version < _INITIALISERS_APART:
                graph.input.append(self._onnx.helper.make_tensor_value_info(name, code, []))
            self._taken.add(name)
            self._types[code] = name
        return self._types[code]


class DecodeNode(NamedTuple):
    """A node that was found."""

    node: Any
    graph: Any
    place: Place
    """Of its bytes."""
    info: TensorInfo
    """What it makes."""
    to: int
    target: int
    """data_type of the tensor and of what leaves the node."""
    cast: Any
    """The node behind it, None: there is none."""
    where: str
    """For errors: the node and its tensor."""


def find_nodes(model: Any) -> list[DecodeNode]:
    """All nodes that make tensors of streams.

    Raises
    ------
    ModelError
        One has no bytes, or does not say what it makes.
    """
    bytes_of = {(place.graph, place.local): place for place in places(model) if place.local}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = []
    for path, graph in graphs(model):
        takers = Counter(name for node in graph.node for name in node.input)
        casts = {node.input[0]: node for node in graph.node if node.op_type == "Cast" and node.input}
        for node in graph.node:
            if (node.domain, node.op_type) == (DOMAIN, OPERATOR):
                place = bytes_of.get((path, next(iter(node.input), "")))
                if place is None:
                    raise ModelError(f"node {label(node)} ({OPERATOR}): there are no bytes to decode")
                if takers[place.local] > 1:
                    raise ModelError(
                        f"node {label(node)} ({OPERATOR}): another node takes its bytes {place.local}, too"
                    )
                found.append(_described(node, graph, place, types, casts))
    return found


def _described(node: Any, graph: Any, place: Place, types: dict[str, int], casts: dict[str, Any]) -> DecodeNode:
    which = f"node {label(node)} ({OPERATOR})"
    output = node.output[0] if node.output else ""
    cast = casts.get(output) if output.endswith(VALUES) else None
    made = cast.output[0] if cast is not None and cast.output else output
    if f"{made}{BYTES}" != place.local:
        raise ModelError(f"{which}: makes {made!r} of {place.local!r}")
    name = place.name.removesuffix(BYTES)
    given = {attribute.name: attribute for attribute in node.attribute}
    try:
        to, shape = given["to"].i, tuple(given["shape"].ints)
        target = types[node.input[1]] if len(node.input) > 1 else 0
        info = TensorInfo(name, shape, TYPES[to].dtype)
    except (KeyError, ValueError, ModelError):
        raise ModelError(f"{which}: tensor {name}: does not say type and shape") from None
    if target != _WIDER.get(to, to) or (cast is None) != (target == to):
        raise ModelError(f"{which}: tensor {name}: data_type {to} does not come of data_type {target}")
    return DecodeNode(node, graph, place, info, to, target, cast, f"{which}: tensor {name}")


def take_out(model: Any, found: list[DecodeNode]) -> None:
    """Give the tensors of nodes their places again, without data; neither nodes nor what they need stays."""
    for one in found:
        graph, tensor = one.graph, one.place.tensor
        made = one.place.local.removesuffix(BYTES)
        for constant in graph.node:
            if constant.op_type == "Constant" and list(constant.output) == [one.place.local]:
                constant.output[0] = made
        if tensor.name == one.place.local:
            tensor.name = made
            if hasattr(graph, "input"):
                _retype_input(graph, one.place.local, made, one.to, one.info.shape)
        tensor.data_type = one.to
        tensor.dims[:] = one.info.shape
        graph.node.remove(one.node)
        if one.cast is not None:
            graph.node.remove(one.cast)
    types = {one.node.input[1] for one in found}
    types -= {name for _, graph in graphs(model) for node in graph.node for name in node.input}
    for rows in (model.graph.initializer, model.graph.input):
        for row in [row for row in rows if row.name in types]:
            rows.remove(row)
    for row in [row for row in model.opset_import if row.domain == DOMAIN]:
        model.opset_import.remove(row)


def _constants(graph: Any) -> Iterator[Any]:
    return (node for node in graph.node if node.op_type == "Constant" and len(node.attribute) == len(node.output) == 1)


def _retype_input(graph: Any, name: str, new_name: str, code: int, shape: Any) -> None:
    """Old models have all initialisers among the inputs of the graph."""
    for row in graph.input:
        if isinstance(row, str) or row.name != name:  # those of functions are names
            continue
        row.name = new_name
        row.type.tensor_type.elem_type = code
        row.type.tensor_type.shape.ClearField("dim")
        for size in shape:
            row.type.tensor_type.shape.dim.add(dim_value=size)
