"""The statistics file: a safetensors file whose metadata says what its numbers are. See docs/statistics-format.md.

Metrics are written as their diagonals and as correlations: entries divided by the roots of both diagonal entries, which
half precision holds whatever the scale of the loss is. Everything is read when it is asked for.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit import formats
from nncjit.calibrate.checked_inputs import whole_numbers
from nncjit.calibrate.statistics_record import MOST, TensorRecord
from nncjit.calibrate.stored_tensors import check_stored, restored
from nncjit.errors import ModelError, OptionError, did_you_mean
from nncjit.model import Model, TensorInfo
from nncjit.option_values import Word, checked, shown

Array = NDArray[Any]

FORMAT = "nncjit statistics"
VERSION = 1
SUFFIX = ".safetensors"
TRANSPOSED = "with its dimensions in another order; compress the weights as the network holds them that was calibrated"
"""What statistics are of that do not fit a model, and what helps."""


class Arrays(NamedTuple):
    """The numbers of one weight."""

    record: TensorRecord
    metric: Array
    """float32[blocks, n, n], or the diagonal alone."""
    energy: Array | None = None
    """float32[rows], of a table."""
    uses: Array | None = None
    """int64[rows], of a table."""
    positions: bool = False
    """Whether this is a table of positions, recorded as a linear layer."""
    sums: Array | None = None
    """float64[PARTS + 1], where the weight's values are known (`weight_sums`)."""


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """The statistics of one weight, read on demand."""

    record: TensorRecord
    positions: bool
    _model: Model

    def diagonal(self) -> Array:
        """float32[sets * inputs]: the metric's diagonal.

        Raises
        ------
        ModelError
            The file is damaged.
        """
        values = self._read("diagonal")
        if (values < 0).any():
            raise ModelError(f"{self.record.name}: damaged statistics: a metric with a negative diagonal")
        return values

    def metric(self) -> Array:
        """float32[blocks, n, n]; padded with zeros where the last block of a group is not full. Or the diagonal alone.

        Raises
        ------
        ModelError
            The file is damaged.
        """
        record, diagonal = self.record, self.diagonal()
        if not record.block:
            return diagonal
        correlations = self._model[f"{record.name}:correlation"].read()
        return restored(correlations, _padded(np.sqrt(diagonal), record), record.name)

    def energy(self) -> Array:
        """float64[rows] of a table: mean squared gradient of each row."""
        values = self._read("energy").astype(np.float64)
        if (values < 0).any():
            raise ModelError(f"{self.record.name}: damaged statistics: a negative energy")
        return values

    def uses(self) -> Array:
        """int64[rows] of a table: samples in which each row was looked up."""
        values = self._read("uses", np.int64)
        if (values < 0).any():
            raise ModelError(f"{self.record.name}: damaged statistics: a negative number of samples")
        return values

    def sums(self) -> Array | None:
        """float64[PARTS + 1]: sums of the weight's values (`nncjit.calibrate.weight_sums`); None where none are known.

        Raises
        ------
        ModelError
            The file is damaged.
        """
        return self._read("sums", np.float64) if f"{self.record.name}:sums" in self._model else None

    def _read(self, what: str, dtype: Any = np.float32) -> Array:
        name = f"{self.record.name}:{what}"
        with np.errstate(over="ignore"):
            values = self._model[name].read().astype(dtype)
        if not np.isfinite(values).all():
            raise ModelError(f"{name}: damaged statistics: some numbers are not finite")
        return values


