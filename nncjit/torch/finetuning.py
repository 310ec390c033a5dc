"""Training with the codec in the loop: a network learns to live with what compression does to its weights.

The forward pass uses the values that the decoder will give; the gradient goes to the exact weights behind them, as if
coding had added a constant. Every few steps the weights are really encoded and decoded, with the trellis, the rate and
the calibration that the file will have.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from nncjit.decoder.stream_decoder import decode
from nncjit.encoder.model_encoder import encode
from nncjit.encoder.options import OptionKeywords, Options
from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Number, Whole, Word, checked
from nncjit.progress import Progress, reporting
from nncjit.torch.calibration_inputs import MEASURED, as_in_use, runner, to_device, weights_of
from nncjit.torch.calibration_outputs import Output, select

if TYPE_CHECKING:
    from nncjit.calibrate import Statistics

__all__ = ["FinetuneReport", "finetune"]

Trained = Literal["all", "vectors"]
RAMP = 0.7
"""Share of the steps after which no more weights are pruned."""
WARM = 0.05
"""Share of the steps in which the rate rises."""


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """How the training went."""

    steps: int
    losses: list[float]
    """Mean loss between one encoding and the next."""
    sizes: list[int]
    """Bytes of each encoding of the weights."""


def finetune(
    model: nn.Module | Mapping[str, Tensor],
    batches: Iterable[Any],
    options: Options | None = None,
    *,
    objective: Callable[[Any, Any], Tensor] | None = None,
    output: Output = "logits",
    train: Trained = "all",
    epochs: int = 1,
    rate: float = 3e-4,
    refresh: int = 20,
    sparsity: float = 0.0,
    calibration: Statistics | str | PathLike[str] | None = None,
    forward: Callable[[Any, Any], Any] | None = None,
    progress: Progress | bool | None = None,
    **keywords: Unpack[OptionKeywords],
) -> FinetuneReport:
    """Train a network for the compression that it will have.

    Afterwards, compress it with the same options and calibration. Options that set the steps at once (``quality``,
    ``qp``) are fastest; targets are searched for anew in every encoding.

    Parameters
    ----------
    model : torch.nn.Module or mapping of str to Tensor
        The network, or the weights of a network that `forward` runs; changed in place. It runs in evaluation mode:
        statistics of batch norms stay (see `nncjit.torch.match_norms`).
    batches : iterable
        As for `nncjit.torch.calibrate`; run through anew in each epoch.
    options, **keywords
        How the weights are going to be compressed.
    objective : function of the network's result and the batch, optional
        The loss to make small, for batches with labels. By default the network learns to give the outputs that it gave
        before, which needs no labels.
    output : {"logits", "embedding"} or function
        Without `objective`, what is kept of the outputs; see `nncjit.torch.calibrate`.
    train : {"all", "vectors"}
        Whether to train everything, or only norms and biases: these are free, for the levels of the matrices stay.
    epochs : int
    rate : float
        Of Adam at its peak; it rises at first and falls along a cosine.
    refresh : int
        Steps from one encoding to the next.
    sparsity : float
        Share of the matrices' weights that are zero in the end; the smallest ones, more and more of them, by their size
        in relation to their matrix.
    calibration : Statistics or path, optional
        As for `nncjit.encode`.
    forward : function of model and batch, optional
        How to run a batch, if not by ``model(batch)``.
    progress : callable or bool, optional
        True shows a bar. A function is called with the steps done, all steps (0 if not known), and the loss in words.

    Returns
    -------
    FinetuneReport

    Raises
    ------
    OptionError
        An argument is out of range.
    ModelError
        The loss does not depend on the weights, or is not finite.
    """
    _check(train, epochs, refresh, rate, sparsity)
    chosen = Options.of(options, keywords)
    count = len(batches) * epochs if isinstance(batches, Sized) else 0
    coded = _CodedWeights(weights_of(model), chosen, calibration, sparsity)
    teacher = copy.deepcopy(dict(model) if not isinstance(model, nn.Module) else model) if objective is None else None
    learn = _Learning(model, coded, train, rate, count)
    losses: list[float] = []
    recent: list[float] = []
    step = 0
    with as_in_use(model), _only(learn.trained, coded.weights), reporting(progress, "finetune", "steps") as told:
        for _ in range(epochs):
            for batch in batches:
                moved = to_device(batch, model)
                if step % refresh == 0 and (train == "all" or not step):
                    coded.encode(learn.done(step))
                    losses += [sum(recent) / len(recent)] if recent else []
                    recent = []
                run = runner(forward)
                with coded.in_place():
                    result = run(model, moved)
                    error = (
                        objective(result, moved)
                        if objective is not None
                        else _unlike(output, result, teacher, moved, run)
                    )
                    recent.append(learn.backward(error))
                learn.step(step)
                step += 1
                if told is not None:
                    told(step, count, f"loss {recent[-1]:.4g}")
    if not step:
        raise ModelError("no batches: there is nothing to train on")
    coded.prune()
    return FinetuneReport(step, [*losses, sum(recent) / max(1, len(recent))], coded.sizes)


def _check(train: str, epochs: int, refresh: int, rate: float, sparsity: float) -> None:
    checked("train", Word(*get_args(Trained)), train)
    for name, value in (("epochs", epochs), ("refresh", refresh)):
        checked(name, Whole(1, 1 << 31), value)
    if not checked("rate", Number(0, 1e30), rate) > 0:
        raise OptionError(f"rate is {rate!r}, must be above 0")
    if not checked("sparsity", Number(0, 1), sparsity) < 1:
        raise OptionError(f"sparsity is {sparsity!r}, must be 0 or more and below 1")


def _unlike(output: Output, result: Any, teacher: Any, batch: Any, run: Callable[[Any, Any], Any]) -> Tensor:
    """How far the outputs are from the teacher's."""
    with torch.no_grad(), as_in_use(teacher):
        wanted = select(output, run(teacher, batch)).float()
    found = select(output, result).float()
    if output == "logits":
        ours, theirs = found.log_softmax(-1), wanted.log_softmax(-1)
        return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1).mean()
    return (found - wanted).square().flatten(1).sum(1).mean() / 2


