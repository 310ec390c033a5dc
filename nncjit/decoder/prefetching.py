"""Tensors one after the other, decoded ahead of the caller."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from nncjit.jit.threads import Pool


def iterate_ahead(
    names: Sequence[str], decode: Callable[[str], Any], sizes: Mapping[str, int], ahead: int
) -> Iterator[tuple[str, Any]]:
    """Names and decoded tensors in order; at most `ahead` bytes are decoded, or being decoded, before their turn."""
    with Pool(1, "nncjit-ahead") as worker:
        waiting: deque[Future[Any]] = deque()
        filled = position = 0
        try:
            for turn, name in enumerate(names):
                if not waiting:
                    waiting.append(worker.submit(decode, name))
                    position = turn + 1
                else:
                    filled -= sizes[name]
                future = waiting.popleft()
                while position < len(names) and filled + sizes[names[position]] <= ahead:
                    waiting.append(worker.submit(decode, names[position]))
                    filled, position = filled + sizes[names[position]], position + 1
                yield name, future.result()
        finally:
            for future in waiting:
                future.cancel()
