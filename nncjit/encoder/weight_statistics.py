"""Statistics that are guessed from nothing but the weights, where there are no samples: ``calibration="weights"``.

They have the form of a calibration's, so that all that follows is the same: inputs as rows, steps of their own, and
feedback. Three things are known of a metric without data. See docs/concepts/default-steps.md for what each is worth.

- Its trace: layers count alike, so steps are the default ones, and only the metric's shape is used.
- Its diagonal: a linear layer reads what a norm wrote, of second moment gain^2 + bias^2. Which norm it was, names tell
  nearly; norms that work on the same stream are much alike.
- Its correlations: training moves weights along their inputs, and weight decay shrinks what no input holds up. So the
  columns' own correlations C resemble those of the inputs: (C + damping)^(1/4).

Everything is computed when it is asked for, from one weight at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit import dtypes
from nncjit.calibrate import Statistics, TensorRecord, opened
from nncjit.calibrate.statistics_file import FORMAT, VERSION
from nncjit.calibrate.statistics_record import Kind, block_size
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.table_transform import is_table
from nncjit.model import Model, Tensor, TensorInfo

Floats = NDArray[np.float32]

WEIGHTS = "weights"
"""The value of `calibration` that asks for them."""

POWER = 0.25
"""Of the columns' correlations. 1/2 would be right where weights are all that training made of its inputs, and is
better on networks trained from scratch with weight decay; on MiniLM it loses half of what the diagonal gains."""
DAMPING = 0.3
"""Of correlations, before they are raised to the power."""
WIDEST = 1024
"""Inputs of a block of correlations: the time goes with its cube."""
MOST_TAPS = 128
"""Of a kernel; more are no kernel's but another dimension of a stack."""

GAINS, BIASES = ("weight", "gamma", "scale"), ("bias", "beta")
"""Last parts of the names of a norm's vectors."""


@contextmanager
def statistics_of(calibration: Any, model: Model) -> Iterator[Statistics | None]:
    """The statistics that an argument gives: those guessed from the model, open ones, or those of a file; or None.

    Raises
    ------
    OptionError
        Something else.
    ModelError
        The file cannot be used.
    """
    if isinstance(calibration, str) and calibration == WEIGHTS:
        yield guessed_statistics(model)
        return
    with opened(calibration) as found:
        yield None if found is None else found.under_names_of(model.names)


def guessed_statistics(model: Model) -> Statistics:
    """Statistics of a model from its weights."""
    found = _Guess(model)
    facts = {
        "loss": "none: guessed from the weights",
        "samples": 1,
        "output_power": 0.0,
        "guess": True,
        "tensors": [asdict(record) for record in found.records.values()],
    }
    told = {"format": FORMAT, "version": str(VERSION), "statistics": json.dumps(facts)}
    return Statistics(Model(found.tensors(), told))


def _is_float_matrix(info: TensorInfo) -> bool:
    return info.same_as is None and dtypes.find(info.dtype).kind == "f" and is_matrix(info.shape)


def _record(info: TensorInfo) -> TensorRecord | None:
    """What a matrix is by its shape; None for a table, and where the dimension of its inputs is not told."""
    shape, axis = info.shape, 1
    if info.role is not None and info.role.kind == "weight" and info.role.axis:
        axis = 0
        if info.role.axis != 1 or len(shape) != 2:
            return None
    if is_table(shape) or len(shape) < 2:
        return None
    kind: Kind = "linear" if len(shape) == 2 else "convolution"
    bare = TensorRecord(name=info.name, kind=kind, shape=shape, axis=axis, samples=1)
    return None if bare.taps > MOST_TAPS else replace(bare, block=block_size(bare.inputs, bare.taps, WIDEST))


