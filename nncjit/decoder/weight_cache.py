"""Decoded tensors under a memory budget: what is needed next is decoded ahead, what is needed last is let go."""

from __future__ import annotations

import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from nncjit.errors import NncWarning
from nncjit.jit.threads import Pool


class WeightCache:
    """Values by key, each made when it is asked for or expected.

    Parameters
    ----------
    make : callable
        Makes the value of a key; called on a thread of the cache.
    sizes : mapping
        Bytes of each key's value.
    budget : int
        Bytes of all values that are held or being made.
    """

    def __init__(self, make: Callable[[Any], Any], sizes: Mapping[Any, int], budget: int) -> None:
        self._make, self._sizes, self._budget = make, sizes, budget
        self._held: dict[Hashable, Future[Any]] = {}
        self._pinned: Counter[Hashable] = Counter()
        self._lock = threading.Lock()
        self._worker = Pool(1, "nncjit-ahead")
        self._warned = False
        self.resident_bytes = self.peak_bytes = 0
        self.made = self.waited = 0
        """How many values were made, and how many were not ready when they were asked for."""

    def acquire(self, keys: Sequence[Hashable], upcoming: Sequence[Hashable] = (), ahead: int = 0) -> list[Any]:
        """The values of some keys, which stay until they are released.

        Parameters
        ----------
        keys : sequence
        upcoming : sequence
            The keys that will be asked for next, the nearest first: those that come last make room for others.
        ahead : int
            How many of them are made ahead, as far as the budget goes.
        """
        turn = {key: at for at, key in reversed([*enumerate(upcoming)])}
        with self._lock:
            self._pinned.update(keys)
        while busy := self._start_needed(keys, turn):
            wait(busy, return_when=FIRST_COMPLETED)
        with self._lock:
            futures = [self._held[key] for key in keys]
            self.waited += sum(not future.done() for future in futures)
            for key in upcoming[:ahead]:
                at = turn[key]
                if key not in self._held:
                    if not self._make_room(self._sizes[key], turn, at):
                        break
                    self._start(key)
        try:
            return [future.result() for future in futures]
        except BaseException:
            self._forget_failed(keys)
            raise

    def release(self, keys: Sequence[Hashable]) -> None:
        """Let others take the place of these."""
        with self._lock:
            self._pinned.subtract(keys)

    def close(self) -> None:
        """Let go of everything."""
        self._worker.shutdown(cancel_futures=True)
        with self._lock:
            self._held.clear()
            self.resident_bytes = 0

    def _start_needed(self, keys: Sequence[Hashable], turn: Mapping[Hashable, int]) -> list[Future[Any]]:
        """Start what is missing of some keys. Where what nobody needs yet is being made in its place, that."""
        with self._lock:
            for key in keys:
                if key in self._held:
                    continue
                if not self._make_room(self._sizes[key], turn, -1):
                    busy = [f for k, f in self._held.items() if not self._pinned[k] and not f.done()]
                    if busy:
                        return busy
                    self._warn_of_excess(self.resident_bytes + self._sizes[key])
                self._start(key)
        return []

    def _start(self, key: Hashable) -> None:
        self._held[key] = self._worker.submit(self._make, key)
        self.made += 1
        self.resident_bytes += self._sizes[key]
        self.peak_bytes = max(self.peak_bytes, self.resident_bytes)

    def _make_room(self, size: int, turn: Mapping[Hashable, int], at: int) -> bool:
        """Let go of values whose turn comes after `at`, the last first, until there is room; whether there is."""
        excess = self.resident_bytes + size - self._budget
        free = [k for k, future in self._held.items() if not self._pinned[k] and not future.running()]
        later = sorted((k for k in free if turn.get(k, math.inf) > at), key=lambda k: -turn.get(k, math.inf))
        if excess > sum(self._sizes[k] for k in later):
            return False
        for key in later:
            if excess <= 0:
                break
            if self._held[key].done() or self._held[key].cancel():
                del self._held[key]
                self.resident_bytes -= self._sizes[key]
                excess -= self._sizes[key]
        return excess <= 0

    def _forget_failed(self, keys: Sequence[Hashable]) -> None:
        with self._lock:
            self._pinned.subtract(keys)
            for key in keys:
                future = self._held.get(key)
                if future is not None and future.done() and future.exception() is not None:
                    del self._held[key]
                    self.resident_bytes -= self._sizes[key]

    def _warn_of_excess(self, n_bytes: int) -> None:
        if not self._warned:
            self._warned = True
            said = f"layers at work need {n_bytes} bytes at a time, the budget is {self._budget}"
            warnings.warn(said, NncWarning, stacklevel=3)
