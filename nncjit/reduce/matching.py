"""Which batch norm follows which layer; the rules are those of `nncjit.reduce.blocks`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from nncjit.reduce.names import TRANSPOSED, Module, followers, in_definition_order

Shapes = Mapping[str, tuple[int, ...]]

CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")
"""Linear layers of Hugging Face's GPT-2 family, with the outputs as columns."""


class NetworkLayer(NamedTuple):
    """A module with a weight of two axes or more."""

    module: Module
    weight: str
    shape: tuple[int, ...]
    axis: int
    """Of the outputs."""

    @property
    def outputs(self) -> int:
        return self.shape[self.axis]

    def may_be_transposed(self) -> bool:
        """Whether the outputs could lie along another axis of the same size."""
        if self.module.keras:
            inputs, kernel = self.shape[-2], self.shape[:-2]
        else:
            inputs, kernel = self.shape[1], self.shape[2:]
        if not kernel or inputs != self.outputs:
            return False
        return bool(TRANSPOSED.search(self.module.path)) or any(side % 2 == 0 for side in kernel)

    def cannot_take(self, channels: int) -> bool:
        """Whether this many channels cannot be the input, grouped or not."""
        inputs = self.shape[-2] if self.module.keras else self.shape[1]
        return channels != inputs if len(self.shape) == 2 else channels % max(inputs, 1) != 0


def layers_of(modules: Mapping[str, Module], shapes: Shapes) -> dict[str, NetworkLayer]:
    """Path -> layer, for the modules that are one."""
    layers = {}
    for path, module in modules.items():
        weight = module.tensors.get("weight")
        if weight is not None and len(shapes[weight]) >= 2:
            layers[path] = NetworkLayer(module, weight, shapes[weight], _output_axis(module, weight, shapes))
    return layers


def _output_axis(module: Module, weight: str, shapes: Shapes) -> int:
    shape = shapes[weight]
    if module.keras:
        depthwise = weight.removesuffix(":0").endswith("depthwise_kernel") and shape[-1] == 1
        return len(shape) - 2 if depthwise else len(shape) - 1
    bias = shapes.get(module.tensors.get("bias", ""), ())
    columns = module.leaf in CONV1D and len(shape) == 2 and shape[0] != shape[1] and bias == shape[1:]
    return 1 if columns else 0


def match_batchnorms(
    layers: Mapping[str, NetworkLayer], modules: Mapping[str, Module], shapes: Shapes
) -> dict[str, Module]:
    """Path of a layer -> the batch norm that follows it."""
    rules: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, layer in layers.items():
        for rule, other in followers(layer.module):
            if other in modules and modules[other].is_batchnorm:
                rules[rule].append((path, other))
    claims = {pair for rule, pairs in rules.items() if _holds(rule, pairs, layers, modules, shapes) for pair in pairs}
    by_layer, by_norm = Counter(layer for layer, _ in claims), Counter(norm for _, norm in claims)
    return {
        layer: modules[norm]
        for layer, norm in sorted(claims)
        if by_layer[layer] == by_norm[norm] == 1 and not layers[layer].may_be_transposed()
    }


def _holds(
    rule: str,
    pairs: list[tuple[str, str]],
    layers: Mapping[str, NetworkLayer],
    modules: Mapping[str, Module],
    shapes: Shapes,
) -> bool:
    """Whether a rule of names can be relied on in this model."""
    if not all(_fits(layers[layer], modules[norm], shapes) for layer, norm in pairs):
        return False
    if rule.startswith("next "):
        return True
    if in_definition_order(modules):
        place = {path: at for at, path in enumerate(modules)}
        return all(place[layer] < place[norm] for layer, norm in pairs)
    return any(layers[layer].cannot_take(layers[layer].outputs) for layer, _ in pairs)


def _fits(layer: NetworkLayer, norm: Module, shapes: Shapes) -> bool:
    """Whether the batch norm has one channel for each output."""
    return all(shapes[name] == (layer.outputs,) for name in norm.tensors.values())
