"""Running a network on batches: how it is called, where the batch goes, and that the network is left as it was."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.rnn import PackedSequence
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from nncjit.errors import ModelError, OptionError
from nncjit.option_values import shown

__all__ = [
    "MEASURED",
    "Forward",
    "as_in_use",
    "call",
    "check_batches",
    "check_model",
    "check_plain",
    "runner",
    "to_device",
    "weights_of",
]

Forward = Callable[[Any, Any], Any]
"""Runs a network on a batch."""

_COMPUTING: dict[type, tuple[str, str]] = {
    WeightNorm: ("name", "remove_weight_norm"),
    SpectralNorm: ("name", "remove_spectral_norm"),
    BasePruningMethod: ("_tensor_name", "prune.remove"),
}
"""Hooks that compute a weight before its layer runs -> their attribute that names it, and what removes them."""

MEASURED = re.compile(r"(^|\.)(running_mean|running_var)$")
"""Names of a batch norm's statistics: no weights, although a mapping holds them beside these."""


def check_model(model: Any) -> None:
    """Refuse with an `OptionError` what is no module and no mapping."""
    if not isinstance(model, nn.Module | Mapping):
        raise OptionError(f"model is a {type(model).__name__}, must be a module or a mapping of tensors")


def check_batches(batches: Any) -> None:
    """Refuse with an `OptionError` what holds no batches, and one batch in their place, which would run in pieces."""
    if isinstance(batches, Tensor | Mapping | str | bytes) or hasattr(batches, "__array__"):
        raise OptionError(f"batches is one {type(batches).__name__}: give a list of batches, as [batch]")
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
        raise OptionError(f"batches is {shown(batches)}, must be a list of batches, a loader, or what else gives them")


def runner(forward: Forward | None) -> Forward:
    """How a batch is run: by a function of the user's own, if there is one, else by `call`.

    Raises
    ------
    OptionError
        It is no function.
    """
    if forward is None:
        return call
    if not callable(forward):
        raise OptionError(f"forward is {shown(forward)}, must be a function of model and batch")
    return forward


def weights_of(model: Any) -> dict[str, Tensor]:
    """The weights by name; of those that share their memory, the first.

    Raises
    ------
    OptionError
        It is no module and no mapping of tensors.
    ModelError
        It has no weights of floats, or they have no values or no gradients.
    """
    check_model(model)
    if isinstance(model, nn.Module):
        named = dict(model.named_parameters())
    else:
        named = {str(name): value for name, value in model.items()}
    found: dict[str, Tensor] = {}
    known = set()
    for name, weight in named.items():
        if not isinstance(weight, Tensor):
            raise OptionError(f"{name}: is a {type(weight).__name__}, must be a tensor")
        if is_lazy(weight):
            raise ModelError(f"{name}: has no values yet: run the network once, so that its lazy layers get a shape")
        if weight.is_meta:
            raise ModelError(f"{name}: is on the meta device: it has no values")
        if weight.is_inference():
            raise ModelError(f"{name}: was made under torch.inference_mode(): it has no gradients")
        if not weight.is_leaf:
            raise ModelError(f"{name}: is computed from other tensors: detach it, so that it has gradients of its own")
        if weight.layout != torch.strided:
            continue
        place = (weight.untyped_storage().data_ptr(), weight.storage_offset(), weight.shape)
        if weight.is_floating_point() and weight.numel() and place not in known:
            known.add(place)
            found[name] = weight
    if not found:
        raise ModelError("the network has no weights of floats")
    return found


