"""The shipped digits network at many sizes: what the pictures about it share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

import nncjit
from nncjit.demo import digits
from nncjit.encoder.default_steps import is_matrix

WEIGHTS = load_file(digits.MODEL)
MATRICES = {name: w for name, w in WEIGHTS.items() if is_matrix(w.shape)}
HELD_OUT = digits.load_held_out()
N_WEIGHTS = sum(w.size for w in WEIGHTS.values())


class Point(NamedTuple):
    """The network at one size."""

    bits: float
    """A weight, of the whole stream."""
    correct: int
    """Images read correctly."""
    logit_error: float
    """Squared error of the outputs over their squares."""


def point(**options: Any) -> Point:
    """Encode, decode, and read the held-out images."""
    data = nncjit.encode(WEIGHTS, **options)
    outputs = digits.forward(nncjit.decode(data), HELD_OUT.images).astype(np.float64)
    error = float(np.square(outputs - HELD_OUT.logits).sum() / np.square(HELD_OUT.logits, dtype=np.float64).sum())
    return Point(8 * len(data) / N_WEIGHTS, int((outputs.argmax(1) == HELD_OUT.labels).sum()), error)


def exactness(arrays: dict[str, np.ndarray], **options: Any) -> tuple[float, float]:
    """(bits per weight, SNR in dB) of some arrays together."""
    data = nncjit.encode(arrays, **options)
    back = nncjit.decode(data)
    power = sum(float(np.square(w, dtype=np.float64).sum()) for w in arrays.values())
    error = sum(float(np.square(w - back[name], dtype=np.float64).sum()) for name, w in arrays.items())
    return 8 * len(data) / sum(w.size for w in arrays.values()), 10 * np.log10(power / error)
