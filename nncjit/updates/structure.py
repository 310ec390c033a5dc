"""Which tensor of a new model comes from which of the base, and which of the base have no successor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nncjit.errors import ModelError
from nncjit.model import Model
from nncjit.updates.chain_state import ChainState, Parameter


@dataclass(frozen=True, slots=True)
class Structure:
    """A new model beside the state of its chain."""

    origins: Mapping[str, Parameter | None]
    """Tensor of the new model, tied ones left out -> what the receiver has of it."""
    renamed: Mapping[str, str]
    gone: tuple[str, ...]
    reshaped: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, state: ChainState, new: Model, renamed: Mapping[str, str]) -> Structure:
        """Match a new model to the base.

        Raises
        ------
        ModelError
            A renaming names a tensor that is not there, or two tensors that come from one.
        """
        stored = {tensor.name: tensor for tensor in new if tensor.same_as is None}
        origins: dict[str, Parameter | None] = {}
        taken: dict[str, str] = {}
        used = {}
        for name, before in renamed.items():
            if name not in stored:
                raise ModelError(f"renamed: the new model has no tensor {name!r} of its own")
            if before not in state.parameters:
                raise ModelError(f"renamed: {name}: the base has no tensor {before!r} of its own")
            if before in taken:
                raise ModelError(f"renamed: {taken[before]} and {name} both come from {before}")
            taken[before] = name
            if name != before:
                used[name] = before
        reshaped = {}
        for name, tensor in stored.items():
            before = renamed.get(name, name)
            origin = state.parameters.get(before) if taken.get(before, name) == name else None
            origins[name] = origin
            if origin is None or origin.info.shape == tensor.shape:
                continue
            if len(origin.info.shape) == len(tensor.shape) and origin.info.dtype == tensor.dtype:
                reshaped[name] = tensor.shape
        kept = {origin.name for origin in origins.values() if origin is not None}
        gone = tuple(name for name in state.parameters if name not in kept)
        return cls(origins, used, gone, reshaped)


def default_order(state: ChainState, renamed: Mapping[str, str], names: Iterable[str]) -> tuple[str, ...]:
    """All these names, in the order of a model that does not say its own: as in the base, then as they are given."""
    names = list(names)
    after = {before: name for name, before in renamed.items()}
    there = set(names)
    in_base = [name for name in dict.fromkeys(after.get(name, name) for name in state.order) if name in there]
    placed = set(in_base)
    return (*in_base, *(name for name in names if name not in placed))


def names_by_index(state: ChainState, renamed: Mapping[str, str]) -> tuple[str, ...]:
    """The names that indices stand for: of the base's tensors by their parameter_id, after renaming."""
    after = {before: name for name, before in renamed.items()}
    by_number = sorted(state.parameters.values(), key=lambda parameter: parameter.number)
    return tuple(after.get(parameter.name, parameter.name) for parameter in by_number)
