"""The weights of a network in training for its compression: what the decoder makes of them, and what a bit costs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nncjit.decoder.stream_decoder import decode
from nncjit.encoder.model_encoder import encode
from nncjit.encoder.options import Options
from nncjit.errors import NncWarning

if TYPE_CHECKING:
    from nncjit.encoder.model_encoder import EncodedModel

__all__ = ["CodedWeights"]

RAMP = 0.7
"""Share of the steps after which no more weights are pruned."""
TINY = 1e-30
LEAST = 1 / 64
"""Of the mean squared error, what is taken for a row or column of less: local scaling goes to an eighth of the step."""


class CodedWeights:
    """The weights, and what the decoder makes of them; those of the names in `fixed` are coded, but never changed."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        options: Options,
        calibration: Any,
        sparsity: float,
        bit_price: float,
        fixed: Collection[str],
    ) -> None:
        self.weights, self.fixed, self._options, self._calibration = weights, fixed, options, calibration
        self._sparsity, self._bit_price = sparsity, bit_price
        self.sizes: list[int] = []
        self._added: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        self._prices: dict[str, _Price] = {}

    def encode(self, done: float) -> None:
        """Encode and decode the weights as they are now; `done` is the share of the training that is over."""
        self._choose(done)
        exact = {name: weight.detach().cpu() for name, weight in self._pruned().items()}
        with warnings.catch_warnings():
            if self.sizes:  # the first encoding has told what there is to tell; training itself leads the weights away
                warnings.simplefilter("ignore", NncWarning)
            stream = encode(exact, self._options, calibration=self._calibration)
        back = {name: torch.from_numpy(array) for name, array in decode(stream).items()}
        self.sizes.append(len(stream))
        for name, weight in self.weights.items():
            decoded = back[name].to(weight.device, weight.dtype)
            self._added[name] = decoded - exact[name].to(weight.device) if weight.ndim > 1 else torch.zeros_like(weight)
        if self._bit_price:
            self._prices = _prices(stream, exact, back, self._bit_price)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The decoded weights instead of the exact ones."""
        exact = {name: weight.detach().clone() for name, weight in self.weights.items()}
        pruned = self._pruned()
        try:
            for name, weight in self.weights.items():
                weight.data.copy_(pruned[name] + self._added[name])
            yield
        finally:
            for name, weight in self.weights.items():
                weight.data.copy_(exact[name])

    def charge(self) -> None:
        """Add to the gradients of the exact weights what their bits cost."""
        for name, price in self._prices.items():
            weight = self.weights[name]
            if weight.grad is not None:
                weight.grad += price.gradient(weight.detach())

    def prune(self) -> None:
        """Make the weights zero that are to be in the end."""
        self._choose(1.0)
        for name, weight in self._pruned().items():
            self.weights[name].data.copy_(weight)

    def _pruned(self) -> dict[str, Tensor]:
        return {n: w.detach() * self._kept[n] if n in self._kept else w.detach() for n, w in self.weights.items()}

    def _choose(self, done: float) -> None:
        """Choose the weights to be zero: the smallest in relation to their matrix."""
        share = self._sparsity * (1 - (1 - min(1.0, done / RAMP)) ** 3)
        matrices = {n: w.detach() for n, w in self.weights.items() if w.ndim > 1 and n not in self.fixed}
        if not share or not matrices:
            return
        sizes = {name: _relative_sizes(weight) for name, weight in matrices.items()}
        every = torch.cat([size.flatten() for size in sizes.values()])
        count = int(share * len(every))
        if not count:
            return
        limit = every.kthvalue(count).values
        left = count - int((every < limit).sum())  # of those that are as large as the largest one to go
        for name, size in sizes.items():
            equal = size == limit
            go = (size < limit) | (equal & (equal.flatten().cumsum(0).reshape(size.shape) <= left))
            left -= min(left, int(equal.sum()))
            self._kept[name] = (~go).to(matrices[name].dtype)


def _relative_sizes(weight: Tensor) -> Tensor:
    """Magnitudes in relation to the root mean square of a matrix."""
    return (weight.abs() / weight.square().mean().sqrt()).float().nan_to_num(0.0)


class _Price:
    """What the bits of one matrix cost, as a function of its weights: a + b log(1 + |w| / step).

    Levels have a cost that grows with the logarithm of their size; b makes the matrix's sum what the coder took for it.
    """

    def __init__(self, weight: Tensor, decoded: Tensor, bits: float, price: float) -> None:
        self._step = _steps(weight, decoded)
        logs = (1 + decoded.abs() / self._step).log().sum().item()
        self._factor = price * bits / logs if logs > 0 else 0.0

    def gradient(self, weight: Tensor) -> Tensor:
        return self._factor * weight.sign() / (weight.abs() + self._step.to(weight.device))


def _steps(weight: Tensor, decoded: Tensor) -> Tensor:
    """About the steps of a matrix, by the errors that they made: a factor for each row times one for each column."""
    error = (decoded - weight).float().square()
    mean = error.mean().clamp(min=TINY)
    rows = error.flatten(1).mean(1).reshape(-1, *[1] * (weight.ndim - 1))
    columns = error.transpose(0, 1).flatten(1).mean(1).reshape(1, -1, *[1] * (weight.ndim - 2))
    return (12 * mean * (rows / mean).clamp(min=LEAST) * (columns / mean).clamp(min=LEAST)).sqrt()


def _prices(
    stream: EncodedModel, exact: dict[str, Tensor], back: dict[str, Tensor], bit_price: float
) -> dict[str, _Price]:
    """The price of each matrix, where a bit for each weight of the network costs so much."""
    weights = sum(weight.numel() for weight in exact.values())
    bits = {row.name: 8.0 * row.bytes for row in stream.report.tensors}
    return {
        name: _Price(weight, back[name], bits[name], bit_price / weights)
        for name, weight in exact.items()
        if weight.ndim > 1 and not torch.equal(weight, back[name])
    }
