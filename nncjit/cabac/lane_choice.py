"""Whether segments go in lanes on this machine: the user says so, or a short trial, whose outcome is kept on disk.

The flags of a processor do not tell. On some with AVX-512 a gather takes many times as long as on others, since their
microcode has to hide what it could give away. So the same bytes are decoded both ways, once.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import cache

import numpy as np

from nncjit.cabac import lane_decoder_kernels as kernels
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder_kernels import decode_share
from nncjit.errors import BitstreamError, OptionError
from nncjit.jit import JIT, identity, is_ready, numba_internals, processor
from nncjit.jit.cache import read_note, write_note

SETTING = "NNCJIT_LANES"
WORTH_COMPILING = 1 << 27
"""Weights whose decoding in lanes saves as much time as it takes to compile them."""
GAIN = 1.1
"""Lanes must be so many times as fast as pairs."""
ROUNDS = 3
TICKS = 8
"""Ticks of the clock that each way takes at least in a round. On Windows one is 16 ms, longer than either needs."""

_waiting_weights = 0
"""Weights that this process has decoded in pairs because lanes would have to be compiled first."""


def available() -> bool:
    """Whether the machine can compile the lanes, and the user does not want to do without."""
    return JIT and processor.has_wide_vectors() and _setting() != "0"


def _setting() -> str:
    """``0``: no lanes; ``1``: lanes wherever they can be compiled; empty: what the trial says."""
    setting = os.environ.get(SETTING, "")
    if setting not in ("", "0", "1"):
        raise OptionError(f"{SETTING} is {setting!r}, must be 0 (never), 1 (always) or empty (a trial decides)")
    return setting


def describe() -> str:
    """How plain layers are decoded here, in words."""
    if not available():
        return "in pairs: " + (f"{SETTING}=0" if _setting() == "0" else "no AVX-512")
    if _setting() == "1":
        return f"in lanes: {SETTING}=1"
    if not are_compiled():
        return "in pairs: lanes are not compiled yet (nncjit warmup)"
    return "in lanes: faster in a trial" if are_faster() else "in pairs: faster in a trial"


def compile_lanes() -> None:
    """Compile the lanes now, where they can be."""
    if available():
        numba_internals.compile_worker(kernels.decode_in_lanes)
        are_compiled.cache_clear()


def pay(weights: int) -> bool:
    """Whether so many weights should go in lanes."""
    global _waiting_weights  # noqa: PLW0603 - compiled code belongs to the process
    if _setting() == "1":
        return True
    if not are_compiled():
        _waiting_weights += weights
        if _waiting_weights < WORTH_COMPILING:
            return False
    return are_faster()


@cache
def are_compiled() -> bool:
    """Whether the lanes were compiled when this process first asked: to look at the disk takes milliseconds."""
    return is_ready(kernels.decode_in_lanes)


@cache
def are_faster() -> bool:
    """What the trial says, made here or in an earlier process. It is made anew for other versions of the kernels, of
    what compiles them, and for other processors.
    """
    kept_as = identity(kernels.decode_in_lanes, decode_share)
    note = f"trial-of-lanes-{kept_as}"
    known = read_note(note) if kept_as else None
    if known not in (b"0", b"1"):
        known = b"1" if _trial() else b"0"
        if kept_as:
            write_note(note, known)
    return known == b"1"


def _trial() -> bool:
    """Decode the same bytes in pairs and in lanes; some 20 ms."""
    from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads

    layer, n_bytes = Layer.of((2048, 256), scan=4), 1 << 19
    random = np.random.default_rng(0)
    payload = random.integers(0, 256, n_bytes, dtype=np.uint8)
    payload[0] = 0  # any other first bits would do that are below the range
    points = np.full((layer.block_rows - 1, 3), (100, 0, 8 * n_bytes // 64), np.int64)
    job = PayloadJob(payload, (LayerJob(layer, np.empty(layer.size, np.int32), points=points),))
    least = TICKS * _tick()

    def seconds(lanes: bool) -> float:
        runs, start, spent = 0, time.thread_time(), 0.0
        while not runs or spent < least:
            with suppress(BitstreamError):  # random bytes end where they want
                decode_payloads([job], 1, lanes=lanes)
            runs, spent = runs + 1, time.thread_time() - start
        return spent / runs

    rounds = [(seconds(False), seconds(True)) for _ in range(ROUNDS + 1)]  # the first one compiles, or loads
    return min(pairs for pairs, _ in rounds) > GAIN * min(lanes for _, lanes in rounds)


def _tick() -> float:
    """Seconds by which the clock of the trial moves at a time; what the system says of it cannot be relied on."""
    start = now = time.thread_time()
    while now == start:
        now = time.thread_time()
    return now - start
