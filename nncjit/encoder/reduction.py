"""Fewer or simpler numbers before quantising, as the choices of a tensor ask: zeros, n of m, unified blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from nncjit import dtypes
from nncjit.encoder.plan import Plan
from nncjit.model import Model, TensorInfo
from nncjit.reduce import sparsify, sparsify_n_m, unify, zeros_by_rank
from nncjit.stages import staged

UNIFY_SIDES = (1, 4)
"""Blocks of `unify` where no shape is given."""


@staged("reduce")
def reduced(info: TensorInfo, values: np.ndarray, plan: Plan) -> np.ndarray:
    """The values after sparsification and unification; the same array where nothing is to be done.

    Raises
    ------
    OptionError
        An n:m that does not divide the row, a block of the wrong number of sides, a sensitivity of another shape.
    """
    choices, name = plan.choices[info.name], info.name
    sensitivity = (plan.data.sensitivity or {}).get(name)
    if name in plan.zero_counts:
        values = sparsify(
            values, count=plan.zero_counts[name], block=choices.reducing.block_shape, sensitivity=sensitivity, name=name
        ).values
    elif choices.reducing.zeros > 0.0 and len(info.shape) > 1:
        values = sparsify(
            values, choices.reducing.zeros, block=choices.reducing.block_shape, sensitivity=sensitivity, name=name
        ).values
    if choices.reducing.pattern and len(info.shape) > 1:
        values = sparsify_n_m(values, *choices.reducing.pattern, sensitivity=sensitivity, name=name).values
    if choices.reducing.unify > 0.0 and len(info.shape) > 1:
        values = unify(values, choices.reducing.block_shape or UNIFY_SIDES, choices.reducing.unify, name=name).values
    return values


@staged("reduce")
def zeros_of_model(model: Model, plan: Plan) -> dict[str, int]:
    """How many weights (or blocks) of each tensor one ranking of all of them sets to zero; empty where none is asked
    for.

    The matrices whose choices have the model's own share of zeros take part.
    """
    options = plan.options
    if options.stream.zeros_scope != "model" or options.reducing.zeros == 0.0:
        return {}
    names = [
        t.name
        for t in model
        if t.same_as is None
        and len(t.shape) > 1
        and plan.is_lossy(t.info)
        and plan.choices[t.name].reducing.zeros == options.reducing.zeros
    ]
    sides = options.reducing.block_shape
    sensitivity = {name: s for name, s in (plan.data.sensitivity or {}).items() if name in names}
    return zeros_by_rank(_Values(model, names), options.reducing.zeros, block=sides, sensitivity=sensitivity)


class _Values(Mapping[str, np.ndarray]):
    """float32 values by name, read each time they are asked for."""

    def __init__(self, model: Model, names: list[str]) -> None:
        self._model, self._names = model, names

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._model[name]
        return dtypes.to_float32(tensor.read(), tensor.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