class Statistics(Mapping[str, TensorStatistics]):
    """The statistics of a model: weights by name, each read when it is asked for. A context manager.

    Made by `Statistics.open` or `Calibration.statistics`.

    Attributes
    ----------
    loss : str
        What the loss is, in words.
    samples : int
        That were collected.
    output_power : float
        Mean |y|^2 of a sample, in the loss's metric; 0 where it is not known.
    is_guess : bool
        Whether no samples like those in use were seen: the shapes of the metrics count then, not how they compare.
    """

    def __init__(self, model: Model) -> None:
        if not isinstance(model, Model):
            raise OptionError(f"model is {shown(model)}, must be an open model: see Statistics.open")
        self._model = model
        facts = _facts(model.metadata)
        self.loss: str = facts["loss"]
        self.samples: int = facts["samples"]
        self.output_power: float = facts["output_power"]
        self.is_guess: bool = facts.get("guess") is True
        self._tensors: dict[str, TensorStatistics] = {}
        for table in facts["tensors"]:
            positions = table.pop("positions", False) if isinstance(table, dict) else False
            record = TensorRecord.from_table(table)
            if record.name in self._tensors:
                raise ModelError(f"two weights are named {record.name!r}")
            if positions is not False and (positions is not True or record.kind != "linear" or record.is_stacked):
                raise ModelError(f"{record.name}: damaged statistics: positions is {shown(positions)}")
            check_stored(model, record, positions=positions)
            self._tensors[record.name] = TensorStatistics(record, positions, model)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Statistics:
        """Open a statistics file and read its records, but no numbers.

        Raises
        ------
        ModelError
            The file does not exist, is damaged, or holds something else.
        OptionError
            Its name does not end in ".safetensors".
        """
        _check_suffix(path)
        model = formats.open_model(path)
        try:
            return cls(model)
        except ModelError as error:
            model.close()
            raise ModelError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def of(cls, weights: Sequence[Arrays], facts: Mapping[str, Any]) -> Statistics:
        """Statistics in memory."""
        arrays = dict(_stored(weights, "float32"))
        return cls(Model.from_mapping(arrays, _metadata(weights, facts)))

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """The names of weights that the model does not have; a file may hold a part of the model.

        Raises
        ------
        ModelError
            A weight has another shape in the model, or the model has none of them.
        """
        if not isinstance(shapes, Mapping):
            raise OptionError(f"shapes is {shown(shapes)}, must be shapes by name")
        for name, found in self._tensors.items():
            if name not in shapes:
                continue
            shape = whole_numbers(f"{name}: its shape", shapes[name])
            if shape != found.record.shape:
                said = f"{name}: is {list(shape)} in the model and {list(found.record.shape)} in the statistics"
                turned = f", or of this one {TRANSPOSED}" if sorted(shape) == sorted(found.record.shape) else ""
                raise ModelError(f"{said}: they are of another model{turned}")
        missing = [name for name in self._tensors if name not in shapes]
        if self._tensors and len(missing) == len(self._tensors):
            hint = did_you_mean(missing[0], map(str, shapes))
            raise ModelError(f"the statistics are of another model, or of other names: it has no {missing[0]}{hint}")
        return missing

    def under_names_of(self, names: Iterable[str]) -> Statistics:
        """The same, by the names of a model where they differ in what `torch.compile` and parallel wrappers add."""
        known = {_unwrapped(name): name for name in names}
        if not self._tensors or not known or any(name in self._tensors for name in known.values()):
            return self
        found = Statistics(self._model)
        found._tensors = {known.get(_unwrapped(name), name): tensor for name, tensor in self._tensors.items()}
        return found

    def __getitem__(self, name: str) -> TensorStatistics:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def close(self) -> None:
        """Let go of the file."""
        self._model.close()

    def __enter__(self) -> Statistics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unwrapped(name: str) -> str:
    """The name of a weight without what wrappers of modules add to it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def is_statistics(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata of a safetensors file are those of statistics."""
    given: Any = metadata
    return isinstance(given, Mapping) and given.get("format") == FORMAT


def write(path: str | os.PathLike[str], weights: Sequence[Arrays], facts: Mapping[str, Any], precision: str) -> None:
    """Write a statistics file; see `Calibration.save`."""
    _check_suffix(path)
    checked("precision", Word("float16", "float32"), precision)
    infos = [
        TensorInfo(name, array.shape, str(array.dtype)) for name, array in _stored(weights, precision, values=False)
    ]
    with formats.create(path, infos, _metadata(weights, facts)) as writer:
        for name, array in _stored(weights, precision):
            writer.put(name, array)


def _check_suffix(path: str | os.PathLike[str]) -> None:
    if not isinstance(path, str | os.PathLike):
        raise OptionError(f"statistics are in a file named by a path, not by a {type(path).__name__}")
    if not os.fspath(path).lower().endswith(SUFFIX):
        raise OptionError(f"{os.fspath(path)}: statistics are safetensors files: the name must end in {SUFFIX}")


