"""The metrics of a calibration as the quantiser wants them: factorised once, and kept while there is room."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property

import numpy as np

from nncjit import dtypes
from nncjit.calibrate import FEWEST, Statistics, TensorRecord, are_apart, are_same, weight_sums
from nncjit.calibrate.statistics_file import TRANSPOSED
from nncjit.errors import ModelError, OptionError
from nncjit.model import TensorInfo
from nncjit.quant.input_metric import InputMetric, factorise
from nncjit.stages import stage

ROOM = 1 << 28
"""Bytes of metrics that are kept: those of MiniLM take 70 MB."""

DEFAULT_LOSS = 0.015
"""What coding may cost without a target, as a share of the output's power, if every weight cost as much as one weight
does that gets some bits. About half of that comes out; the default of a model without statistics is as good."""


WIDEST_POWER = 1e12
"""Between the output's power and what the metrics expect of it if the weights of each layer keep the power of its
inputs. They expect 0.8 to 230 times that of the zoo's networks, whose errors add up over layers."""
LEAST_SHARE = 1e-12
"""Of what the metrics of all weights expect: a matrix that has less says nothing of any error."""


def is_depthwise(record: TensorRecord) -> bool:
    """Whether each output of a convolution has an input of its own: outputs are then the rows, each with a metric."""
    return record.groups > 1 and record.inputs == record.taps and record.axis == 1 and record.blocks <= 1


class Metrics:
    """Statistics, and what became of them. Any thread may use it.

    Parameters
    ----------
    statistics : Statistics
    """

    def __init__(self, statistics: Statistics) -> None:
        self.statistics = statistics
        self._kept: OrderedDict[str, InputMetric] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def is_guess(self) -> bool:
        """Whether no samples like those in use were seen (`Statistics.is_guess`): steps are then the default ones."""
        return self.statistics.is_guess

    def record(self, info: TensorInfo) -> TensorRecord | None:
        """What is known of a tensor; None where nothing is."""
        found = self.statistics.get(info.name)
        return None if found is None or dtypes.find(info.dtype).kind != "f" else found.record

    def is_reached(self, info: TensorInfo) -> bool:
        """Whether samples reached a tensor."""
        found = self.statistics.get(info.name)
        return found is not None and found.record.samples > 0

    def is_zero(self, name: str) -> bool:
        """Whether the samples found no error of a weight that the output feels: none beside those of other weights."""
        found = self.statistics[name]
        if found.record.kind == "rows":
            return not found.diagonal().any()
        return self._felt(name) <= LEAST_SHARE * self._all_felt

    def can_compare(self, name: str) -> bool:
        """Whether it is known enough of a weight's values to tell them from others."""
        found = self.statistics.get(name)
        return found is not None and math.prod(found.record.shape) >= FEWEST and found.sums() is not None

    def is_of_others(self, name: str, values: np.ndarray) -> bool:
        """Whether the statistics were made of a matrix that has little in common with this one.

        Raises
        ------
        ModelError
            They were made of its transpose, which has the same shape.
        """
        known = self.statistics[name].sums() if self.can_compare(name) else None
        if known is None or not are_apart(known, weight_sums(values)):
            return False
        record = self.statistics[name].record
        turned = values.swapaxes(record.axis, record.output_axis)
        if turned.shape == values.shape and are_same(known, weight_sums(turned)):
            raise ModelError(f"{name}: the statistics are of this weight {TRANSPOSED}")
        return True

    def check_axes(self, infos: Iterable[TensorInfo]) -> None:
        """Refuse statistics of a matrix by whose inputs, as the model's format tells, its outputs are counted.

        Raises
        ------
        ModelError
            They have one.
        """
        for info in infos:
            record, role = self.record(info), info.role
            if record is None or role is None or role.kind != "weight" or not role.layer:
                continue
            if record.kind in ("linear", "convolution") and not record.is_stacked and role.axis == record.axis:
                raise ModelError(f"{info.name}: the statistics are of this weight {TRANSPOSED}")

    def _felt(self, name: str) -> float:
        """About what the output would lose without a weight, twice: if its layer kept the power of its inputs."""
        found = self.statistics[name]
        return self.mean_cost(name) * math.prod(found.record.shape) / found.record.inputs

    @cached_property
    def _all_felt(self) -> float:
        matrices = (name for name, found in self.statistics.items() if found.record.kind != "rows")
        return sum(map(self._felt, matrices), 0.0)

    def check_power(self) -> None:
        """Refuse an output's power that the metrics contradict: steps relative to it would be good for nothing.

        Raises
        ------
        ModelError
            They do.
        """
        power, felt = self.statistics.output_power, self._all_felt
        if power and felt and not 1 / WIDEST_POWER <= felt / power <= WIDEST_POWER:
            raise ModelError(
                f"damaged statistics: the output's power is {power:.3g}, of which their metrics expect about {felt:.3g}"
            )

    def of(self, name: str) -> InputMetric:
        """The metric over the inputs of a weight, in the order of its memory.

        Raises
        ------
        ModelError
            The statistics are damaged.
        """
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        metric = self._made(name)
        with self._lock:
            self._kept[name] = metric
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > ROOM:
                self._kept.popitem(last=False)
        return metric

    def _made(self, name: str) -> InputMetric:
        found = self.statistics[name]
        record = found.record
        with stage("read"):
            blocks = found.metric()
        if not record.block:
            blocks = blocks.reshape(record.sets, -1)
            sizes = [record.inputs]
        else:
            sizes = [min(record.block, record.inputs - k * record.block) for k in range(record.blocks)]
        if is_depthwise(record):
            blocks = np.repeat(blocks, record.outputs, 0)
            return factorise(blocks, [record.inputs] * len(blocks), record.taps, name=name)
        if record.apart:
            layers = blocks.reshape(record.layers, len(sizes), *blocks.shape[1:])
            return InputMetric.side_by_side([factorise(one, sizes, name=name) for one in layers])
        if record.groups > 1:  # one order of rows serves all groups, so they share a metric
            blocks = blocks.reshape(record.groups, len(sizes), *blocks.shape[1:]).mean(0)
        return factorise(blocks, sizes, record.taps, name=name)

    def mean_cost(self, name: str) -> float:
        """What a squared error of a weight costs on average over its inputs, twice; of a table over its rows too."""
        found = self.statistics[name]
        mean = float(found.diagonal().mean(dtype=np.float64))
        return mean / found.record.outputs if found.record.kind == "table" else mean

    def loss_per_bit(self, weights: int, *, relative: bool) -> float:
        """Lambda of the default: what may be lost to save a bit, the same for all weights.

        Parameters
        ----------
        weights : int
            Number of all calibrated weights.
        relative : bool
            Whether it counts how large the output is. Where a size is wanted, lambda is looked for, and the metrics'
            own power is a start as good.

        Raises
        ------
        OptionError
            The statistics do not say how large the output is.
        """
        known = not self.is_guess and (relative or self.statistics.output_power)
        power = self.output_power if known else self._all_felt
        return DEFAULT_LOSS * power / max(weights, 1)

    @property
    def output_power(self) -> float:
        """Mean squared norm of the output."""
        if self.is_guess:
            raise OptionError("a guess does not tell losses beside the power of the output: give a calibration")
        if not self.statistics.output_power:
            raise OptionError(
                "the statistics do not tell the power of the output, which steps and losses are relative to "
                "(output_power of Calibration.end_samples)"
            )
        return self.statistics.output_power
