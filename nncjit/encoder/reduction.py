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
    if len(info.shape) < 2:
        return values
    name, reducing = info.name, plan.choices[info.name].reducing
    sensitivity = (plan.data.sensitivity or {}).get(name)
    block = reducing.block_shape
    if name in plan.zero_counts:
        count = plan.zero_counts[name]
        values = sparsify(values, count=count, block=block, sensitivity=sensitivity, name=name).values
    elif reducing.zeros > 0.0:
        values = sparsify(values, reducing.zeros, block=block, sensitivity=sensitivity, name=name).values
    if reducing.pattern is not None:
        values = sparsify_n_m(values, *reducing.pattern, sensitivity=sensitivity, name=name).values
    if reducing.unify > 0.0:
        values = unify(values, block or UNIFY_SIDES, reducing.unify, name=name).values
    return values


@staged("reduce")
def zeros_of_model(model: Model, plan: Plan) -> dict[str, int]:
    """How many weights (or blocks) of each tensor one ranking of all of them sets to zero; empty where none is asked
    for.

    The matrices whose choices have the model's own share of zeros take part.
    """
    share = plan.options.reducing.zeros
    if plan.options.stream.zeros_scope != "model" or share == 0.0:
        return {}
    names = [
        t.name
        for t in model
        if t.same_as is None
        and len(t.shape) > 1
        and plan.is_lossy(t.info)
        and plan.choices[t.name].reducing.zeros == share
    ]
    sensitivity = {name: s for name, s in (plan.data.sensitivity or {}).items() if name in names}
    block = plan.options.reducing.block_shape
    return zeros_by_rank(_Values(model, names), share, block=block, sensitivity=sensitivity)


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
