"""Levels of a matrix under a metric of its rows: each row makes up for what the rows before it have missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nncjit.cabac.layer import Layer
from nncjit.jit import Table
from nncjit.quant import feedback_kernels as kernels
from nncjit.quant.flat_arrays import Floats, Levels
from nncjit.quant.input_metric import InputMetric, MetricPart
from nncjit.quant.rate import Setting
from nncjit.quant.steps import inverse_of
from nncjit.quant.trellis_rd_kernels import PATH_BACK, STREAMS
from nncjit.stages import stage

LEAF = 16
"""Rows among which the kernel does the feedback; between more of them matrix products do it."""

FADE = np.float32(0.85)
"""Of the counts, each time the rates are worked out anew."""
EVERY = 512
"""Values after which they are."""


@dataclass(frozen=True, slots=True, eq=False)
class RowLevels:
    """What became of a matrix."""

    levels: Levels
    """int32[rows * width], raster order."""
    loss: float
    """Of the levels times the step, in the metric."""


def quantise_rows(
    values: Floats,
    layer: Layer,
    step: float,
    rate_weight: float,
    metric: InputMetric,
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

    Raises
    ------
    OptionError
        The step or its inverse is not a positive normal float32.
    """
    return _FeedbackTrellis(values, layer, step, rate_weight, metric).run()


class _FeedbackTrellis(Setting):
    def __init__(self, values: Floats, layer: Layer, step: float, rate_weight: float, metric: InputMetric) -> None:
        super().__init__(values, inverse_of(step), rate_weight, layer.unary_length, dependent=True)
        assert metric.rows == layer.rows
        self.layer, self.step, self.metric = layer, np.float32(step), metric
        self.stride = -(-layer.width // kernels.ROW_LANES) * kernels.ROW_LANES

    def run(self) -> RowLevels:
        """The levels of all rows."""
        rows, width = self.layer.rows, self.layer.width
        values, levels = self.values.reshape(rows, width), np.empty((rows, width), np.int32)
        loss = 0.0
        worker = self._worker()
        record = worker.records[0]
        for part in self.metric.parts():
            count = part.stop - part.first
            errors = np.zeros((count, self.stride), np.float32)
            errors[:, :width] = values[part.first : part.stop]
            targets = errors.copy()
            found, losses = np.zeros((count, self.stride), np.int32), np.empty(count, np.float32)
            piece = worker.copy()
            now = piece.records[0]
            now["targets"], now["errors"] = piece.keep(targets, writes=True), piece.keep(errors, writes=True)
            now["levels"], now["losses"] = piece.keep(found, writes=True), piece.keep(losses, writes=True)
            now["feed"], now["side"], now["top"] = piece.keep(part.feed), len(part.feed), part.first
            for field in ("counts", "zero_rates", "level_rates", "since"):
                now[field] = record[field]
            self._some_rows(piece, part, targets, errors, 0, count)
            for field in ("counts", "zero_rates", "level_rates", "since"):
                record[field] = now[field]
            levels[part.first : part.stop] = found[:, :width]
            pivots = self.metric.pivots[part.first : part.stop]
            loss += float(losses.astype(np.float64) @ pivots)
        return RowLevels(levels.reshape(-1), loss * float(self.step) ** 2)

    def _some_rows(
        self, piece: Table, part: MetricPart, targets: Floats, errors: Floats, first: int, stop: int
    ) -> None:
        """Rows first to stop - 1 of a part, which have taken up what those before have missed."""
        if stop - first <= LEAF:
            kernels.quantise_rows(piece.address, first, stop)
            return
        middle = first + LEAF * -(-(stop - first) // (2 * LEAF))
        self._some_rows(piece, part, targets, errors, first, middle)
        with stage("feedback"):
            targets[middle:stop] += part.feed[middle:stop, first:middle] @ errors[first:middle]
        self._some_rows(piece, part, targets, errors, middle, stop)

    def _worker(self) -> Table:
        """The record of all parts, but for their own arrays."""
        layer = self.layer
        block = layer.block_side if layer.scan else 0
        longest = STREAMS * block if block else layer.width
        room = -(-max(longest, layer.width) // kernels.ROW_LANES) * kernels.ROW_LANES
        chains = -(-layer.width // block) if block else 1
        worker = self.worker(kernels.ROWS, self.values, np.empty(0, np.int32), self.counts)
        row = worker.records[0]
        for name, count in (("work", 1), ("zero", 1), ("pairs0", 2), ("pairs1", 2)):
            row[name] = worker.keep(np.zeros(count * room, np.float32), writes=True)
        row["masks"] = worker.keep(np.empty(2 * room, np.uint8), writes=True)
        row["codes"] = worker.keep(np.empty(room, np.uint8), writes=True)
        for name in ("states", "was"):
            row[name] = worker.keep(np.zeros(chains, np.int64), writes=True)
        row["path_back"] = worker.keep(PATH_BACK)
        row["rows"], row["width"], row["stride"], row["block"] = layer.rows, layer.width, self.stride, block
        row["step"], row["fade"], row["every"], row["since"] = self.step, FADE, EVERY, 0
        return worker
