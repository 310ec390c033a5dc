"""One page about a compressed model: every tensor with its size, error and distributions, in a file that needs nothing
else.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.convert.stream_model import open_any
from nncjit.decoder.inspection import Inspection, TensorInspection, inspect
from nncjit.errors import OptionError
from nncjit.files import atomic_write
from nncjit.model import Model
from nncjit.progress import Progress, reporting
from nncjit.report.comparison import decibels, difference
from nncjit.stream.reports import source_name

__all__ = ["write_page"]

Array = np.ndarray[Any, Any]

TEMPLATE = "tensor_page.html"
DATA = "__DATA__"
"""Where the template wants the figures."""
SAMPLE = 1 << 17
"""Values of a tensor that its histograms are made of, at the most: every so-manieth."""
BINS = 32
"""Of a histogram of values."""
SIDE_LEVELS = 12
"""Levels on each side of zero that a histogram shows."""
INTEGRAL = 1e-3
"""How far values may be from multiples of a step, in steps."""


def write_page(
    source: Any,
    target: Any,
    *,
    against: Any = None,
    title: str | None = None,
    threads: int | None = None,
    max_bytes: int | str | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Write a page about an NNC file (or a model file) that any browser shows without a network.

    Parameters
    ----------
    source : path, bytes-like or binary file
        What the page is about.
    target : path
        The page to write, ``*.html``.
    against : path, bytes-like, binary file, or mapping of str to array_like, optional
        The original model. With it, the page shows what was lost.
    title : str, optional
        What the page calls the model; default: the source's name.
    threads : int, optional
        Threads that decode; default: all cores that the process may use.
    max_bytes : int or str, optional
        As in `nncjit.open`.
    progress : callable or bool, optional
        As in `compress`.

    Returns
    -------
    dict
        The figures of the page.

    Raises
    ------
    OptionError
        The target is not named like a page.
    BitstreamError
        The stream is damaged.
    ModelError
        A file cannot be read or written.
    """
    if not isinstance(target, str | PathLike) or Path(target).suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{source_name(target)}: a page's name must end in .html")
    found = inspect(source)
    if title is not None:
        found = replace(found, source=title)
    with open_any(source, threads=threads, max_bytes=max_bytes) as model, reporting(progress, "report") as told:
        original = None if against is None else open_any(against, threads=threads)
        try:
            figures = _figures(found, model, original, told)
        finally:
            if original is not None:
                original.close()
    page = resources.files("nncjit.report").joinpath(TEMPLATE).read_text("utf-8")
    # an escaped "<" cannot end the element that the figures are in
    text = json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    with atomic_write(target) as file:
        file.write(page.replace(DATA, text).encode("utf-8"))
    return figures


def _figures(found: Inspection, model: Model, original: Model | None, told: Progress | None) -> dict[str, Any]:
    rows, power, error = [], 0.0, 0.0
    done, total = 0, sum(tensor.size for tensor in model)
    for entry in found.tensors:
        row, (own_power, own_error) = _row(entry, model, original)
        rows.append(row)
        power, error = power + own_power, error + own_error
        done += entry.weights
        if told is not None:
            told(done, max(done, total), entry.name)
    snr = decibels(power, error) if original is not None else None
    return {
        "source": found.source,
        "against": original is not None,
        "bytes": found.bytes,
        "original_bytes": found.original_bytes,
        "weights": found.weights,
        "snr": _finite(snr),
        "exact": snr == math.inf,
        "metadata": found.metadata,
        "facts": [list(fact) for fact in found.facts()],
        "tensors": rows,
    }