@contextmanager
def _only(trained: list[Tensor], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Gradients for some weights alone; afterwards as before."""
    wanted = [(weight, weight.requires_grad, weight.grad) for weight in weights.values()]
    chosen = {id(weight) for weight in trained}
    try:
        for weight, _, _ in wanted:
            weight.requires_grad_(id(weight) in chosen)
            weight.grad = None
        yield
    finally:
        for weight, was, grad in wanted:
            weight.requires_grad_(was)
            weight.grad = grad


class _CodedWeights:
    """The weights, and what the decoder makes of them."""

    def __init__(self, weights: dict[str, Tensor], options: Options, calibration: Any, sparsity: float) -> None:
        self.weights, self._options, self._calibration, self._sparsity = weights, options, calibration, sparsity
        self.sizes: list[int] = []
        self._added: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}

    def encode(self, done: float) -> None:
        """Encode and decode the weights as they are now; `done` is the share of the training that is over."""
        self._choose(done)
        exact = {name: weight.detach().cpu() for name, weight in self._pruned().items()}
        stream = encode(exact, self._options, calibration=self._calibration)
        back = decode(stream)
        self.sizes.append(len(stream))
        for name, weight in self.weights.items():
            decoded = torch.from_numpy(back[name]).to(weight.device, weight.dtype)
            self._added[name] = decoded - exact[name].to(weight.device) if weight.ndim > 1 else torch.zeros_like(weight)

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
        if not share:
            return
        sizes = {n: w.detach().abs() / w.detach().square().mean().sqrt() for n, w in self.weights.items() if w.ndim > 1}
        every = torch.cat([size.flatten().float() for size in sizes.values()])
        limit = every.kthvalue(max(1, int(share * len(every)))).values
        self._kept = {name: (size > limit).to(size.dtype) for name, size in sizes.items()}


class _Learning:
    """The optimiser and its rate."""

    def __init__(self, model: Any, coded: _CodedWeights, train: Trained, rate: float, steps: int) -> None:
        weights = coded.weights
        fixed = isinstance(model, nn.Module)
        self.trained = [
            weight
            for name, weight in weights.items()
            if (train == "all" or weight.ndim < 2) and (fixed or not MEASURED.search(name))
        ]
        if not self.trained:
            raise ModelError("the network has no vectors to train")
        self._rate, self._steps = rate, steps
        self._optimiser = torch.optim.Adam(self.trained, lr=rate, betas=(0.9, 0.98))

    def done(self, step: int) -> float:
        """Share of the training that is over."""
        return step / self._steps if self._steps else 1.0

    def backward(self, error: Any) -> float:
        """Gradients of the loss."""
        if not isinstance(error, Tensor) or not error.requires_grad:
            raise ModelError("the loss does not depend on any weight")
        found = float(error.detach())
        if not math.isfinite(found):
            raise ModelError(f"the loss is {found}: try a lower rate")
        self._optimiser.zero_grad()
        torch.autograd.backward(error)
        return found

    def step(self, step: int) -> None:
        """Change the exact weights."""
        done = self.done(step) if self._steps else 0.0
        rate = self._rate * min(1.0, (done + 1e-3) / WARM) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in self._optimiser.param_groups:
            group["lr"] = rate if self._steps else self._rate
        self._optimiser.step()
