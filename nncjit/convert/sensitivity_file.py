"""The importance of weights, from a model file that has it in place of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np

from nncjit import dtypes, formats
from nncjit.model import Model

__all__ = ["opened_sensitivity"]


class _Importances(Mapping[str, np.ndarray[Any, Any]]):
    """float32 values by name, read when they are asked for."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self._model:
            raise KeyError(name)
        tensor = self._model[name]
        return dtypes.to_float32(tensor.read(), tensor.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.names)

    def __len__(self) -> int:
        return len(self._model)


@contextmanager
def opened_sensitivity(given: Any) -> Iterator[Any]:
    """What an argument gives: arrays by name as they are, or those of a file of any known format."""
    if not isinstance(given, str | PathLike):
        yield given
        return
    with formats.open_model(given) as model:
        yield _Importances(model)
