"""Training with the codec in the loop: a network learns to live with what compression does to its weights.

The forward pass uses the values that the decoder will give; the gradient goes to the exact weights behind them, as if
coding had added a constant. Every few steps the weights are really encoded and decoded, with the trellis, the rate and
the calibration that the file will have.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import length_hint
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from nncjit.encoder.options import OptionKeywords, Options
from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Number, Whole, Word, checked
from nncjit.progress import Progress, reporting
from nncjit.torch.calibration_inputs import (
    MEASURED,
    as_in_use,
    check_batches,
    check_plain,
    runner,
    to_device,
    weights_of,
)
from nncjit.torch.calibration_outputs import Output, select
from nncjit.torch.weights_in_training import CodedWeights

if TYPE_CHECKING:
    from nncjit.calibrate import Statistics

__all__ = ["FinetuneReport", "finetune"]

Trained = Literal["all", "vectors"]
LEAST_SIZE = 0.1
"""Of the median, what is taken for the root mean square of a tensor that is smaller, as biases may be zero."""
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
    rate: float = 0.005,
    refresh: int = 20,
    sparsity: float = 0.0,
    bit_price: float = 0.0,
    settle: float = 0.2,
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
        The network, or the weights of a network that `forward` runs, in float32 or float64; changed in place. Of a
        module, weights that need no gradient stay as they are. It runs in evaluation mode: statistics of batch norms
        stay (see `nncjit.torch.match_norms`).
    batches : iterable
        As for `nncjit.torch.calibrate`; run through anew in each epoch, so for several a list or a loader.
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
        Of Adam at its peak, in relation to each tensor's root mean square; it rises at first and falls along a cosine.
    refresh : int
        Steps from one encoding to the next.
    sparsity : float
        Share of the matrices' weights that are zero in the end; the smallest ones, more and more of them, by their size
        in relation to their matrix.
    bit_price : float
        What a bit for each weight of the network may cost, in the unit of the loss: gradients then make the weights
        small whose bits the loss does not repay. What each matrix costs is what its last encoding took. 0.05 to 0.2
        suit losses in nats; where the steps double, so much as a bit costs the encoder, four times as much.
    settle : float
        Share of the steps at the end in which matrices stay as they are, so that norms and biases learn to live with
        the levels that the file will have. The rate rises and falls again. Where the number of batches is not known, or
        nothing but matrices is trained, there is no such share.
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
        The loss does not depend on the weights, is not finite or no single number; or the weights' type is so coarse
        that steps of training would be lost in it.
    """
    _check(train, epochs, refresh, rate, sparsity, bit_price, settle)
    check_batches(batches)
    if epochs > 1 and isinstance(batches, Iterator):
        raise OptionError(f"epochs is {epochs}, but batches can be run through once: give a list or a loader")
    chosen = Options.of(options, keywords)
    count = length_hint(batches, 0) * epochs
    weights = weights_of(model)
    check_plain(model)
    _check_types(weights)
    fixed = {
        n for n, w in weights.items() if (not w.requires_grad if isinstance(model, nn.Module) else MEASURED.search(n))
    }
    coded = CodedWeights(weights, chosen, calibration, sparsity, bit_price, fixed)
    learning = _phases(coded, train, rate, count, settle)
    losses: list[float] = []
    recent: list[float] = []
    step = 0
    told_of = reporting(progress, "finetune", "steps")
    with torch.inference_mode(False), as_in_use(model), _kept(coded.weights), told_of as told:
        whole = model if isinstance(model, nn.Module) else dict(model)
        teacher = copy.deepcopy(whole) if objective is None else None
        for _ in range(epochs):
            for batch in batches:
                moved = to_device(batch, model)
                if learning[1:] and step == learning[1].first:
                    coded.prune()
                    del learning[0]
                learn = learning[0]
                if (step - learn.first) % refresh == 0 and (learn.matrices or step == learn.first):
                    learn.begin(coded.weights)
                    coded.encode(learn.done(step))
                    losses += [sum(recent) / len(recent)] if recent else []
                    recent = []
                run = runner(forward)
                with coded.in_place(), torch.enable_grad():
                    result = run(model, moved)
                    error = (
                        objective(result, moved)
                        if objective is not None
                        else _unlike(output, result, teacher, moved, run)
                    )
                    recent.append(learn.backward(error))
                coded.charge()
                learn.step(step)
                step += 1
                if told is not None:
                    told(step, count, f"loss {recent[-1]:.4g}")
    if not step:
        raise ModelError("no batches: there is nothing to train on")
    coded.prune()
    return FinetuneReport(step, [*losses, sum(recent) / max(1, len(recent))], coded.sizes)