def _row(entry: TensorInspection, model: Model, original: Model | None) -> tuple[dict[str, Any], tuple[float, float]]:
    """The figures of one tensor; of a tied one only its names."""
    row: dict[str, Any] = {
        "name": entry.name,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "tools": ", ".join(entry.tools) or "as it is",
        "bytes": entry.bytes,
        "weights": entry.weights,
    }
    if entry.tied_to is not None:
        return row | {"tied": entry.tied_to}, (0.0, 0.0)
    if entry.name not in model:  # a part of a block that is composed away
        return row, (0.0, 0.0)
    tensor = model[entry.name]
    storage = tensor.read()
    if dtypes.find(tensor.dtype).kind != "o":
        row |= _Shapes.of(storage, tensor.dtype).to_dict()
    if original is None or entry.name not in original:
        return row, (0.0, 0.0)
    tensor = replace(tensor, read=lambda: storage)  # decoded once
    told, energies = difference(original[entry.name], tensor)
    row |= {"snr": _finite(told.snr), "exact": told.snr == math.inf, "largest": _finite(told.largest)}
    return row, (0.0, 0.0) if told.equal else energies


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Distributions of a tensor's values and levels, by a sample."""

    low: float
    high: float
    values: str
    """Heights of the bins, two hexadecimal digits each."""
    step: float | None
    levels: str
    """The same for the levels from -SIDE_LEVELS to SIDE_LEVELS; empty where there is no step."""
    zeros: float
    """Share of zeros."""
    non_finite: int

    @classmethod
    def of(cls, storage: Array, dtype: str) -> _Shapes:
        flat = storage.reshape(-1)
        flat = flat[:: max(1, flat.size // SAMPLE)]
        kind = dtypes.find(dtype).kind
        wide = flat if dtype == "float64" else dtypes.to_float32(flat, dtype) if kind == "f" else flat
        values = wide.astype(np.float64)
        finite = values[np.isfinite(values)]
        step = _step(finite) if kind == "f" else 1.0
        low, high = _bounds(finite, step)
        bins = ((finite - low) / (high - low) * BINS).astype(np.int64)
        counts = np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)
        levels = ""
        if step is not None:
            whole = np.clip(np.rint(finite / step), -SIDE_LEVELS - 1, SIDE_LEVELS + 1).astype(np.int64)
            found = np.bincount(whole + SIDE_LEVELS + 1, minlength=2 * SIDE_LEVELS + 3)
            levels = _heights(found[1:-1])
        zeros = float((finite == 0).mean()) if finite.size else 0.0
        return cls(low, high, _heights(counts), step, levels, zeros, int(values.size - finite.size))

    def to_dict(self) -> dict[str, Any]:
        more = {"non_finite": self.non_finite} if self.non_finite else {}
        numbers = {"low": self.low, "high": self.high, "step": self.step, "zeros": self.zeros}
        return {name: _finite(x) for name, x in numbers.items()} | {"hist": self.values, "levels": self.levels} | more


def _bounds(values: Array, step: float | None) -> tuple[float, float]:
    """Where the bins of values begin and end: on a grid, each has equally many of its points."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not low < high < low + 1e300:
        margin = abs(low) / 2 or 0.5
        return (low - margin, low + margin) if low == high else (-1e300, 1e300)
    if step is not None and (high - low) / step < 1 << 40:
        width = math.ceil((round((high - low) / step) + 1) / BINS) * step
        low -= step / 2
        high = low + BINS * width
    return low, high


def _step(values: Array) -> float | None:
    """The step of which all values are multiples; None where there is none."""
    sizes = np.unique(np.abs(values))
    sizes = sizes[sizes > 0]
    if sizes.size < 2:
        return None
    step = float(np.diff(sizes, prepend=0.0).min())
    if step <= 0 or sizes[-1] / step > 1 << 20:
        return None
    multiples = sizes / step
    return step if np.abs(multiples - np.rint(multiples)).max() < INTEGRAL * max(1.0, multiples[-1] / 256) else None


def _heights(counts: Array) -> str:
    """Counts as heights from 0 to 255; what is there at all is seen."""
    tall = 255 * counts // max(int(counts.max(initial=0)), 1)
    return bytes(np.maximum(tall, counts > 0).astype(np.uint8)).hex()


def _finite(value: float | None) -> float | None:
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
