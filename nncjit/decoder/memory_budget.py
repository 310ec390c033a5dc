"""How much memory a stream may ask for.

A few bytes can announce arrays of any size. What stands behind them is told by the payload: a byte of it holds no more
than BINS_PER_BYTE bins, and each element takes one, but for rows that are skipped, codebooks of one value, and products
of factors. What is not earned so is allowed in moderation, since constants are legitimate and cost nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path
from typing import TypeVar

from nncjit.cabac.layer import Contexts
from nncjit.option_values import Bytes, optional
from nncjit.stream.data_units import DataUnit

Item = TypeVar("Item")

BINS_PER_BYTE = 1416
"""Most bins that a byte of payload can hold: 8 / log2(511 / 509)."""
UNEARNED_BYTES, UNEARNED_FACTOR = 1 << 28, 1024
"""Memory that need not be earned: so much, or so many times the size of the stream."""
USABLE_SHARE = 0.75
"""Of the machine's memory, by default."""
BATCH_WEIGHTS, KEPT_BATCH_WEIGHTS = 1 << 24, 1 << 26
"""Weights of a batch, where arrays are handed on and where they are kept anyway; one larger tensor is a batch of its
own. The more, the longer all lanes of all threads have work."""
KEPT_WEIGHTS_PER_THREAD = 1 << 24
"""Weights of a batch for each thread, where arrays are kept: of wide tensors, those of 16 block rows."""
BATCH_WORKSPACE = 1 << 23
"""Memory of a batch's contexts, in weights: it is taken beside the arrays, kept or not."""
WEIGHTS_PER_CONTEXT = 4
"""A context takes as much memory as so many weights."""


def usable_memory() -> int:
    """Bytes that arrays may take where nobody says otherwise: a share of what this process may have."""
    limits = [_physical_memory()]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return int(USABLE_SHARE * min(limits))


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 34  # a machine that does not tell is taken to have 16 GiB


def unearned_allowed(stream_size: int) -> int:
    """Bytes that need not be earned by a stream of this size."""
    return max(UNEARNED_BYTES, UNEARNED_FACTOR * stream_size)


class MemoryBudget:
    """What the arrays of one call may take.

    Parameters
    ----------
    max_bytes : int, str or None
        What the caller allows, all arrays together, for example 10**9 or "1GB". None: `usable_memory`, and
        `UNEARNED_BYTES` or more of what is not earned.
    stream_size : int
        Bytes of the stream.
    kept : bool
        Whether all arrays stay in memory until the call ends. Where they do not, `usable_memory` is for each unit.
    """

    def __init__(self, max_bytes: int | str | None, stream_size: int, *, kept: bool = True) -> None:
        self.max_bytes: int | None = optional("max_bytes", Bytes(), max_bytes)
        self._usable = usable_memory() if self.max_bytes is None else self.max_bytes
        self._together = kept or max_bytes is not None
        self._unearned_allowed = unearned_allowed(stream_size) if max_bytes is None else None
        self._asked = self._unearned = 0
        self._kept = kept

    @property
    def left(self) -> int:
        """Bytes that may still be asked for."""
        return self._usable - self._asked

    def charge(self, opened: DataUnit, share: float = 1.0) -> None:
        """Account for a unit, or a share of it, before anything is allocated for it: at its peak beside what is kept of
        the units before it.

        Raises
        ------
        BitstreamError
            It asks for more than is left.
        """
        n_bytes = int(opened.n_bytes * share)
        if n_bytes > self.left:
            reason = f"asks for {n_bytes} bytes of memory, {self.left} of {self._usable} are left (max_bytes)"
            raise opened.error(reason)
        self._unearned += int(n_bytes * unearned_share(opened))
        if self._unearned_allowed is not None and self._unearned > self._unearned_allowed:
            reason = (
                f"asks for {n_bytes} bytes of memory that its {opened.unit.size} bytes do not earn; "
                f"up to {self._unearned_allowed} of such are allowed unless max_bytes says more"
            )
            raise opened.error(reason)
        if self._together:
            self._asked += int(share * sum(part.size_in_bytes for part in opened.results()))

    def batches(self, units: Iterable[DataUnit], threads: int = 1) -> Iterator[list[DataUnit]]:
        """The units in batches that take a bounded amount of memory, each charged; where arrays are kept anyway, with
        work for so many threads.
        """
        most = max(KEPT_BATCH_WEIGHTS, KEPT_WEIGHTS_PER_THREAD * threads) if self._kept else BATCH_WEIGHTS

        def room_of(opened: DataUnit) -> tuple[int, int]:
            self.charge(opened)
            return opened.weights, workspace_weights(opened)

        return in_batches(units, room_of, most)


def in_batches(
    items: Iterable[Item], room_of: Callable[[Item], tuple[int, int]], most_weights: int
) -> Iterator[list[Item]]:
    """Items in batches that take a bounded amount of memory; one larger item is a batch of its own.

    Parameters
    ----------
    items : iterable
    room_of : callable
        The weights of an item, and those that the contexts take with which it is decoded; called once for each.
    most_weights : int
    """
    batch: list[Item] = []
    weights = workspace = 0
    for item in items:
        own, beside = room_of(item)
        weights, workspace = weights + own, workspace + beside
        if batch and (weights > most_weights or workspace > BATCH_WORKSPACE):
            yield batch
            batch, weights, workspace = [], own, beside
        batch.append(item)
    if batch:
        yield batch


def unearned_share(opened: DataUnit) -> float:
    """Share of the elements for which there are no bins in the payload."""
    made = sum(prod(part.shape) for part in opened.results())
    elements = max(opened.weights, made)
    return max(0.0, 1.0 - BINS_PER_BYTE * opened.unit.size / elements) if elements else 0.0


def workspace_weights(opened: DataUnit) -> int:
    """Memory of a unit's contexts while it is decoded, in weights."""
    unary_length = (opened.unit.inputs.cabac_unary_length_minus1 or 0) + 1
    return WEIGHTS_PER_CONTEXT * Contexts.for_unary_length(unary_length).total * len(opened.parts)