def _check(
    train: str, epochs: int, refresh: int, rate: float, sparsity: float, bit_price: float, settle: float
) -> None:
    checked("train", Word(*get_args(Trained)), train)
    for name, value in (("epochs", epochs), ("refresh", refresh)):
        checked(name, Whole(1, 1 << 31), value)
    if not checked("rate", Number(0, 1e30), rate) > 0:
        raise OptionError(f"rate is {rate!r}, must be above 0")
    checked("bit_price", Number(0, 1e30), bit_price)
    for name, share in (("sparsity", sparsity), ("settle", settle)):
        if not checked(name, Number(0, 1), share) < 1:
            raise OptionError(f"{name} is {share!r}, must be 0 or more and below 1")


def _check_types(weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if weight.dtype not in (torch.float32, torch.float64):
            kind = str(weight.dtype).removeprefix("torch.")
            raise ModelError(f"{name}: is {kind}, in which steps of training are lost: train model.float()")


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
def _kept(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Afterwards, gradients are as they were, and for those weights that had them."""
    before = [(weight, weight.requires_grad, weight.grad) for weight in weights.values()]
    try:
        yield
    finally:
        for weight, was, grad in before:
            weight.requires_grad_(was)
            weight.grad = grad


class _Learning:
    """The optimiser and its rate, for the steps from `first` on."""

    def __init__(self, trained: list[Tensor], rate: float, first: int, steps: int) -> None:
        self.first, self._steps, self._rate, self._trained = first, steps, rate, trained
        self.matrices = any(weight.ndim > 1 for weight in trained)
        sizes = [float(weight.detach().float().square().mean().sqrt()) if weight.numel() else 0.0 for weight in trained]
        least = LEAST_SIZE * statistics.median([size for size in sizes if size] or [1.0])
        self._optimiser = torch.optim.Adam(
            [{"params": [w], "size": max(size, least)} for w, size in zip(trained, sizes, strict=True)],
            lr=rate,
            betas=(0.9, 0.98),
            eps=1e-12,
        )

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Gradients for what is trained alone."""
        chosen = {id(weight) for weight in self._trained}
        for weight in weights.values():
            weight.requires_grad_(id(weight) in chosen)
            weight.grad = None

    def done(self, step: int) -> float:
        """Share of these steps that is over."""
        return (step - self.first) / self._steps if self._steps else 1.0

    def backward(self, error: Any) -> float:
        """Gradients of the loss."""
        if not isinstance(error, Tensor) or not error.requires_grad:
            raise ModelError("the loss does not depend on any weight")
        if error.numel() != 1:
            raise ModelError(f"the loss has the shape {list(error.shape)}, must be one number")
        found = float(error.detach())
        if not math.isfinite(found):
            raise ModelError(f"the loss is {found}: try a lower rate, or look for such numbers in the batch")
        self._optimiser.zero_grad()
        torch.autograd.backward(error)
        return found

    def step(self, step: int) -> None:
        """Change the exact weights."""
        done = self.done(step) if self._steps else 0.0
        share = min(1.0, (done + 1e-3) / WARM) * (0.5 + 0.5 * math.cos(math.pi * done)) if self._steps else 1.0
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * group["size"] * share
        self._optimiser.step()


def _phases(coded: CodedWeights, train: Trained, rate: float, steps: int, settle: float) -> list[_Learning]:
    """What learns, and then, while matrices stay, what still does."""
    wanted = [weight for name, weight in coded.weights.items() if name not in coded.fixed]
    vectors = [weight for weight in wanted if weight.ndim < 2]
    trained = wanted if train == "all" else vectors
    if not trained:
        raise ModelError(f"the network has no {'vectors' if wanted else 'weights that need a gradient'} to train")
    last = round(settle * steps) if vectors and train == "all" else 0
    first = [_Learning(trained, rate, 0, steps - last)]
    return [*first, _Learning(vectors, rate, steps - last, last)] if last else first
