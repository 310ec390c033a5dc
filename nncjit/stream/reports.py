"""What the public functions tell about their work: frozen dataclasses that turn into plain dictionaries for
``--json``.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nncjit import dtypes, wording
from nncjit.stream.data_units import DataUnit, StreamReader, tools_of
from nncjit.stream.unit_parts import Part

LISTED = 20
"""Tensors that a report shows in a notebook."""
TENSOR_HEAD = ("tensor", "shape", "coded as", "size", "bits per weight")


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor of a stream."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    tool: str
    """How its values are coded, for example "trellis" or "integer"."""
    step: float | None
    """Distance of two levels; None where values are stored as they are."""
    bytes: int
    """Size of its unit; 0 for a tied tensor."""
    original_bytes: int
    snr: float | None = None
    """Signal-to-noise ratio in dB; infinite where nothing was lost, None where it was not measured."""
    note: str = ""
    """Why it is stored otherwise than asked for, or what it is tied to."""

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        """Not a number where there are no weights."""
        return 8 * self.bytes / self.weights if self.weights else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Sizes and times common to all reports; times in seconds, sizes in bytes."""

    source: str
    target: str
    original_bytes: int
    """Bytes of the model's tensors in their own dtypes."""
    compressed_bytes: int
    seconds: float
    threads: int
    tensors: tuple[TensorReport, ...] = field(repr=False)

    @property
    def weights(self) -> int:
        return sum(t.weights for t in self.tensors)

    @property
    def ratio(self) -> float:
        """Compressed size in percent of the original; not a number where that is nothing."""
        return 100.0 * self.compressed_bytes / self.original_bytes if self.original_bytes else math.nan

    @property
    def bits_per_weight(self) -> float:
        return 8.0 * self.compressed_bytes / self.weights if self.weights else math.nan

    def __str__(self) -> str:
        names = " -> ".join(filter(None, (self.source, self.target)))
        return f"{names}: {', '.join(value for _, value in self._facts())}"

    def _repr_html_(self) -> str:
        """The report in a notebook: what it says, and the largest tensors."""
        largest = sorted(self.tensors, key=lambda row: -row.bytes)[:LISTED]
        rows = [
            (row.name, wording.shape(row.shape), row.tool, wording.size(row.bytes), wording.bits(row.bits_per_weight))
            for row in largest
        ]
        return html_tables(str(self).partition(": ")[0], self._facts(), TENSOR_HEAD, rows, len(self.tensors))

    def _facts(self) -> list[tuple[str, str]]:
        """What the report says in a few words, by heading."""
        sizes = f"{wording.size(self.original_bytes)} -> {wording.size(self.compressed_bytes)}"
        return [
            ("size", f"{sizes} ({wording.three_digits(self.ratio)} %)"),
            ("precision", f"{wording.bits(self.bits_per_weight)} bits per weight"),
            ("tensors", f"{len(self.tensors):,} tensors"),
            ("time", wording.seconds(self.seconds)),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries; infinities as None."""
        plain = asdict(self)
        plain["tensors"] = [asdict(t) | {"bits_per_weight": t.bits_per_weight} for t in self.tensors]
        plain |= {"weights": self.weights, "ratio": self.ratio, "bits_per_weight": self.bits_per_weight}
        return {name: _finite(value) for name, value in plain.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressReport(Report):
    """What `compress` did."""

    snr: float | None
    """Signal-to-noise ratio of all lossy tensors together, dB."""
    loss: float | None = None
    """Expected squared error of the output as a share of its power; None without calibration."""
    estimated: bool = False
    """True for a dry run: sizes are estimates, and nothing was written."""

    def _facts(self) -> list[tuple[str, str]]:
        lost = [] if self.snr is None else [("exactness", wording.decibels(self.snr))]
        return [*super(CompressReport, self)._facts(), *lost]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecompressReport(Report):
    """What `decompress` or `verify` did."""

    checksum: bool = False
    """Whether the stream has a checksum, which was then found right (`verify` only)."""


def decoded_row(part: Part, opened: DataUnit) -> TensorReport:
    """The row of a decoded tensor. The first tensor of a unit stands for the whole unit's bytes."""
    unit = opened.unit
    n_bytes = unit.size if part.name == opened.results()[0].name else 0
    size = math.prod(part.shape) * dtypes.find(part.dtype).itemsize
    return TensorReport(part.name, part.shape, part.dtype, ", ".join(tools_of(unit)), None, n_bytes, size)


def report_row(values: dict[str, Any]) -> TensorReport:
    """A row from the plain values that `asdict` made of it, also after JSON."""
    return TensorReport(**values | {"shape": tuple(values["shape"])})


def tied_row(name: str, twin: TensorReport) -> TensorReport:
    """The row of a tensor that is tied to another."""
    return replace(twin, name=name, tool="tied", step=None, bytes=0, snr=None, note=f"tied to {twin.name}")


def with_tied_rows(rows: dict[str, TensorReport], reader: StreamReader) -> tuple[TensorReport, ...]:
    """All rows in the order of the model, those of tied tensors added."""
    return tuple(row if row.name == name else tied_row(name, row) for name, row in reader.with_ties(rows).items())


def source_name(source: Any) -> str:
    """What a report calls a source: its path, or what kind of object it is."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def html_tables(
    title: str, facts: Iterable[tuple[str, str]], head: Sequence[str], rows: Sequence[Sequence[str]], total: int
) -> str:
    """Facts and the first rows of a table as HTML that notebooks show."""

    def line(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    said = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
    listed = line("th", head) + "".join(line("td", row) for row in rows)
    more = f"<p>and {total - len(rows):,} more tensors</p>" if total > len(rows) else ""
    return f"<b>{html.escape(title)}</b><table>{said}</table><table>{listed}</table>{more}"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
