"""Ways to damage a stream, and guards around what is done with it."""

from __future__ import annotations

import faulthandler
import random
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from oracle.units import split

import nncjit

HANG_SECONDS = 120
CASE_SECONDS = 20.0
"""A small stream, sound or damaged, takes milliseconds; this much more is a hang to a user."""


@contextmanager
def no_hang() -> Iterator[None]:
    """End the test run, with a traceback, where the code inside hangs: a loop in a kernel cannot be interrupted."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    started = time.monotonic()
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert time.monotonic() - started < CASE_SECONDS


def refused_or_decoded(data: bytearray, places: Iterable[int], refusal: type[nncjit.NncError]) -> None:
    """Decode a stream with one byte changed, for each of these places; what comes of it is values, or this error."""
    for at in places:
        damaged = data.copy()
        damaged[at] ^= 0x55
        with suppress(refusal):
            nncjit.decode(damaged)


@contextmanager
def memory_below(n_bytes: int) -> Iterator[None]:
    """The code inside allocates less than that at any time (what Python and NumPy allocate)."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < n_bytes, f"{peak} bytes allocated"


def damaged(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """`data` with one kind of damage, some of it from `other`."""
    return rng.choice([flip, flip, flip, run, splice, shuffle, resize, insert, cut])(rng, bytearray(data), other)


def flip(rng: random.Random, data: bytearray, _: bytes) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def run(rng: random.Random, data: bytearray, _: bytes) -> bytes:
    at, n = rng.randrange(len(data)), rng.choice([1, 2, 4, 16, 64])
    data[at : at + n] = rng.choice([bytes(n), b"\xff" * n, rng.randbytes(n)])
    return bytes(data)


def splice(rng: random.Random, data: bytearray, other: bytes) -> bytes:
    at, start_, n = rng.randrange(len(data)), rng.randrange(len(other)), rng.randint(1, 100)
    data[at : at + n] = other[start_ : start_ + n]
    return bytes(data)


def insert(rng: random.Random, data: bytearray, _: bytes) -> bytes:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(data)


def cut(rng: random.Random, data: bytearray, _: bytes) -> bytes:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 8)]
    return bytes(data)


def shuffle(rng: random.Random, data: bytearray, other: bytes) -> bytes:
    """Units swapped, doubled, dropped, or taken from the other stream."""
    units = [unit.bits.data for unit in split(bytes(data))]
    a, b = rng.randrange(len(units)), rng.randrange(len(units))
    what = rng.randrange(4)
    if what == 0:
        units[a], units[b] = units[b], units[a]
    elif what == 1:
        units.insert(a, units[b])
    elif what == 2:
        del units[a]
    else:
        units.insert(a, rng.choice([unit.bits.data for unit in split(other)]))
    return b"".join(units)


def resize(rng: random.Random, data: bytearray, _: bytes) -> bytes:
    """A unit whose size field lies."""
    unit = rng.choice(list(split(bytes(data))))
    size = max(0, unit.size + rng.choice([-1000, -3, -1, 1, 2, 1000, 20000]))
    if rng.random() < 0.3:
        data[unit.offset : unit.offset + 2] = (1 << 31 | rng.choice([size, 2**31 - 1])).to_bytes(4, "big")
    else:
        data[unit.offset : unit.offset + 2] = min(size, 2**15 - 1).to_bytes(2, "big")
    return bytes(data)
