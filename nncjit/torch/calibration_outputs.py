"""The output that a calibration keeps, and its probes: random directions whose gradients tell what an error costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nncjit.calibrate.probes import FLAT_SHARE
from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Word, checked

__all__ = ["Output", "check_logits", "probe_of", "select"]

Output = str | Callable[[Any], Tensor]
"""Which output counts: "embedding", "logits", or a function that takes it from what the network returns."""

_KEYS = {"embedding": ("sentence_embedding", "image_embeds", "text_embeds", "pooler_output"), "logits": ("logits",)}
_WORDS = Word(*_KEYS)
_WORDS.says = "'embedding', 'logits' or a function"


def select(output: Output, returned: Any) -> Tensor:
    """The output that counts, [samples, ...], of what the network returned.

    Raises
    ------
    ModelError
        There is none.
    OptionError
        `output` is none of the known words.
    """
    if callable(output):
        found = output(returned)
        if not isinstance(found, Tensor):
            raise OptionError(f"output returned a {type(found).__name__}, must return a tensor")
    else:
        found = _named(checked("output", _WORDS, output), returned)
    if not found.is_floating_point() or found.ndim < 1 or not found.numel():
        raise ModelError(f"the output is {found.dtype}{list(found.shape)}, must be float [samples, ...]")
    if output == "logits":
        check_logits(found)
    if output == "embedding" and found.ndim < 2:
        raise ModelError(f"the output is {list(found.shape)}, must be embeddings [samples, ...]")
    return functional.normalize(found.flatten(1), dim=1) if output == "embedding" else found


def check_logits(found: Tensor) -> None:
    """Refuse an output whose softmax says nothing: of one class, or over the samples.

    Raises
    ------
    ModelError
        It is one.
    """
    if found.ndim < 2 or found.shape[-1] < 2:
        raise ModelError(
            f"the output is {list(found.shape)}, must be logits [samples, ..., classes] of two classes or more. "
            "One logit for yes or no: output=lambda y: torch.stack([y, 0 * y], -1), fisher=True; no logits: "
            "output=lambda y: y"
        )


def _named(output: str, returned: Any) -> Tensor:
    """The tensor of that name; of several results in a row, the first."""
    found: Any = returned
    if isinstance(returned, Mapping):
        key = next((key for key in _KEYS[output] if key in returned), None)
        if key is None:
            said = f"{', '.join(map(str, returned))}, but none of {', '.join(_KEYS[output])}"
            raise ModelError(f"the network returns {said}: pass a function as `output`")
        found = returned[key]
    elif isinstance(returned, (tuple, list)) and returned:
        found = returned[0]
    if not isinstance(found, Tensor):
        raise ModelError(f"the network returns a {type(found).__name__}: pass a function as `output`")
    return found


def probe_of(y: Tensor, count: int, generator: torch.Generator, *, fisher: bool) -> Tensor:
    """A probe of the output, one of `count` of each sample.

    With `fisher`, the output is taken as logits [..., classes]: half the squared change that the probes measure is the
    Kullback-Leibler divergence. Otherwise it is half the squared change of the output.
    """
    drawn: Tensor = torch.randn(y.shape, generator=generator).to(y.device) / count**0.5
    if not fisher:
        return drawn
    p = (1 - FLAT_SHARE) * y.detach().float().softmax(-1) + FLAT_SHARE / y.shape[-1]
    root = p.sqrt() * drawn
    probe: Tensor = root - p * root.sum(-1, keepdim=True)
    return probe
