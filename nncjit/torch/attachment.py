"""Modules whose weights stay coded: each layer's are decoded when it runs, and the next layers' in the meantime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from nncjit.arrays import torch_device
from nncjit.decoder.random_access import NncFile
from nncjit.decoder.random_access import open as open_stream
from nncjit.decoder.weight_cache import WeightCache
from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Bytes, Sequenced, checked, shown
from nncjit.torch.coded_parameters import CODED, WHOLE, CodedParameter, owners

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor
    from torch.nn import Module, Parameter

__all__ = ["Attachment", "attach"]

LOOK_AHEAD = 512
"""Layers that are looked at for what is needed last."""
DECODED_AHEAD = 2
"""Layers whose weights are decoded while one runs."""
NAMED = 3
"""Names that an error lists."""


def attach(
    module: Module,
    file: Any,
    *,
    budget: int | str = "2GB",
    threads: int | None = None,
    device: Any = None,
    whole: Sequence[type[Module]] = (),
) -> Attachment:
    """Run a module with weights that stay coded.

    The parameters of the module lose their values. Before a layer runs, its weights are decoded; while it runs, those
    of the next layers are, as far as the budget goes; what will be needed last is let go first. What the module
    computes is what it would with the unpacked weights. Buffers that the stream holds are loaded once and stay.

    Parameters
    ----------
    module : torch.nn.Module
        With the names of the stream's tensors; it may be on the meta device, but for buffers that the stream lacks.
    file : path, bytes-like or binary file
        The stream, or the index of several; it is kept open.
    budget : int or str
        Most bytes of decoded weights, for example "2GB". The largest layer must fit.
    threads : int, optional
        Threads at work when a tensor is decoded; default: all cores that the process may use.
    device : torch.device, str or int, optional
        Where decoded weights go. Default: where the module's own are, for the meta device the processor.
    whole : sequence of type
        Classes of modules that use the weights of modules inside them without calling these. All weights inside are
        decoded together. Those of torch itself are known.

    Returns
    -------
    Attachment
        With `detach`, and figures of memory. In a ``with`` statement, it is detached at the end, without values.

    Raises
    ------
    ModelError
        Names or shapes of module and stream differ, or the module is attached already. Later: its parameters were
        changed, or it was to be copied or saved.
    OptionError
        The budget is no size, or less than the largest layer takes.
    """
    if not isinstance(module, torch.nn.Module):
        raise OptionError(f"module is {shown(module)}, must be a torch.nn.Module")
    n_bytes: int = checked("budget", Bytes(), budget)
    whole = checked("whole", Sequenced(type, "classes of modules"), whole)
    device = None if device is None else torch_device(device)
    _refuse_attached(module)
    opened = open_stream(file, framework="pt", threads=threads)
    try:
        return Attachment(module, opened, n_bytes, device, (*WHOLE, *whole))
    except BaseException:
        opened.close()
        raise


@dataclass(eq=False)
class _Layer:
    """A module that runs as one, and its parameters: of its own, or of all modules inside it."""

    name: str
    module: Module
    places: list[tuple[Module, str, str]] = field(default_factory=list)
    """(owner, name of the parameter there, key of its values)."""
    next: _Layer | None = None
    """What ran after it the last time."""
    running: list[int] = field(default_factory=list)
    """Threads that run it, each as often as it has entered it."""

    @property
    def keys(self) -> list[str]:
        return list(dict.fromkeys(key for _, _, key in self.places))


class Attachment:
    """A module with weights that stay coded, as `attach` makes it; a context manager that detaches it.

    Attributes
    ----------
    module : torch.nn.Module
    """

    def __init__(
        self, module: Module, file: NncFile, budget: int, device: Any = None, whole: tuple[type[Module], ...] = WHOLE
    ) -> None:
        self.module, self._file, self._whole = module, file, whole
        self._parameters = {
            name: p for name, p in module.named_parameters(remove_duplicate=False) if _checked(file, name, p)
        }
        _check_names(module, file, self._parameters)
        self._targets = {self._key(name): (name, p.dtype, _device(device, p)) for name, p in self._parameters.items()}
        sizes = {self._key(name): p.numel() * p.element_size() for name, p in self._parameters.items()}
        self._layers = [*self._found_layers()]
        for layer in self._layers:
            needed = sum(sizes[key] for key in layer.keys)
            if needed > budget:
                raise OptionError(f"budget is {budget} bytes, the layer {layer.name!r} alone takes {needed}")
        self._cache = WeightCache(self._decode, sizes, budget)
        self._last: _Layer | None = None
        self._lock = Lock()
        self._load_buffers()
        self._empty = {
            self._key(name): CodedParameter(torch.empty_like(p, device="meta")) for name, p in self._parameters.items()
        }
        for layer in self._layers:
            self._put(layer, self._empty)
        self._hooks = [hook for layer in self._layers for hook in self._hooks_of(layer)]

    @property
    def resident_bytes(self) -> int:
        """Bytes of decoded weights now."""
        return self._cache.resident_bytes

    @property
    def peak_bytes(self) -> int:
        """Most bytes of decoded weights so far."""
        return self._cache.peak_bytes

    @property
    def decoded(self) -> int:
        """Tensors decoded so far."""
        return self._cache.made

    @property
    def waited(self) -> int:
        """Tensors that a layer had to wait for so far."""
        return self._cache.waited

    def detach(self, *, load: bool = True) -> None:
        """Make the module a plain one again.

        Parameters
        ----------
        load : bool
            Decode all weights into the module; else its parameters stay without values, on the meta device.
        """
        for hook in self._hooks:
            hook.remove()
        self._cache.close()
        if load:
            values = {key: _parameter(self._decode(key)) for layer in self._layers for key in layer.keys}
            for layer in self._layers:
                self._put(layer, values)
        self._hooks, self._layers = [], []
        self._file.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach(load=False)

    def _key(self, name: str) -> str:
        """The tensor whose values a parameter has: tied ones have the same."""
        return self._file.get_slice(name).name

    def _found_layers(self) -> Iterator[_Layer]:
        """The layers in the order of the module, each followed by the next one and the last by the first."""
        layers: list[_Layer] = []
        inside: set[Module] = set()
        for name, module in self.module.named_modules():
            if module in inside:
                continue
            if isinstance(module, torch.jit.ScriptModule):
                raise ModelError(f"{name or type(module).__name__}: is a scripted module, which keeps its weights")
            layer = _Layer(name or type(module).__name__, module)
            for owner_name, owner in owners(name, module, self._whole):
                inside.add(owner)
                for own in owner._parameters:  # noqa: SLF001 - where torch keeps them
                    full = f"{owner_name}.{own}" if owner_name else own
                    if full in self._parameters:
                        layer.places.append((owner, own, self._key(full)))
            if layer.places:
                layers.append(layer)
        for layer, following in zip(layers, [*layers[1:], *layers[:1]], strict=True):
            layer.next = following
        return iter(layers)

    def _hooks_of(self, layer: _Layer) -> list[Any]:
        return [
            layer.module.register_forward_pre_hook(partial(self._before, layer), prepend=True),
            layer.module.register_forward_hook(partial(self._after, layer), always_call=True),
            layer.module.register_state_dict_pre_hook(_refuse_saving),  # type: ignore[no-untyped-call]
        ]

    def __reduce__(self) -> NoReturn:
        """An attached module is not to be copied or pickled, with hooks that lead to this object."""
        raise ModelError(CODED.format("copied or pickled"))

    def _before(self, layer: _Layer, *_: Any) -> None:
        if self._last is not None:
            self._last.next = layer
        self._last = layer
        upcoming = self._upcoming(layer)
        ahead = sum(len(keys) for keys in upcoming[:DECODED_AHEAD])
        values = self._cache.acquire(layer.keys, [key for keys in upcoming for key in keys], ahead)
        try:
            with self._lock:
                if not layer.running:
                    self._check_unchanged(layer)
                    self._put(layer, dict(zip(layer.keys, values, strict=True)))
                layer.running.append(get_ident())
        except BaseException:
            self._cache.release(layer.keys)
            raise

    def _after(self, layer: _Layer, *_: Any) -> None:
        with self._lock:
            if get_ident() not in layer.running:  # its weights could not be decoded
                return
            layer.running.remove(get_ident())
            if not layer.running:
                self._put(layer, self._empty)
        self._cache.release(layer.keys)

    def _check_unchanged(self, layer: _Layer) -> None:
        """Refuse parameters that are not those that were put there."""
        for owner, name, key in layer.places:
            now, put = owner._parameters.get(name), self._empty[key]  # noqa: SLF001
            if now is not put or now.dtype != self._targets[key][1]:
                raise ModelError(f"{layer.name}: its {name} was changed while the weights stay coded: detach() first")

    def _upcoming(self, layer: _Layer) -> list[list[str]]:
        """Keys of the layers that ran after this one the last time."""
        keys: list[list[str]] = []
        following = layer.next
        for _ in range(LOOK_AHEAD):
            if following is None or following is layer:
                break
            keys.append(following.keys)
            following = following.next
        return keys

    @staticmethod
    def _put(layer: _Layer, values: Mapping[str, Parameter]) -> None:
        for owner, name, key in layer.places:
            owner._parameters[name] = values[key]  # noqa: SLF001 - setattr refuses other devices
            if isinstance(owner, torch.nn.RNNBase):  # which has a list of them, too
                names, flat = owner._flat_weights_names, owner._flat_weights  # noqa: SLF001
                flat[names.index(name)] = values[key]

    def _decode(self, key: str) -> Parameter:
        name, dtype, device = self._targets[key]
        tensor: Any = self._file.get_tensor(name)
        return _parameter(tensor.to(device=device, dtype=dtype))

    @torch.no_grad()
    def _load_buffers(self) -> None:
        for name, buffer in self.module.named_buffers():
            if name in self._file:
                owner, _, own = name.rpartition(".")
                value: Any = self._file.get_tensor(name)
                _checked(self._file, name, buffer)
                holder = self.module.get_submodule(owner)
                holder._buffers[own] = value.to(device=_device(None, buffer), dtype=buffer.dtype)  # noqa: SLF001


def _refuse_saving(*_: Any) -> None:
    raise ModelError(CODED.format("saved"))


def _refuse_attached(module: Module) -> None:
    for name, inside in module.named_modules():
        if _refuse_saving in inside._state_dict_pre_hooks.values():  # noqa: SLF001 - where torch keeps them
            raise ModelError(f"{name or type(module).__name__}: is attached to a stream already")


def _parameter(tensor: Tensor) -> Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)


def _device(device: Any, tensor: Tensor) -> torch.device:
    if device is not None:
        return torch.device(device)
    return torch.device("cpu") if tensor.is_meta else tensor.device


def _checked(file: NncFile, name: str, tensor: Tensor) -> bool:
    """Whether the stream has a tensor; ModelError where it is of another shape."""
    if name not in file:
        return False
    shape = file.get_slice(name).get_shape()
    if shape != list(tensor.shape):
        raise ModelError(f"{name}: is {shape} in the stream, {list(tensor.shape)} in the module")
    return True


def _check_names(module: Module, file: NncFile, found: dict[str, Parameter]) -> None:
    """Refuse a module that has other tensors than the stream."""
    own = {*dict(module.named_parameters(remove_duplicate=False)), *module.state_dict()}
    lacking = [name for name in own if name not in file]
    strange = [name for name in file if name not in own]
    for names, what in ((lacking, "the stream lacks"), (strange, "the module lacks")):
        if names:
            said = ", ".join(sorted(names)[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
            raise ModelError(f"{what} {said}")
    if not found:
        raise ModelError("the module has no parameters")
