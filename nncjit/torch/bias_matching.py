"""Biases after coding: they make up for what coded weights do to the mean of each product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nncjit.errors import ModelError
from nncjit.torch.calibration_inputs import as_in_use, runner, to_device, unwrapped, weights_of
from nncjit.torch.calibration_uses import Use, WeightUses

__all__ = ["match_biases"]


def match_biases(
    coded: nn.Module | Mapping[str, Tensor],
    original: nn.Module | Mapping[str, Tensor],
    batch: Any,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
) -> int:
    """Change the biases of a coded network so that the outputs of its layers have the means that they had before.

    The means over the batch are measured in the original and in the coded network, one layer after the other in the
    order of the network; linear layers and convolutions with a bias of their own take part. Needs no labels and no
    gradients, and costs no byte. Networks with batch norms have `nncjit.torch.match_norms`.

    Parameters
    ----------
    coded : torch.nn.Module or mapping of str to Tensor
        The network with decoded weights, whose biases are changed.
    original : torch.nn.Module or mapping of str to Tensor
        The same network with the original weights.
    batch
        Inputs as in use, some hundreds, all in one batch; see `nncjit.torch.calibrate`.
    forward : function of model and batch, optional
        How to run a batch, if not by ``model(batch)``.

    Returns
    -------
    int
        How many biases were changed. One that several products share is not.

    Raises
    ------
    ModelError
        The two networks do not run the same layers, or their outputs are not finite.
    """
    run, coded, original = runner(forward), unwrapped(coded), unwrapped(original)
    wanted = _measured(original, batch, run, None)
    counts = {name: sum(name == other for other, _ in wanted) for name, _ in wanted}
    _measured(coded, batch, run, wanted)
    return sum(count == 1 for count in counts.values())


def _measured(model: Any, batch: Any, run: Any, wanted: list[tuple[str, Tensor]] | None) -> list[tuple[str, Tensor]]:
    """Each layer's bias and the mean of its outputs, in the order of the network; changed to what is wanted."""
    weights = weights_of(model)
    found: list[tuple[str, Tensor]] = []
    names = [name for name, _ in wanted or ()]

    def see(use: Use, y: Tensor) -> Tensor:
        if use.bias is None:
            return y
        axis = y.ndim - (weights[use.name].ndim - 1 if use.kind == "convolution" else 1)
        mean = y.float().mean([k for k in range(y.ndim) if k != axis])
        if not y.numel() or not mean.isfinite().all():
            raise ModelError(f"{use.name}: its outputs are not finite, or the batch is empty")
        found.append((use.bias, mean))
        if wanted is None:
            return y
        if (
            len(found) > len(wanted)
            or wanted[len(found) - 1][1].shape != mean.shape
            or names[len(found) - 1] != use.bias
        ):
            raise ModelError("the two networks do not run the same layers: they are not of one kind")
        if names.count(use.bias) > 1:
            return y
        bias = weights[use.bias]
        change = (wanted[len(found) - 1][1].to(mean.device) - mean).to(bias.dtype)
        bias.data.add_(change)
        return y + change.to(y.dtype).reshape([-1 if k == axis else 1 for k in range(y.ndim)])

    with torch.no_grad(), as_in_use(model), WeightUses(weights, see):
        run(model, to_device(batch, model))
    if wanted is not None and len(found) != len(wanted):
        raise ModelError("the two networks do not run the same layers: they are not of one kind")
    return found
