"""The parameters and buffers of a module by name, filled one by one; those on the meta device are made."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nncjit.errors import ModelError, NncWarning, OptionError
from nncjit.extras import require

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Loaded", "ModuleLoader"]

NAMED = 5
"""Names that an error lists."""


class Loaded(NamedTuple):
    """What of a module and a file did not fit together."""

    missing: list[str]
    """Tensors of the module that the file does not have."""
    unexpected: list[str]
    """Tensors of the file that the module does not have."""


class _Owner(NamedTuple):
    """A place in a module that holds a tensor."""

    module: Any
    name: str
    is_parameter: bool

    def set(self, tensor: Any) -> None:
        table = self.module._parameters if self.is_parameter else self.module._buffers  # noqa: SLF001 - as torch does
        table[self.name] = tensor


class ModuleLoader:
    """Fills a module, tensor by tensor.

    Parameters
    ----------
    module : torch.nn.Module
    device : torch.device
        Where tensors on the meta device are made.

    Raises
    ------
    OptionError
        It is no module.
    """

    def __init__(self, module: Module, device: Any) -> None:
        self._torch = require("torch", "tensors of torch")
        if not isinstance(module, self._torch.nn.Module):
            raise OptionError(f"module is a {type(module).__name__}, must be a torch.nn.Module")
        self._module, self._device = module, device
        self._tensors: dict[str, Any] = {}
        self._owners: dict[int, list[_Owner]] = defaultdict(list)
        for name, owner, tensor in _places(module):
            self._tensors[name] = tensor
            self._owners[id(tensor)].append(owner)
        self._filled: set[int] = set()

    def check(self, shapes: Mapping[str, tuple[int, ...]], *, strict: bool) -> Loaded:
        """Compare names and shapes; a tied tensor of the module is there if its twin is.

        Raises
        ------
        ModelError
            A shape differs, or, if `strict`, a name.
        """
        found = {id(tensor) for name, tensor in self._tensors.items() if name in shapes}
        missing = [name for name, tensor in self._tensors.items() if id(tensor) not in found]
        unexpected = [name for name in shapes if name not in self._tensors]
        for name, shape in shapes.items():
            own = self._tensors.get(name)
            if own is not None and tuple(own.shape) != tuple(shape):
                raise ModelError(f"{name}: the file has shape {list(shape)}, the module {list(own.shape)}")
        if strict and (missing or unexpected):
            wrong = [f"{word} {_some(names)}" for word, names in (("lacks", missing), ("adds", unexpected)) if names]
            raise ModelError(f"this file does not fit the module: it {' and '.join(wrong)}")
        return Loaded(missing, unexpected)

    def put(self, name: str, tensor: Tensor) -> None:
        """Fill the tensor of this name, if the module has one."""
        own = self._tensors.get(name)
        if own is None or id(own) in self._filled:
            return
        self._filled.add(id(own))
        if not own.is_meta:
            with self._torch.no_grad():
                own.copy_(tensor)
            return
        made = tensor.to(device=self._device, dtype=own.dtype)
        made = made.clone() if made is tensor else made  # the file may tie what the module does not
        if isinstance(own, self._torch.nn.Parameter):
            made = self._torch.nn.Parameter(made, requires_grad=own.requires_grad)
        for owner in self._owners[id(own)]:
            owner.set(made)

    def finish(self) -> None:
        """Warn of what is still on the meta device, and has no values."""
        left = [name for name, _, tensor in _places(self._module, every=True) if tensor.is_meta]
        if left:
            warnings.warn(f"without values, on the meta device: {_some(left)}", NncWarning, stacklevel=3)


def _places(module: Any, *, every: bool = False) -> Iterator[tuple[str, _Owner, Any]]:
    """Every tensor of a module under every name that it has; buffers that are not saved only if `every`."""
    for prefix, inner in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        transient = set() if every else inner._non_persistent_buffers_set  # noqa: SLF001 - as torch does
        for is_parameter, table in ((True, inner._parameters), (False, inner._buffers)):  # noqa: SLF001 - as torch does
            for name, tensor in table.items():
                if tensor is not None and (is_parameter or name not in transient):
                    yield dot + name, _Owner(inner, name, is_parameter), tensor


def _some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
