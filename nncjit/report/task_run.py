"""A task on the tensors of a file, in a process that does nothing else, so that its memory is that of inference."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from nncjit import dtypes, formats
from nncjit.report.task import load

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


def read_arrays(path: Path) -> Arrays:
    """All tensors of a model file, with dtypes of NumPy's own: measures compute with floats that it does not have as
    float32, and leave opaque types alone.
    """
    with formats.open_model(path) as model:
        return {tensor.name: plain(dtypes.as_array(tensor.read(), tensor.dtype)) for tensor in model}


def plain(array: Array) -> Array:
    """An array with a dtype of NumPy's own."""
    if array.dtype.kind in "fiubc":
        return array
    opaque = dtypes.find(dtypes.name_of(array)).kind == "o"
    return dtypes.as_storage(array) if opaque else array.astype(np.float32)


def run_task(spec: str, path: str) -> float:
    """Seconds of a task on a file's tensors; see `nncjit.report.memory.in_child`."""
    task, arrays = load(spec), read_arrays(Path(path))
    started = time.perf_counter()
    task(arrays)
    return time.perf_counter() - started