def _stored(weights: Sequence[Arrays], precision: str, *, values: bool = True) -> Iterator[tuple[str, Array]]:
    """The tensors of the file; without `values`, empty arrays of their shapes and types (no memory is touched)."""
    for record, metric, energy, uses, positions, sums in weights:
        name = record.name
        if not np.isfinite(metric).all() or (energy is not None and not np.isfinite(energy).all()):
            raise ModelError(f"{name}: the sums are not finite")
        if not record.block:
            yield f"{name}:diagonal", metric
        else:
            diagonal = np.ascontiguousarray(np.einsum("bii->bi", metric)).reshape(record.sets, -1)
            yield f"{name}:diagonal", np.ascontiguousarray(diagonal[:, : record.inputs]).reshape(-1)
            target = np.empty(metric.shape, precision)
            if values:
                _correlate(metric, target)
            yield f"{name}:correlation", target
        if record.kind == "table" or positions:
            assert energy is not None
            assert uses is not None
            yield f"{name}:energy", energy
            yield f"{name}:uses", uses
        if sums is not None:
            yield f"{name}:sums", sums


def _correlate(metric: Array, target: Array) -> None:
    """Correlations of all blocks; a dead input has none, but 1 with itself."""
    for block, out in zip(metric, target, strict=True):
        root = np.sqrt(np.maximum(block.diagonal(), 0))
        inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
        correlation = block * inverse
        correlation *= inverse[:, None]
        np.clip(correlation, -1, 1, out=correlation)
        np.fill_diagonal(correlation, 1)
        out[:] = correlation


def _padded(values: Array, record: TensorRecord) -> Array:
    """[sets * inputs] as [blocks, n], zeros where the last block of a group is not full."""
    wide = np.zeros((record.sets, record.blocks * record.block), values.dtype)
    wide[:, : record.inputs] = values.reshape(record.sets, record.inputs)
    return wide.reshape(-1, record.block)


def _metadata(weights: Iterable[Arrays], facts: Mapping[str, Any]) -> dict[str, str]:
    from nncjit import __version__

    tensors = [{**asdict(weight.record), **({"positions": True} if weight.positions else {})} for weight in weights]
    said = json.dumps({**facts, "tensors": tensors}, separators=(",", ":"))
    return {"format": FORMAT, "version": str(VERSION), "made_by": f"nncjit {__version__}", "statistics": said}


def _facts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The checked facts of a file's metadata."""
    if not is_statistics(metadata):
        raise ModelError("is no statistics file; nncjit calibrate makes one")
    if metadata.get("version") != str(VERSION):
        raise ModelError(f"has version {metadata.get('version')!r} of the statistics format, known is {VERSION}")
    try:
        facts = json.loads(metadata.get("statistics", ""))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"damaged statistics: the description is not JSON ({error})") from None
    wanted = {"loss": (str,), "samples": (int,), "output_power": (int, float), "tensors": (list,)}
    if not isinstance(facts, dict) or not all(type(facts.get(key)) in kinds for key, kinds in wanted.items()):
        raise ModelError(f"damaged statistics: the description lacks one of {', '.join(wanted)}")
    if not 1 <= facts["samples"] <= MOST or not 0 <= facts["output_power"] <= sys.float_info.max:
        raise ModelError("damaged statistics: no samples, or a power that is not one")
    return {**facts, "output_power": float(facts["output_power"])}


@contextmanager
def opened(calibration: Any) -> Iterator[Statistics | None]:
    """The statistics that an argument gives: open ones, or the path of a file, which is closed at the end; or None.

    Raises
    ------
    OptionError
        Something else.
    ModelError
        The file cannot be used.
    """
    if calibration is None or isinstance(calibration, Statistics):
        yield calibration
        return
    if not isinstance(calibration, str | os.PathLike):
        kind = type(calibration).__name__
        raise OptionError(f"calibration is a {kind}, must be nncjit.calibrate.Statistics or the path of such a file")
    with Statistics.open(calibration) as statistics:
        yield statistics