class _Guess:
    """The numbers of a statistics file, made on demand.

    Parameters
    ----------
    model : Model
        Open as long as this is in use.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        found = (_record(info) for info in model.infos if _is_float_matrix(info))
        self.records = {record.name: record for record in found if record is not None}

    def tensors(self) -> Iterator[Tensor]:
        """All tensors of the file."""
        for name, record in self.records.items():
            diagonal, correlation = partial(self._diagonal, record), partial(self._correlation, record)
            yield Tensor(f"{name}:diagonal", (record.inputs,), "float32", diagonal, fresh=True)
            yield Tensor(f"{name}:correlation", record.metric_shape, "float32", correlation, fresh=True)

    def _values(self, name: str) -> Floats:
        tensor = self._model[name]
        return dtypes.to_float32(tensor.read(), tensor.dtype)

    def _diagonal(self, record: TensorRecord) -> Floats:
        found: Floats = self._profile(record).astype(np.float32)
        return found

    def _correlation(self, record: TensorRecord) -> Floats:
        weight = self._values(record.name)
        columns = weight.T if record.axis == 0 else weight.reshape(record.outputs, record.inputs)
        found = np.zeros(record.metric_shape, np.float32)
        for k in range(record.blocks):
            part = columns[:, k * record.block : (k + 1) * record.block]
            n = part.shape[1]
            found[k, :n, :n] = raised_correlation(part)
        return found

    @cached_property
    def _norms(self) -> dict[str, NDArray[np.float64]]:
        """gain^2 + bias^2 of each norm, beside its mean."""
        found = {}
        for tensor in self._model:
            at, _, last = tensor.name.rpartition(".")
            if len(tensor.shape) != 1 or last not in GAINS or dtypes.find(tensor.dtype).kind != "f" or tensor.size < 2:
                continue
            moment = np.square(self._values(tensor.name), dtype=np.float64)
            for bias in (f"{at}.{word}" for word in BIASES):
                if bias in self._model and self._model[bias].shape == tensor.shape:
                    moment += np.square(self._values(bias), dtype=np.float64)
            mean = moment.mean()
            if 0 < mean < np.inf:
                found[tensor.name] = moment / mean
        return found

    def _profile(self, record: TensorRecord) -> NDArray[np.float64]:
        """Of the inputs' strengths, mean 1: that of the norms whose names share most with the weight's."""
        norms = {name: moment for name, moment in self._norms.items() if len(moment) == record.inputs}
        if not norms or record.kind != "linear":
            return np.ones(record.inputs)
        shared = {name: _shared(record.name, name) for name in norms}
        most = max(shared.values())
        found: NDArray[np.float64] = np.mean([norms[name] for name in norms if shared[name] == most], axis=0)
        return found


def _shared(one: str, other: str) -> int:
    """Leading parts that two names have in common."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(one.count("."), other.count(".")) + 1)


def raised_correlation(columns: Floats) -> Floats:
    """(C + damping)^power, scaled to a diagonal of 1, float32[n, n]; C are the correlations of columns float32[m, n].

    It is made of the smaller of columns and rows.
    """
    from scipy import linalg  # here, because a decoder should not need SciPy

    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->j", columns, columns, dtype=np.float64))
        usable = np.isfinite(lengths) & (lengths > 0)
        unit = np.where(usable, columns / np.where(usable, lengths, 1), 0).astype(np.float32)
    rows, n = unit.shape
    small = unit.T @ unit if n <= rows else unit @ unit.T
    strengths, axes = linalg.eigh(small, check_finite=False)
    floor = DAMPING**POWER
    gains = (np.maximum(strengths, 0) + DAMPING) ** POWER - floor
    if n > rows:  # its axes, turned to the columns; what is orthogonal to all of them has the floor
        axes = unit.T @ (axes / np.sqrt(np.maximum(strengths, 1e-6 * max(strengths[-1], 1e-30))))
    raised = (axes * gains) @ axes.T
    raised[np.diag_indices(n)] += floor
    roots = np.sqrt(raised.diagonal())
    found: Floats = (raised / roots / roots[:, None]).astype(np.float32)
    return found
