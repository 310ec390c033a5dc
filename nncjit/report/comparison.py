"""Two models tensor by tensor, whatever their formats: what is missing, what changed its type, how much it differs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nncjit import dtypes, wording
from nncjit.convert.stream_model import open_any
from nncjit.model import Tensor
from nncjit.progress import Progress, reporting
from nncjit.stream.reports import LISTED, html_tables, source_name

__all__ = ["ModelDifference", "TensorDifference", "diff", "difference"]

Array = np.ndarray[Any, Any]

CHUNK = 1 << 18
"""Values compared at a time."""
HEAD = ("tensor", "shape", "type", "difference", "exactness", "largest")


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor of one or both models."""

    name: str
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    """In the first and the second model; None where it is missing."""
    dtypes: tuple[str | None, str | None]
    equal: bool = False
    """Whether type, shape and all values are the same, bit for bit."""
    snr: float | None = None
    """Signal-to-noise ratio of the second against the first, dB; infinite where no value differs, None where values
    cannot be compared.
    """
    largest: float | None = None
    """Largest absolute difference; infinite where one is finite and the other is not."""

    @property
    def says(self) -> str:
        """What differs, in words."""
        if self.equal:
            return "equal"
        if None in self.shapes:
            return "only in the first" if self.shapes[1] is None else "only in the second"
        shapes = [wording.shape(shape or ()) for shape in self.shapes]
        changed = (("shape", shapes), ("type", self.dtypes))
        return ", ".join(f"{what} {a} -> {b}" for what, (a, b) in changed if a != b) or "values"

    @property
    def cells(self) -> tuple[str, ...]:
        """A row for people."""
        shape = self.shapes[1] if self.shapes[0] is None else self.shapes[0]
        dtype = self.dtypes[0] or self.dtypes[1] or ""
        largest = "-" if self.largest is None else f"{self.largest:.3g}"
        return self.name, wording.shape(shape or ()), dtype, self.says, wording.decibels(self.snr), largest


@dataclass(frozen=True, slots=True)
class ModelDifference:
    """What `diff` found."""

    first: str
    second: str
    tensors: tuple[TensorDifference, ...] = field(repr=False)
    """Those of the first model in its order, then those that only the second has."""
    snr: float | None
    """Of all tensors together that could be compared and are not equal, dB; None where there are none."""

    @property
    def equal(self) -> bool:
        """Whether the models have the same tensors, bit for bit."""
        return all(tensor.equal for tensor in self.tensors)

    def __str__(self) -> str:
        said = ", ".join(value for _, value in self.facts() if value != "-")
        return f"{self.first}, {self.second}: {said}"

    def _repr_html_(self) -> str:
        rows = [tensor.cells for tensor in self.tensors if not tensor.equal][:LISTED]
        return html_tables(f"{self.first}, {self.second}", self.facts(), HEAD, rows, len(self.tensors))

    def facts(self) -> list[tuple[str, str]]:
        """What it says in a few words, by heading."""
        equal = sum(tensor.equal for tensor in self.tensors)
        missing = sum(None in tensor.shapes for tensor in self.tensors)
        return [
            ("equal", f"{equal:,} tensors equal"),
            ("differ", f"{len(self.tensors) - equal - missing:,} differ"),
            ("in one only", f"{missing:,} in one only"),
            ("exactness", wording.decibels(self.snr)),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries; infinities as None."""
        rows = [asdict(tensor) | {"says": tensor.says} for tensor in self.tensors]
        plain = [{name: _finite(value) for name, value in row.items()} for row in rows]
        return {
            "first": self.first,
            "second": self.second,
            "equal": self.equal,
            "snr": _finite(self.snr),
            "tensors": plain,
        }


def diff(
    first: Any, second: Any, *, threads: int | None = None, progress: Progress | bool | None = None
) -> ModelDifference:
    """Compare two models tensor by tensor.

    Parameters
    ----------
    first, second : path, bytes-like, binary file, or mapping of str to array_like
        Streams, files of any known format, or models in memory.
    threads : int, optional
        Threads that decode; default: all cores that the process may use.
    progress : callable or bool, optional
        As in `compress`.

    Returns
    -------
    ModelDifference
        A row for each tensor of either model: signal-to-noise ratio, largest difference, changed types and shapes.

    Raises
    ------
    BitstreamError
        A stream is damaged.
    ModelError
        A file cannot be read.
    """
    rows, power, error = [], 0.0, 0.0
    with (
        open_any(first, threads=threads) as a,
        open_any(second, threads=threads) as b,
        reporting(progress, "diff") as told,
    ):
        done, total = 0, sum(tensor.size for tensor in a)
        for tensor in a:
            if tensor.name in b:
                row, (own_power, own_error) = difference(tensor, b[tensor.name])
                if not row.equal:
                    power, error = power + own_power, error + own_error
            else:
                row = TensorDifference(tensor.name, (tensor.shape, None), (tensor.dtype, None))
            rows.append(row)
            done += tensor.size
            if told is not None:
                told(done, total, tensor.name)
        rows += [TensorDifference(t.name, (None, t.shape), (None, t.dtype)) for t in b if t.name not in a]
    snr = decibels(power, error) if any(row.snr is not None and not row.equal for row in rows) else None
    return ModelDifference(source_name(first), source_name(second), tuple(rows), snr)


def difference(first: Tensor, second: Tensor) -> tuple[TensorDifference, tuple[float, float]]:
    """Two tensors, and the sums of squares of the first one's values and of the differences."""
    shapes, types = (first.shape, second.shape), (first.dtype, second.dtype)
    if first.shape != second.shape:
        return TensorDifference(first.name, shapes, types), (0.0, 0.0)
    a, b = first.read().reshape(-1), second.read().reshape(-1)
    power = error = largest = 0.0
    equal = first.dtype == second.dtype
    if "o" in (dtypes.find(first.dtype).kind, dtypes.find(second.dtype).kind):
        same = equal and np.array_equal(a.view(np.uint8), b.view(np.uint8))
        return TensorDifference(first.name, shapes, types, same, math.inf if same else None), (0.0, 0.0)
    for x, y in _pieces(a, b):
        if equal and x.tobytes() == y.tobytes():
            wide = _wide(x, first.dtype)
            power += _energy(wide[np.isfinite(wide)])
            continue
        equal = False
        wide, other = _wide(x, first.dtype), _wide(y, second.dtype)
        same = (wide == other) | (np.isnan(wide) & np.isnan(other))
        both = np.isfinite(wide) & np.isfinite(other)
        if not (same | both).all():
            largest = error = math.inf
        wide, other = wide[both], other[both]
        power, error = power + _energy(wide), error + _energy(wide - other)
        largest = max(largest, float(np.abs(wide - other).max(initial=0.0)))
    row = TensorDifference(first.name, shapes, types, equal, decibels(power, error), largest)
    return row, (power, error)


def decibels(power: float, error: float) -> float:
    """A signal-to-noise ratio; infinite where nothing is lost."""
    if error == 0:
        return math.inf
    return 10 * math.log10(power / error) if 0 < power < math.inf and error < math.inf else -math.inf


def _pieces(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    for at in range(0, a.size, CHUNK):
        yield a[at : at + CHUNK], b[at : at + CHUNK]


def _wide(storage: Array, dtype: str) -> Array:
    """The values as float64."""
    narrow = dtypes.find(dtype)
    values = dtypes.to_float32(storage, dtype) if narrow.kind == "f" and narrow.itemsize < 8 else storage
    return values.astype(np.float64)


def _energy(values: Array) -> float:
    with np.errstate(over="ignore"):
        return float(np.dot(values, values))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
