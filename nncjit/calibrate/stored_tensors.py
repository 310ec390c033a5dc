"""What a statistics file holds of each weight, and whether it can be that: the one place that says so.

Names, shapes and types are checked when a file is opened, numbers when they are read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit import dtypes
from nncjit.calibrate.statistics_record import TensorRecord
from nncjit.calibrate.weight_sums import PARTS
from nncjit.errors import ModelError
from nncjit.model import Model

Array = NDArray[Any]

SLACK = 0.01
"""Of a correlation, for rounding."""
_STRIP = 64


def stored(record: TensorRecord, *, positions: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and kind, "f" or "i", of the tensors that a weight must have."""
    found: dict[str, tuple[tuple[int, ...], str]] = {"diagonal": ((record.sets * record.inputs,), "f")}
    if record.block:
        found["correlation"] = record.metric_shape, "f"
    if record.kind == "table" or positions:
        found |= {"energy": ((record.outputs,), "f"), "uses": ((record.outputs,), "i")}
    return found


def check_stored(model: Model, record: TensorRecord, *, positions: bool) -> None:
    """Refuse a file that lacks tensors of a weight, or has others under their names.

    Raises
    ------
    ModelError
        It does.
    """
    name = record.name
    wanted = stored(record, positions=positions)
    if f"{name}:sums" in model:
        wanted["sums"] = (PARTS + 1,), "f"
    for what, (shape, kind) in wanted.items():
        if f"{name}:{what}" not in model:
            raise ModelError(f"damaged statistics: {name}:{what} is missing")
        info = model[f"{name}:{what}"].info
        found = dtypes.find(info.dtype).kind
        if info.shape != shape or (found not in "iu" if kind == "i" else found != kind):
            said = f"{info.dtype}{list(info.shape)} instead of {'integers' if kind == 'i' else 'floats'} {list(shape)}"
            raise ModelError(f"damaged statistics: {name}:{what} is {said}")


@np.errstate(over="ignore")
def restored(correlations: Array, roots: Array, name: str) -> Array:
    """The metric, float32[blocks, n, n], of correlations and the roots of its diagonal, float32[blocks, n].

    Raises
    ------
    ModelError
        The correlations are none: beyond 1, not symmetric, or of an input with itself other than 1.
    """
    blocks = np.empty(correlations.shape, np.float32)
    for block, found, root in zip(blocks, correlations, roots, strict=True):
        own = found.diagonal()[root > 0].astype(np.float32)
        if not (np.abs(own - 1) <= SLACK).all():
            raise ModelError(f"{name}: damaged statistics: an input's correlation with itself is not 1")
        for first in range(0, len(found), _STRIP):
            strip = block[first : first + _STRIP]
            strip[...] = found[first : first + _STRIP]
            if not -1 - SLACK <= strip.min() <= strip.max() <= 1 + SLACK:  # nor where they are no numbers
                raise ModelError(f"{name}: damaged statistics: a correlation above 1")
        if not _is_symmetric(block):
            raise ModelError(f"{name}: damaged statistics: its correlations are not symmetric")
        for first in range(0, len(found), _STRIP):
            strip = block[first : first + _STRIP]
            strip *= root
            strip *= root[first : first + _STRIP, None]
    return blocks


def _is_symmetric(matrix: Array) -> bool:
    """Whether rows and columns have like sums with random signs: a tenth of the time of comparing all entries."""
    n = len(matrix)
    signs = np.random.default_rng(n).choice(np.array([-1, 1], np.float32), n)
    return float(np.abs(matrix @ signs - signs @ matrix).max(initial=0.0)) <= 10 * SLACK * math.sqrt(n)
