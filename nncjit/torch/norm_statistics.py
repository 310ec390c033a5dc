"""Batch norms before and after coding: statistics that become a part of the norm's weight and bias, and statistics that
make up for what coded weights do to each norm's input.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nncjit.errors import ModelError
from nncjit.option_values import check_flags
from nncjit.reduce import find_blocks
from nncjit.torch.calibration_inputs import as_in_use, check_model, runner, to_device, unwrapped

__all__ = ["match_norms", "merge_norms"]

SMALLEST = 1e-8
"""Least running variance."""
_MEAN = ".running_mean"


def merge_norms(model: nn.Module | dict[str, Tensor], *, eps: float = 1e-5, gains: bool = False) -> int:
    """Put the running statistics of batch norms into their weights and biases.

    The network computes the same, but each norm's mean is 0 and its variance 1 now: constants, which a stream holds
    for nothing. Half of what norms cost is saved.

    Parameters
    ----------
    model : torch.nn.Module or dict of str to Tensor
        Changed in place.
    eps : float
        Of the norms of a dict; those of a module tell theirs.
    gains : bool
        Whether the norms' weights go on into the layers before them, where names tell which these are (as for
        ``fold_batchnorm``, see `nncjit.reduce.find_blocks`). Nothing but the norm may read such a layer. The weights
        become constants, too. Do it before `calibrate`, not between coding and `match_norms`.

    Returns
    -------
    int
        How many norms were changed. Those without statistics, weight or bias stay as they are, and those that share one
        of these with another norm.

    Raises
    ------
    ModelError
        A norm's statistics or weights are not finite, or a variance is negative.
    OptionError
        `gains` is no bool.
    """
    check_flags(gains=gains)
    merged = set[str]()
    norms = list(_norms_of(model, eps))
    uses = Counter(place for places in {_places(norm) for _, norm, _ in norms} for place in places)
    for name, norm, epsilon in norms:
        if any(uses[place] > 1 for place in _places(norm)):
            continue
        mean, variance, weight, bias = norm
        root = (variance.double() + epsilon).sqrt()
        if not (root.isfinite().all() and mean.isfinite().all() and (root > 0).all()):
            raise ModelError(f"{name}: the norm's statistics are no mean and variance")
        if gains and not weight.isfinite().all():
            raise ModelError(f"{name}: the norm's weights are not finite")
        with torch.no_grad():
            bias.copy_(bias.double() - weight.double() * mean.double() / root)
            weight.copy_(weight.double() * math.sqrt(1 + epsilon) / root)
            mean.zero_()
            variance.fill_(1)
        merged.add(f"{name}.running_mean")
    if gains:
        _move_gains(model, merged)
    return len(merged)


def _places(norm: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(part.data_ptr() for part in norm)


def _move_gains(model: nn.Module | dict[str, Tensor], norms: set[str]) -> None:
    """Multiply the weights of these norms, which the names of their means tell, into the layers before them."""
    tensors = dict(model.state_dict(keep_vars=True) if isinstance(model, nn.Module) else model)
    uses = Counter(tensor.data_ptr() for tensor in tensors.values())
    for block in find_blocks({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        if block.mean not in norms or block.gamma is None:
            continue
        parts = (block.weight, block.bias, block.gamma)
        if any(uses[tensors[name].data_ptr()] > 1 for name in parts if name is not None):
            continue
        gain = tensors[block.gamma].double()
        with torch.no_grad():
            for name, axis in ((block.weight, block.axis), (block.bias, 0)):
                if name is not None:
                    tensor = tensors[name]
                    tensor.copy_(tensor.double() * gain.reshape([-1 if k == axis else 1 for k in range(tensor.ndim)]))
            tensors[block.gamma].fill_(1)


def _norms_of(model: Any, eps: float) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor], float]]:
    """Name; mean, variance, weight and bias; and epsilon of each batch norm that has them all."""
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - what all of them are
                parts: tuple[Any, ...] = (module.running_mean, module.running_var, module.weight, module.bias)
                if all(part is not None for part in parts):
                    yield name, parts, module.eps
        return
    check_model(model)
    for key in map(str, model):
        name = key.removesuffix(_MEAN)
        names = [f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        if name != key and all(part in model for part in names):
            yield name, tuple(model[part] for part in names), eps


def match_norms(
    coded: nn.Module | Mapping[str, Tensor],
    original: nn.Module | Mapping[str, Tensor],
    batch: Any,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
) -> int:
    """Change the running statistics of the batch norms of a coded network so that they meet what they met before.

    Each norm's mean and variance over the batch are measured in the original and in the coded network, in whose norms
    the difference is taken up, one after the other in the order of the network. Needs no labels and no gradients, and
    costs no byte.

    Parameters
    ----------
    coded : torch.nn.Module or mapping of str to Tensor
        The network with decoded weights, which is changed.
    original : torch.nn.Module or mapping of str to Tensor
        The same network with the original weights.
    batch
        Inputs as in use, some hundreds, all in one batch; see `nncjit.torch.calibrate`.
    forward : function of model and batch, optional
        How to run a batch, if not by ``model(batch)``.

    Returns
    -------
    int
        How many norms were changed; 0 for a network without batch norms. One that runs several times is not.

    Raises
    ------
    ModelError
        The two networks do not run the same norms, or what these meet is not finite.
    """
    run, coded, original = runner(forward), unwrapped(coded), unwrapped(original)
    before = _Norms(None)
    with torch.no_grad(), as_in_use(original), before:
        run(original, to_device(batch, original))
    after = _Norms(before)
    with torch.no_grad(), as_in_use(coded), after:
        run(coded, to_device(batch, coded))
    if len(after.moments) != len(before.moments):
        raise ModelError("the two networks do not run the same norms: they are not of one kind")
    return sum(map(before.is_alone, range(len(before.moments))))


class _Norms(TorchFunctionMode):
    """Measures the inputs of batch norms as they run; with `targets`, changes their statistics first."""

    def __init__(self, targets: _Norms | None) -> None:
        super().__init__()
        self.moments: list[tuple[Tensor, Tensor]] = []
        self._places: list[int] = []
        self._targets = targets

    def is_alone(self, k: int) -> bool:
        """Whether no other run of a norm has the statistics of this one."""
        return self._places.count(self._places[k]) == 1

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
            bound = dict(zip(names, args, strict=False)) | kwargs
            if bound["running_mean"] is not None:
                self._meet(bound["input"], bound["running_mean"], bound["running_var"], bound.get("eps", 1e-5))
        return func(*args, **kwargs)

    def _meet(self, x: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> None:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        if not x.numel() or not x.isfinite().all():
            raise ModelError("the inputs of a batch norm are not finite, or the batch is empty")
        now = x.float().mean(axes), x.float().var(axes, correction=0)
        k = len(self.moments)
        self.moments.append(now)
        self._places.append(mean.data_ptr())
        if self._targets is None:
            return
        targets = self._targets.moments
        if k >= len(targets) or targets[k][0].shape != now[0].shape:
            raise ModelError("the two networks do not run the same norms: they are not of one kind")
        if not self._targets.is_alone(k):
            return
        was = targets[k]
        gain = ((now[1] + epsilon) / (was[1] + epsilon)).sqrt()
        mean.copy_(now[0] + (mean - was[0]) * gain)
        variance.copy_(((variance + epsilon) * gain**2 - epsilon).clamp_min(SMALLEST))
