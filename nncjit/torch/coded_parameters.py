"""What stands for parameters whose values stay coded, and whose parameters a layer has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from nncjit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

WHOLE = (torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer)
"""Modules that use the weights of the modules inside them without calling these."""
LISTS = (torch.nn.ParameterList, torch.nn.ParameterDict)
ASKABLE = {
    *("__get__", "__set__", "__repr__", "__len__", "size", "dim", "ndimension", "numel", "nelement", "element_size"),
    *("stride", "storage_offset", "is_floating_point", "is_complex", "is_contiguous", "is_signed", "is_shared"),
    *("requires_grad_", "empty_like", "is_conj", "is_neg", "_is_view", "untyped_storage"),
}
"""What may be asked of a parameter whose values stay coded."""
CODED_ELSEWHERE = (
    "stay coded in a stream: they are there while the layer itself is called. Name the class of a module that uses "
    "those of others in attach(..., whole=[...])"
)
CODED = "its weights stay coded in a stream, so it cannot be {}: call detach() first"


class CodedParameter(torch.nn.Parameter):
    """What stands for a parameter whose values stay coded: on the meta device, and of no use for computing, where torch
    would find anything in its place.
    """

    def __new__(cls, data: Tensor) -> CodedParameter:
        """Without a gradient."""
        return super().__new__(cls, data, requires_grad=False)

    def __deepcopy__(self, memo: Any) -> NoReturn:
        """There is nothing to copy."""
        raise ModelError(CODED.format("copied or pickled"))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """There is nothing to pickle."""
        raise ModelError(CODED.format("copied or pickled"))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let only be asked what needs no values."""
        if func.__name__ not in ASKABLE:
            raise ModelError(f"{func.__name__} uses a parameter whose values {CODED_ELSEWHERE}")
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - as torch's own subclasses do
            return func(*args, **(kwargs or {}))


def owners(name: str, module: Module, whole: tuple[type[Module], ...]) -> Iterator[tuple[str, Module]]:
    """The modules whose parameters are decoded when this one is called: itself, and those inside it that it uses
    without calling them.
    """
    if isinstance(module, whole):
        yield from module.named_modules(prefix=name)
        return
    yield from _with_lists(name, module)
    if isinstance(module, torch.nn.TransformerEncoder) and len(module.layers):  # it looks at its first layer
        yield from module.layers[0].named_modules(prefix=f"{name}.layers.0" if name else "layers.0")


def _with_lists(name: str, module: Module) -> Iterator[tuple[str, Module]]:
    """A module and the lists of parameters in it, which are never called."""
    yield name, module
    for own, inside in module.named_children():
        if isinstance(inside, LISTS):
            yield from _with_lists(f"{name}.{own}" if name else own, inside)
