"""Which elements of a layer are simulated: all of them, or a sample of chunks that stands for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.encoder_input import PreparedLayer
from nncjit.cabac.encoder_records import SAMPLE
from nncjit.cabac.layer import Layer
from nncjit.cabac.narrow_levels import Levels, NarrowLevels

Array = NDArray[Any]

CHUNK = 2048
"""Elements of a sample's chunk."""


def decimation(levels: Levels, smallest: int, most: int, busy_share: float = 1 / 32) -> int:
    """One in how many chunks, at most `most`, to simulate, for a sample of `smallest` elements at least.

    Zeros among zeros cost little to simulate and say little: where fewer than `busy_share` of the levels are not zero,
    the sample must be larger.
    """
    blocks = _some_blocks(levels)
    busy = min(1.0, np.count_nonzero(blocks) / max(blocks.size, 1) / busy_share)
    return max(1, min(most, int(levels.size * busy) // smallest))


def mean_bins(levels: Levels, layer: Layer) -> float:
    """How many bins a level has, about: one for being zero, and one for each step of its unary code."""
    values = np.abs(_some_blocks(levels)) >> layer.dq
    return 1.0 + float(np.minimum(values, layer.unary_length).mean()) if values.size else 1.0


def samples_of(prepared: PreparedLayer, every: int) -> list[Array]:
    """What is simulated of each interval, when one in `every` chunks is: arrays SAMPLE[k], k = 0 for an interval that
    is left out.

    The first chunk of an interval always is simulated, since contexts start up there, and stands for itself; the others
    stand for the rest.
    """
    intervals, starts = prepared.intervals, prepared.starts
    if every > 1 and not intervals["zero_steps"].any():
        return _sample(starts, intervals["stop"], intervals["restart"], every)
    samples = np.zeros((len(intervals), 1), SAMPLE)
    samples["start"][:, 0] = starts
    samples["weight"] = 256
    for name in ("stop", "zero_steps", "restart"):
        samples[name][:, 0] = intervals[name]
    return list(samples)


def _some_blocks(levels: Levels) -> Array:
    """Some of the levels: int32[k, 1024]."""
    if isinstance(levels, NarrowLevels):
        places = range(0, levels.size // 1024 * 1024, 64 * 1024)
        return np.array([levels.load(place, place + 1024) for place in places], np.int32).reshape(-1, 1024)
    blocks: Array = levels[: levels.size // 1024 * 1024].reshape(-1, 1024)[::64]
    return blocks


def _sample(starts: Array, stops: Array, restarts: Array, every: int) -> list[Array]:
    """Chunks of long intervals, or whole short ones."""
    whole = int(stops[-1]) < 4 * CHUNK * len(stops)
    step = max(1, min(every, len(stops) // 16)) if whole else 1
    found = []
    for k, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        firsts = np.array([start] * (k % step == 0), np.int64) if whole else _some_chunks(start, stop, every)
        samples = np.zeros(len(firsts), SAMPLE)
        samples["start"], samples["stop"] = firsts, stop if whole else np.minimum(firsts + CHUNK, stop)
        samples["restart"][:1] = restarts[k]
        if whole:
            samples["weight"] = 256 * stops[-1] // max((stops - starts)[::step].sum(), 1)
        else:
            others = (samples["stop"] - samples["start"])[1:].sum()
            samples["weight"] = 256 * (stop - start - CHUNK) // max(others, 1)
            samples["weight"][:1] = 256
        found.append(samples)
    return found


def _some_chunks(start: int, stop: int, every: int) -> Array:
    """Where the chunks of an interval's sample begin: the first, and one somewhere in each `every` of the others."""
    strata = np.arange(start + CHUNK, stop, CHUNK * every)
    places = (strata >> 11) * 2654435761 >> 16
    sizes = np.minimum(every, -(-(stop - strata) // CHUNK))
    return np.concatenate([[start], strata + CHUNK * (places % sizes)])
