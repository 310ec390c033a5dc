"""Levels of a matrix under a metric of its rows: each row makes up for what the rows before it have missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.layer import Layer
from nncjit.jit import Table
from nncjit.quant import feedback_kernels as kernels
from nncjit.quant import group_feedback_kernels as group_kernels
from nncjit.quant.flat_arrays import Floats, Levels
from nncjit.quant.input_metric import Doubles, InputMetric, MetricPart
from nncjit.quant.moments import Products
from nncjit.quant.rate import Setting
from nncjit.quant.steps import inverse_of
from nncjit.quant.trellis_rd_kernels import PATH_BACK, STREAMS
from nncjit.quant.value_source import ArrayValues
from nncjit.stages import stage

LEAF = 16
"""Rows among which the kernel does the feedback; between more of them matrix products do it."""

FADE = np.float32(0.85)
"""Of the counts, each time the rates are worked out anew."""
EVERY = 512
"""Values after which they are."""


@dataclass(frozen=True, slots=True, eq=False)
class RowSums:
    """Sums of squares of each row, float64[rows]."""

    step: float
    """With which the errors are meant."""
    errors: Doubles
    """Of what decoding will miss of the values."""
    powers: Doubles
    """Of the values."""
    sizes: Doubles
    """Of the levels."""

    def products(self) -> Products:
        """Of all values and levels. Their mixed product follows from the errors: summed up, it would be too rough."""
        error, power, size = (float(part.sum()) for part in (self.errors, self.powers, self.sizes))
        return Products(power, (power + self.step**2 * size - error) / (2 * self.step), size)

    def errors_with(self, step: float) -> Doubles:
        """The errors if decoding has another step."""
        if step == self.step:
            return self.errors
        twice_mixed = (self.powers + self.step**2 * self.sizes - self.errors) / self.step
        return np.maximum(self.powers - step * twice_mixed + step**2 * self.sizes, 0)


@dataclass(frozen=True, slots=True, eq=False)
class RowLevels:
    """What became of a matrix."""

    levels: Levels
    """int32[rows * width], raster order."""
    loss: float
    """Of the levels times the step, in the metric."""
    sums: RowSums


def quantise_rows(
    values: Floats,
    layer: Layer,
    step: float,
    rate_weight: float,
    metric: InputMetric,
    *,
    overwrite: bool = False,
) -> RowLevels:
    """The levels of a matrix by the trellis with rate and feedback.

    Parameters
    ----------
    values : float32[rows * width]
        Raster order; finite.
    layer : Layer
        Rows, width, scan order and unary length.
    step : float
        Taken as float32.
    rate_weight : float
        See `nncjit.quant.steps.bit_weight`.
    metric : InputMetric
        Of `layer.rows` rows whose pivots are alike: rows whose errors count more have been divided by a factor.
    overwrite : bool
        The values may be lost, which saves a copy of them.

    Raises
    ------
    OptionError
        The step or its inverse is not a positive normal float32.
    """
    kind = _GroupTrellis if metric.taps > 1 else _StackTrellis if metric.layers > 1 else _FeedbackTrellis
    return kind(values, layer, step, rate_weight, metric).run(overwrite=overwrite)


_GOES_ON = ("counts", "zero_rates", "level_rates", "since", "weight")
"""Fields of a record that the next part of the metric starts with."""


class _FeedbackTrellis(Setting):
    """Rows of values that are independent of each other."""

    leaf = LEAF
    goes_on: tuple[str, ...] = _GOES_ON

    def __init__(self, values: Floats, layer: Layer, step: float, rate_weight: float, metric: InputMetric) -> None:
        super().__init__(ArrayValues(values), inverse_of(step), rate_weight, layer.unary_length, dependent=True)
        assert metric.rows == layer.rows
        self.layer, self.step, self.metric, self.all = layer, np.float32(step), metric, values
        self.stride = -(-layer.width // kernels.ROW_LANES) * kernels.ROW_LANES
        self.products: Floats = np.empty(0, np.float32)

    def run(self, *, overwrite: bool = False) -> RowLevels:
        """The levels of all rows; the values may then be lost."""
        rows, width = self.layer.rows, self.layer.width
        values, levels = self.all.reshape(rows, width), np.empty((rows, width), np.int32)
        loss, sums = 0.0, np.zeros((rows, kernels.SUMS), np.float64)
        whole_vectors = width == self.stride
        worker = self._worker()
        for part in self.metric.parts():
            own, here = levels[part.first : part.stop], values[part.first : part.stop]
            targets = self._padded(here)
            errors = here if overwrite and whole_vectors and here.flags.writeable else self._padded(here)
            found = own if whole_vectors else np.zeros(errors.shape, np.int32)
            piece = worker.copy()
            now = piece.records[0]
            now["targets"], now["errors"] = piece.keep(targets, writes=True), piece.keep(errors, writes=True)
            now["levels"], now["feed"] = piece.keep(found, writes=True), piece.keep(part.feed)
            now["side"] = part.feed.shape[-1]
            left = self._own_fields(piece, part, here)
            self._some_rows(piece, part, targets, errors, 0, len(errors))
            for field in self.goes_on:
                worker.records[0][field] = now[field]
            if found is not own:
                own[:] = found[:, :width]
            sums[part.first : part.stop] = self._sums(left, errors, found)
            loss += self._loss(part, targets, found, sums[part.first : part.stop, 0])
        square = float(self.step) ** 2
        of_rows = RowSums(float(self.step), square * sums[:, 1], square * sums[:, 2], sums[:, 3])
        return RowLevels(levels.reshape(-1), square * loss, of_rows)

    def _padded(self, rows: Floats) -> Floats:
        """A copy, its rows as long as the stride."""
        padded = np.empty((len(rows), self.stride), np.float32)
        padded[:, : rows.shape[1]] = rows
        padded[:, rows.shape[1] :] = 0
        return padded

    def _own_fields(self, piece: Table, part: MetricPart, values: Floats) -> NDArray[Any]:  # noqa: ARG002
        """Fill in the fields that this kind of kernel has besides; returns where sums of the rows are left."""
        of_rows = np.empty((part.stop - part.first, kernels.SUMS), np.float32)
        now = piece.records[0]
        now["sums"], now["top"] = piece.keep(of_rows, writes=True), part.first
        return of_rows

    def _sums(self, left: NDArray[Any], errors: Floats, found: Levels) -> NDArray[Any]:  # noqa: ARG002
        """float[rows, kernels.SUMS], `left` being what `_own_fields` returned."""
        return left

    def _loss(self, part: MetricPart, targets: Floats, found: Levels, losses: Doubles) -> float:  # noqa: ARG002
        """Of a part, in squared steps."""
        return float(losses @ self.metric.pivots[part.first : part.stop])

    def _some_rows(
        self, piece: Table, part: MetricPart, targets: Floats, errors: Floats, first: int, stop: int
    ) -> None:
        """Rows first to stop - 1 of a part, which have taken up what those before have missed."""
        if stop - first <= self.leaf:
            self._quantise(piece, first, stop)
            return
        middle = first + self.leaf * -(-(stop - first) // (2 * self.leaf))
        self._some_rows(piece, part, targets, errors, first, middle)
        with stage("feedback"):
            self._take_up(part, targets, errors, first, middle, stop)
        self._some_rows(piece, part, targets, errors, middle, stop)

    def _quantise(self, piece: Table, first: int, stop: int) -> None:
        kernels.quantise_rows(piece.address, first, stop)

    def _take_up(self, part: MetricPart, targets: Floats, errors: Floats, first: int, middle: int, stop: int) -> None:
        """Let rows middle to stop - 1 take up what rows first to middle - 1 missed."""
        count = (stop - middle) * self.stride
        if self.products.size < count:  # large ones of their own would be pages to clear each time
            self.products = np.empty(max(count, len(errors) * self.stride // 2), np.float32)
        products = self.products[:count].reshape(stop - middle, self.stride)
        np.matmul(part.feed[middle:stop, first:middle], errors[first:middle], out=products)
        targets[middle:stop] += products

    def _worker(self) -> Table:
        """The record of all parts, but for their own arrays."""
        layer = self.layer
        block = layer.block_side if layer.scan else 0
        longest = STREAMS * block if block else layer.width
        room = -(-max(longest, layer.width) // kernels.ROW_LANES) * kernels.ROW_LANES
        chains = -(-layer.width // block) if block else 1
        worker = self.worker(kernels.ROWS, self.all, np.empty(0, np.int32), self.counts)
        row = worker.records[0]
        for name, count in (("work", 1), ("zero", 1), ("pairs0", 2), ("pairs1", 2)):
            row[name] = worker.keep(np.zeros(count * room, np.float32), writes=True)
        row["rates"], row["bit"] = worker.keep(self.metric.rates()), self.weight
        row["layers"], row["piece"] = self.metric.layers, layer.width // self.metric.layers
        row["masks"] = worker.keep(np.empty(2 * room, np.uint8), writes=True)
        row["codes"] = worker.keep(np.empty(room, np.uint8), writes=True)
        for name in ("states", "was"):
            row[name] = worker.keep(np.zeros(chains, np.int64), writes=True)
        row["path_back"] = worker.keep(PATH_BACK)
        row["rows"], row["width"], row["stride"], row["block"] = layer.rows, layer.width, self.stride, block
        row["step"], row["fade"], row["every"], row["since"] = self.step, FADE, EVERY, 0
        return worker


class _StackTrellis(_FeedbackTrellis):
    """Rows of the outputs of several layers, each of which feeds back by itself."""

    leaf = 1

    def __init__(self, values: Floats, layer: Layer, step: float, rate_weight: float, metric: InputMetric) -> None:
        super().__init__(values, layer, step, rate_weight, metric)
        self.piece = layer.width // metric.layers
        assert layer.width == self.piece * metric.layers
        assert not layer.scan or self.piece % layer.block_side == 0, "blocks would cut layers"

    def _loss(self, part: MetricPart, targets: Floats, found: Levels, losses: Doubles) -> float:  # noqa: ARG002
        width = self.layer.width
        missed = np.square(targets[:, :width] / self.step - found[:, :width], dtype=np.float64)
        by_layer = missed.reshape(len(missed), self.metric.layers, self.piece).sum(2)
        pivots = self.metric.pivots.reshape(self.metric.layers, -1)[:, part.first : part.stop]
        return float(np.vdot(by_layer.T, pivots))

    def _take_up(self, part: MetricPart, targets: Floats, errors: Floats, first: int, middle: int, stop: int) -> None:
        change = part.feed[:, middle:stop, first:middle] @ self._by_layer(errors[first:middle])
        by_layer = self._by_layer(targets[middle:stop])
        by_layer += change

    def _by_layer(self, rows: Floats) -> Floats:
        """A view [layers, rows, piece] of padded rows."""
        own = rows[:, : self.layer.width].reshape(len(rows), self.metric.layers, self.piece)
        return own.transpose(1, 0, 2)


class _GroupTrellis(_FeedbackTrellis):
    """Rows of kernels, whose taps feed back as well."""

    leaf = 1
    goes_on = (*_GOES_ON, "state", "was")

    def __init__(self, values: Floats, layer: Layer, step: float, rate_weight: float, metric: InputMetric) -> None:
        super().__init__(values, layer, step, rate_weight, metric)
        assert not layer.scan, "blocks would cut kernels"
        self.stride = layer.width
        relative = metric.pivots.reshape(metric.rows, metric.taps) / metric.row_weights()[:, None]
        self.relative = relative.astype(np.float32)

    def _own_fields(self, piece: Table, part: MetricPart, values: Floats) -> NDArray[Any]:
        piece.records[0]["relative"] = piece.keep(np.ascontiguousarray(self.relative[part.first : part.stop]))
        return _row_powers(values * self.inverse)

    def _sums(self, left: NDArray[Any], errors: Floats, found: Levels) -> NDArray[Any]:
        errors = errors * self.inverse
        return np.stack([np.zeros(len(left)), _row_powers(errors), left, _row_powers(found)], 1)

    def _loss(self, part: MetricPart, targets: Floats, found: Levels, losses: Doubles) -> float:  # noqa: ARG002
        missed = targets / self.step - found
        taps = self.metric.taps
        by_tap = np.square(missed, dtype=np.float64).reshape(len(missed), -1, taps).sum(1)
        return float(by_tap.reshape(-1) @ self.metric.pivots[part.first * taps : part.stop * taps])

    def _quantise(self, piece: Table, first: int, stop: int) -> None:
        for row in range(first, stop):
            group_kernels.quantise_group_row(piece.address, row)

    def _take_up(self, part: MetricPart, targets: Floats, errors: Floats, first: int, middle: int, stop: int) -> None:
        taps = self.metric.taps
        missed = errors[first:middle].reshape(middle - first, -1, taps).transpose(0, 2, 1)
        feed = part.feed[middle * taps : stop * taps, first * taps : middle * taps]
        change = feed @ missed.reshape((middle - first) * taps, -1)
        targets[middle:stop] += change.reshape(stop - middle, taps, -1).transpose(0, 2, 1).reshape(stop - middle, -1)

    def _worker(self) -> Table:
        width, taps = self.layer.width, self.metric.taps
        worker = self.worker(group_kernels.GROUPS, self.all, np.empty(0, np.int32), self.counts)
        row = worker.records[0]
        scratch = {"x": width, "originals": width, "kept": 8 * taps, "inner": taps * taps}
        for name, count in scratch.items():
            row[name] = worker.keep(np.zeros(count, np.float32), writes=True)
        row["chosen"] = worker.keep(np.empty(8 * width, np.int32), writes=True)
        row["states"] = worker.keep(np.empty(width, np.int32), writes=True)
        row["masks"] = worker.keep(np.empty(width, np.uint8), writes=True)
        row["path_back"] = worker.keep(PATH_BACK)
        row["taps"], row["width"], row["step"], row["fade"] = taps, width, self.step, FADE
        row["every"], row["since"], row["state"], row["was"] = EVERY, 0, 0, 0
        return worker


def _row_powers(rows: NDArray[Any]) -> Doubles:
    """float64[rows]: sums of squares."""
    return np.array([np.vdot(row, row) for row in rows.astype(np.float32, copy=False)], np.float64)
