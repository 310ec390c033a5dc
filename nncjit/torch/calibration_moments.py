"""Sums over samples of one weight, on the weight's device: `nncjit.calibrate.InputSums` and `TableSums` for batches.

The coherent and the token-wise part are mixed batch by batch, so that one matrix product makes both: the second one is
scaled to the trace of the first in each batch.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nncjit.calibrate import Calibration
from nncjit.calibrate.input_sums import COHERENT_SHARE
from nncjit.calibrate.statistics_record import TensorRecord, block_size
from nncjit.torch.calibration_uses import Part, Use

__all__ = ["WeightMoments", "is_positions"]

STRIP = 384
"""Columns of a metric that are added up at a time: it is symmetric, and what lies below a strip is not worked out."""

MOST_APART = 1 << 26
"""Values of the metrics of stacked layers, 256 MB: those that would take more share their mean."""


class WeightMoments:
    """Sums of one weight.

    Parameters
    ----------
    use : Use
        One of its uses; a weight that is used as a table and as a linear layer is a table.
    shape : tuple of int
        Of the weight.
    device : torch.device
    widest_block : int
        Most inputs that one block of the metric spans.

    Attributes
    ----------
    metric : Tensor[blocks, n, n], or [n] of rows
        Sum of D' D, D the gradient [outputs, inputs] of a sample; blocks of inputs, or groups. Of rows its diagonal.
        Below its strips of columns it is not filled in.
    tokens_by_layer : Tensor[layers]
        Of stacked layers that have a metric each; else of none.
    energy, uses : Tensor[rows]
        Of a table: sums of its rows' squared gradients, and how many samples use them.
    """

    def __init__(self, use: Use, shape: tuple[int, ...], device: torch.device, widest_block: int) -> None:
        self.kind, self.positions = use.kind, False
        stacked = use.kind == "linear" and len(shape) == 3
        axis = (0 if use.inputs_first or use.kind == "rows" else 1) + stacked
        record = TensorRecord(name=use.name, kind=use.kind, shape=shape, axis=axis, groups=use.groups)
        block = 0 if use.kind == "rows" else block_size(record.inputs, record.taps, widest_block)
        record = replace(record, block=block, apart=record.is_stacked)
        if math.prod(record.metric_shape) > MOST_APART:
            record = replace(record, apart=False)
        self.record = record
        self.taps = use.taps
        self.samples = self.tokens = 0
        self.metric = torch.zeros(self.record.metric_shape if self.record.block else shape[:1], device=device)
        rows = self.record.outputs if use.kind == "table" else 0
        self.energy = torch.zeros(rows, dtype=torch.float64, device=device)
        self.uses = torch.zeros(rows, dtype=torch.int64, device=device)
        self.tokens_by_layer = torch.zeros(record.layers if record.apart else 0, dtype=torch.int64)

    def can_add(self, use: Use) -> bool:
        """Whether the use is of this kind: a table may be a linear layer too, but not with its dimensions swapped."""
        kinds = (use.kind, self.kind) in ((self.kind, self.kind), ("linear", "table"))
        inputs_first = self.record.axis == self.record.is_stacked
        return kinds and use.inputs_first == inputs_first and use.groups == self.record.groups

    def state(self) -> dict[str, Tensor]:
        """The sums by name."""
        return {
            "metric": self.metric,
            "energy": self.energy,
            "uses": self.uses,
            "tokens_by_layer": self.tokens_by_layer,
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from earlier sums."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def add(self, use: Use, part: Part, samples: int) -> None:
        """Add inputs and gradients of a batch of `samples`."""
        tokens = part.x.shape[1] * part.x.shape[2]
        self.tokens += tokens
        self.tokens_by_layer[use.layer : use.layer + 1] += tokens
        if use.kind == "table":
            self._add_rows(part.x[0, :, :, 0], part.g[0], samples)
            return
        x, g = part.x.float(), part.g
        if self.energy.numel():
            for inputs, gradients in zip(x[0], g[0], strict=True):  # one by one: a head's outputs are many
                self._add_gradients((gradients.T @ inputs)[None])
        elif use.taps > 1 or not _kernel_is_cheaper(x, g, mixed=self._mixes(x)):
            self._add_products(_gradients(x, g, use.taps), x, g, use.layer)
        else:
            self._add_kernels(x, g, use.layer)

    def add_gradient(self, gradient: Tensor) -> None:
        """Add the gradient of a whole batch, one whose use nobody saw: the batch as one sample."""
        if self.kind == "rows":
            self.metric += gradient.square().flatten(1).mean(1) if gradient.ndim > 1 else gradient.square()
            return
        self._add_gradients(gradient[None])

    def into(self, calibration: Calibration, name: str) -> None:
        """Hand over to the calibration that writes the file, under the name that the weight has there; not to be used
        afterwards, as the sums are the same memory.
        """
        record = self.record
        metric = self._whole_metric().cpu().numpy()
        if record.kind == "table":
            table = calibration.table(name, record.shape, positions=self.positions)
            table.metric = metric
            table.energy += self.energy.cpu().numpy()
            table.uses += self.uses.cpu().numpy()
            table.count(self.samples, self.tokens)
            return
        if record.kind == "rows":
            sums = calibration.rows(name, record.shape)
        elif record.kind == "linear":
            sums = calibration.linear(name, record.shape, axis=record.axis, apart=record.apart)
        else:
            sums = calibration.convolution(name, record.shape, groups=record.groups, axis=record.axis)
        metric /= metric.dtype.type(record.outputs)
        sums.coherent = metric
        sums.tokenwise = None
        sums.tokens_by_layer += self.tokens_by_layer.numpy()
        sums.count(self.samples, self.tokens)

    def _add_kernels(self, x: Tensor, g: Tensor, layer: int) -> None:
        """By the products of gradients of all pairs of places of a sample."""
        kernel = g @ g.mT  # groups, samples, places, places
        if self._mixes(x):
            kernel = _mixed_kernel(kernel, x @ x.mT)
        self._add_squares(x, kernel @ x, layer)

    def _mixes(self, x: Tensor) -> bool:
        """Whether there is a token-wise part: of linear layers that see samples of more than one place."""
        return self.record.kind == "linear" and x.shape[2] > 1

    def _add_products(self, gradients: Tensor, x: Tensor, g: Tensor, layer: int) -> None:
        """By the gradient of each sample: [groups, samples, outputs, inputs]."""
        if self._mixes(x):
            share = COHERENT_SHARE**0.5
            self._add_squares(gradients * share, gradients * share, layer)
            self._add_squares(x, _token_wise(gradients.square().sum(), x, g), layer)
        else:
            self._add_squares(gradients, gradients, layer)

    def _add_gradients(self, gradients: Tensor) -> None:
        """Gradients [samples, rows, columns]; of a table, also what each row's are worth."""
        self._add_squares(gradients[None], gradients[None])
        if self.energy.numel():
            self.energy += gradients.double().square().sum((0, 2))
            self.uses += (gradients.abs().amax(2) > 0).sum(0)

    def _add_squares(self, left: Tensor, right: Tensor, layer: int = 0) -> None:
        """Add left' right, symmetric, of rows [groups, samples, places, inputs] by blocks, to a layer or to all."""
        record = self.record
        if record.apart:
            a, b = left.flatten(0, 2), right.flatten(0, 2)
            for k in range(record.blocks):
                columns = slice(k * record.block, (k + 1) * record.block)
                _add_strips(self.metric[layer * record.blocks + k, None], a[None, :, columns], b[None, :, columns])
            return
        for group in range(record.groups) if record.blocks > 1 else (slice(None),):
            a, b = (t[group : group + 1] if isinstance(group, int) else t for t in (left, right))
            a, b = (t.flatten(1, 2) for t in (a, b))
            for k in range(record.blocks):
                columns = slice(k * record.block, (k + 1) * record.block)
                first = group * record.blocks + k if isinstance(group, int) else None
                place = slice(first, first + 1) if first is not None else slice(None)
                _add_strips(self.metric[place], a[..., columns], b[..., columns])

    def _whole_metric(self) -> Tensor:
        """The metric, filled in."""
        if self.record.block:
            for stop in range(STRIP, self.record.block, STRIP):
                strip = slice(stop - STRIP, stop)
                self.metric[:, stop:, strip] = self.metric[:, strip, stop:].mT
        return self.metric

    def _add_rows(self, ids: Tensor, g: Tensor, samples: int) -> None:
        """Gradients [n, places, columns] at rows that were looked up."""
        n, rows = len(ids), self.record.outputs
        number = torch.arange(n, device=ids.device)[:, None] * rows + ids
        found, place = torch.unique(number.flatten(), return_inverse=True)
        sums = torch.zeros(len(found), g.shape[-1], device=g.device).index_add_(0, place, g.flatten(0, 1))
        self._add_squares(sums[None, None], sums[None, None])
        self.energy.index_add_(0, found % rows, sums.double().square().sum(1))
        self.uses.index_add_(0, found % rows, torch.full_like(found, samples // n))


def is_positions(ids: Tensor) -> bool:
    """Whether the row numbers of each sample count up by one, as those of positions do."""
    return ids.ndim > 0 and ids.shape[-1] > 1 and bool((ids.diff(dim=-1) == 1).all())


def _add_strips(metric: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left' right to metrics [n, columns or more, columns or more], down to the end of each strip's diagonal."""
    columns = left.shape[-1]
    for first in range(0, columns, STRIP):
        stop = min(first + STRIP, columns)
        target, a, b = metric[:, :stop, first:stop], left[..., :stop], right[..., first:stop]
        if len(metric) == 1:
            target[0].addmm_(a[0].mT, b[0])
        else:
            target.baddbmm_(a.mT, b)


def _mixed_kernel(kernel: Tensor, inputs: Tensor) -> Tensor:
    """Both parts as a kernel over the places of a sample, the token-wise one scaled to the trace of the coherent one;
    `kernel` are products of the gradients of all pairs of places, `inputs` those of the inputs.
    """
    energy = kernel.diagonal(dim1=-2, dim2=-1)
    token_wise = energy * _share_of_tokens((kernel * inputs).sum(), (energy * inputs.diagonal(dim1=-2, dim2=-1)).sum())
    mixed = kernel * COHERENT_SHARE
    mixed.diagonal(dim1=-2, dim2=-1).add_(token_wise)
    return mixed


def _token_wise(trace: Tensor, x: Tensor, g: Tensor) -> Tensor:
    """What x' must be multiplied by for the token-wise part, scaled to the coherent one's trace."""
    energy = g.square().sum(-1, keepdim=True)
    return x * (energy * _share_of_tokens(trace, (energy * x.square()).sum()))


def _share_of_tokens(trace: Tensor, below: Tensor) -> Tensor:
    """The factor of the token-wise part, whose own trace is `below`, beside a coherent one of this trace."""
    return torch.where(below > 0, (1 - COHERENT_SHARE) * trace / below, torch.zeros_like(below))


def _gradients(x: Tensor, g: Tensor, taps: int = 1) -> Tensor:
    """[groups, samples, outputs, inputs]; taps that were counted as outputs become inputs."""
    if taps == 1:
        return g.mT @ x
    both = x.mT @ g  # groups, samples, channels, outputs * taps
    groups, samples, channels, _ = both.shape
    return (
        both.reshape(groups, samples, channels, -1, taps).transpose(2, 3).reshape(groups, samples, -1, channels * taps)
    )


def _kernel_is_cheaper(x: Tensor, g: Tensor, *, mixed: bool) -> bool:
    """Whether x' (g g') x takes fewer multiplications than (g' x)' (g' x); `mixed`: with the token-wise part."""
    places, inputs, outputs = x.shape[2], x.shape[3], g.shape[3]
    kernels = places * (places * (inputs + outputs + mixed * inputs) + inputs * inputs)
    return kernels < inputs * (outputs * (places + inputs) + mixed * places * inputs)