def check_plain(model: Any) -> None:
    """Refuse a network that computes a layer's weight from others each time, as weight norms, spectral norms and the
    masks of `torch.nn.utils.prune` do.

    An error of those costs what no metric over a layer's inputs says, and a row that becomes zero divides by zero.

    Raises
    ------
    ModelError
        It does.
    """
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if parametrize.is_parametrized(module):
            weight, remove = next(iter(module.parametrizations)), "parametrize.remove_parametrizations"
        else:
            hooks = [(hook, kind) for hook in module._forward_pre_hooks.values() for kind in _COMPUTING]  # noqa: SLF001
            found = next(((hook, *_COMPUTING[kind]) for hook, kind in hooks if isinstance(hook, kind)), None)
            if found is None:
                continue
            hook, attribute, remove = found
            weight = getattr(hook, attribute)
        said = f"{name}.{weight}" if name else weight
        raise ModelError(
            f"{said}: is computed from other weights each time; make it a weight of its own first: "
            f"torch.nn.utils.{remove}"
        )


def call(model: Any, batch: Any) -> Any:
    """The network's result: a mapping is keywords, a tuple or list arguments, all else the only argument.

    So is a packed sequence, although it is a tuple, too.

    What the network raises gets a note that says how it was called: batches of a loader often hold labels too.
    """
    arguments, keywords = ((), batch) if isinstance(batch, Mapping) else (batch, {})
    if isinstance(arguments, PackedSequence) or not isinstance(arguments, (tuple, list)):
        arguments = (arguments,)
    try:
        return model(*arguments, **keywords)
    except Exception as error:
        names = ", ".join([type(part).__name__ for part in arguments] + [f"{name}=" for name in keywords])
        error.add_note(f"A batch was run as model({names}); with forward=, a function of model and batch runs it.")
        raise


def to_device(batch: Any, model: Any) -> Any:
    """The tensors and arrays of a batch, also inside containers, on the device of the network.

    What another network computed them by is cut off: no gradient runs back into it, or is added to what the user holds.
    """
    return _moved(batch, next(iter(weights_of(model).values())).device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        moved = (value.clone() if value.is_inference() else value.detach()).to(device)
        return moved.requires_grad_() if value.requires_grad else moved
    if isinstance(value, PackedSequence):
        packed: Any = value._replace(data=_moved(value.data, device))
        return packed.to(device)  # all but its sizes
    if isinstance(value, Mapping):
        return {key: _moved(v, device) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_moved(v, device) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    is_array = hasattr(value, "__array__") and np.asarray(value).dtype.kind in "biufc"  # not of texts, or of objects
    return torch.as_tensor(value).to(device) if is_array else value


def unwrapped(model: Any) -> Any:
    """The network that `torch.compile`, or a wrapper that runs it in parallel, holds inside."""
    while isinstance(model, nn.Module):
        parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = model.module if parallel else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


_used: set[int] = set()
"""Modules and weights of networks that are run now."""
_look_at_used = threading.Lock()


@contextmanager
def as_in_use(model: Any) -> Iterator[None]:
    """The network in evaluation mode, none of it compiled, for the caller alone; afterwards every module is as it was.

    Each module goes back by its own method: some do more than to change a flag, as adapters that add what they learned
    to a weight and take it away again.

    Raises
    ------
    OptionError
        It is no module and no mapping.
    ModelError
        Another thread runs it.
    """
    check_model(model)
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [(module, module.training) for module in modules]
    with _alone({*map(id, modules), *map(id, model.parameters() if modules else model.values())}):
        try:
            with suppress(NotImplementedError):  # what torch.export makes is in one mode forever
                for module in modules[:1]:
                    module.eval()
            with _uncompiled(modules):
                yield
        finally:
            for module, was in training:
                if module.training != was:
                    module.train(was)


@contextmanager
def _alone(parts: set[int]) -> Iterator[None]:
    """What the modules and weights of a network are kept by others from: two that change them would spoil both."""
    with _look_at_used:
        if not _used.isdisjoint(parts):
            raise ModelError("the network is in use by another thread: give each thread a copy of its own")
        _used.update(parts)
    try:
        yield
    finally:
        with _look_at_used:
            _used.difference_update(parts)


def _uncompiled(modules: Iterable[nn.Module]) -> Any:
    """A context in which modules run function by function: what is compiled hides its products."""
    if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules):  # noqa: SLF001 - no other way
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
