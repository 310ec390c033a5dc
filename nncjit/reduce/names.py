"""What the names of tensors reveal: which tensors form a layer, and which batch norm could follow which layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

ROLES = {
    "weight": "weight",
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "mean",
    "moving_mean": "mean",
    "running_var": "var",
    "moving_variance": "var",
}
"""Last part of a name -> role: PyTorch's and Hugging Face's, then Keras'."""

WORDS = (
    ("convolution", ("normalization", "batchnorm")),
    ("conv", ("bn", "norm", "batchnorm", "batch_norm")),
    ("conv2d", ("batch_normalization",)),
    ("dense", ("batch_normalization", "bn")),
    ("linear", ("bn", "batchnorm")),
    ("fc", ("bn",)),
)
"""A word in the layer's name, and what a batch norm that belongs to it may have there instead: conv1, bn1."""

AFFIXES = ("{}_bn", "{}_BN", "bn_{}", "{}_batchnorm", "{}_batch_norm")
"""A batch norm named after its layer: block_1_expand, block_1_expand_BN."""

TRANSPOSED = re.compile(r"transpos|deconv|upconv|convt|up_?sampl|(?:^|[./_])up\d*(?:[./_]|$)", re.IGNORECASE)
"""Names that a transposed convolution, whose output channels lie along another axis, is likely to have."""


@dataclass(frozen=True, slots=True)
class Module:
    """The tensors of one path."""

    parent: str
    """With its separator at the end, or empty."""
    leaf: str
    keras: bool
    """Named the way of Keras: output channels are the last axis of a kernel."""
    tensors: dict[str, str] = field(default_factory=dict)
    """Role -> name; the weight and bias of a PyTorch batch norm are its gamma and beta."""

    @property
    def path(self) -> str:
        return self.parent + self.leaf

    @property
    def is_batchnorm(self) -> bool:
        return "mean" in self.tensors and "var" in self.tensors


def modules_of(names: Mapping[str, object]) -> dict[str, Module]:
    """Path -> module, in the order of the names. Names without a known role are left out."""
    modules: dict[str, Module] = {}
    for name in names:
        path, leaf = _split(name.removesuffix(":0"))
        if leaf in ROLES:
            keras = leaf not in ("weight", "bias", "running_mean", "running_var")
            module = modules.get(path)
            if module is None or keras > module.keras:
                module = Module(*_parent(path), keras, module.tensors if module else {})
                modules[path] = module
            module.tensors.setdefault(ROLES[leaf], name)
    return {path: _named_batchnorm(module) for path, module in modules.items()}


def _named_batchnorm(module: Module) -> Module:
    """Weight and bias called gamma and beta where the module is a batch norm; their order stays."""
    if not module.is_batchnorm:
        return module
    tensors = {{"weight": "gamma", "bias": "beta"}.get(role, role): name for role, name in module.tensors.items()}
    return replace(module, tensors=tensors)


def _split(name: str) -> tuple[str, str]:
    """Path and last part: "a.b.weight" -> "a.b", "weight"."""
    at = max(name.rfind("."), name.rfind("/"))
    return name[: max(at, 0)], name[at + 1 :]


def _parent(path: str) -> tuple[str, str]:
    at = max(path.rfind("."), path.rfind("/"))
    return path[: at + 1], path[at + 1 :]


def in_definition_order(modules: Mapping[str, Module]) -> bool:
    """Whether the names come as the network defines its layers, not sorted: there a weight comes before its bias."""
    pairs = [("weight", "bias"), ("gamma", "beta")]
    order = [
        list(m.tensors).index(first) < list(m.tensors).index(second)
        for m in modules.values()
        for first, second in pairs
        if first in m.tensors and second in m.tensors
    ]
    return bool(order) and all(order)


def followers(module: Module) -> Iterator[tuple[str, str]]:
    """The rules that name a batch norm for this layer, and the path each of them names.

    A rule is the key under which all its matches in a model are checked together. Neighbours in a numbered sequence
    are checked parent by parent, and their rule starts with "next".
    """
    if module.leaf.isdecimal():
        yield f"next {module.parent}", f"{module.parent}{int(module.leaf) + 1}"
    for word, others in WORDS:
        before, found, after = module.leaf.rpartition(word)
        if found and not before[-1:].isalpha() and not after[:1].isalpha():
            for other in others:
                yield f"{word} {other}", f"{module.parent}{before}{other}{after}"
    for affix in AFFIXES:
        yield affix, module.parent + affix.format(module.leaf)
