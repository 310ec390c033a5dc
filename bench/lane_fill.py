"""How full the lanes are, and how much faster many threads are in them, computed from the rows that real models have:
``python bench/lane_fill.py [--threads 1 2 4 8 16] [--json FILE]``.

A step of a thread's 16 lanes takes the same time whatever they hold. So decoding, or coding a bundle, takes as long as
the lane that ends last, when each lane takes the longest row that is left. Rows count by their bits, and in encoding by
their levels. "Fill" is the share of the lanes' time in which they have a row; "times" compares with one thread. Nothing
else that encoding or decoding does is counted, so what a machine with as many cores gains is less.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import models
import numpy as np
from saved_figures import save_or_print

import nncjit
from nncjit.cabac import lane_encoder, lane_supply
from nncjit.decoder.stream_decoder import compile_kernels as compile_decoder
from nncjit.encoder import pipeline
from nncjit.encoder.model_encoder import compile_kernels as compile_encoder

LANES = 16


def span(rows: Sequence[int], lanes: int) -> int:
    """When the last of so many lanes ends."""
    ends = [0] * lanes
    for row in sorted(rows, reverse=True):
        heapq.heapreplace(ends, ends[0] + row)
    return max(ends)


@contextmanager
def seen(module: Any, name: str, take: Any) -> Iterator[list[list[int]]]:
    """What `take` makes of what each call of a function returns and is given."""
    found: list[list[int]] = []
    original = getattr(module, name)

    def call(*args: Any, **named: Any) -> Any:
        result = original(*args, **named)
        found.append(take(result, *args))
        return result

    setattr(module, name, call)
    try:
        yield found
    finally:
        setattr(module, name, original)


def rows_of_layers(_result: None, layers: Sequence[lane_encoder.QueuedLayer], _workers: object) -> list[int]:
    """Levels of each row that is coded by one call."""
    parts = [queued.prepared.intervals["stop"] - queued.prepared.starts for queued in layers]
    return np.concatenate(parts).tolist()


def bits_of_segments(
    jobs: lane_supply.LaneJobs | None, _layers: object, _segments: object, _size: object, bits: np.ndarray, *_: object
) -> list[int]:
    """Bits of each segment that is decoded in lanes by one call."""
    return [] if jobs is None else bits[jobs.chosen].tolist()


def decoding(calls: list[list[int]], threads: int) -> int:
    """The time of the calls one after another, each with all threads."""
    return sum(span(bits, LANES * threads) for bits in calls if bits)


def encoding(calls: list[list[int]], threads: int) -> int:
    """The time of bundles: side by side, and with more threads than bundles shared; the last one is shared anyway."""
    side_by_side = min(threads, pipeline.BUNDLES)
    share = threads // side_by_side
    times = [span(rows, LANES * min(share, _tasks(rows))) for rows in calls[:-1]]
    last = span(calls[-1], LANES * min(threads, _tasks(calls[-1])))
    return span(times, side_by_side) + last


def _tasks(rows: list[int]) -> int:
    """Into how many a bundle can be shared."""
    return max(1, min(len(rows) // lane_encoder.FEWEST_ROWS, LANES))


def measured(arrays: models.Arrays, counts: list[int]) -> dict[str, Any]:
    """The rows of a model, and what they make of so many threads."""
    with seen(lane_encoder, "_code", rows_of_layers) as coded:
        stream = nncjit.encode(arrays, threads=1)
    with seen(lane_supply, "jobs_for_lanes", bits_of_segments) as decoded:
        nncjit.decode(stream, threads=1)
    found: dict[str, Any] = {}
    for name, calls, time in (("decode", decoded, decoding), ("encode", coded, encoding)):
        total, alone = sum(map(sum, calls)), time(calls, 1)
        found[name] = {
            "calls": len(calls),
            "rows": sum(map(len, calls)),
            "largest": max(row for rows in calls for row in rows) / total,
            "threads": {
                n: {"fill": total / (n * LANES * time(calls, n)), "times": alone / time(calls, n)} for n in counts
            },
        }
    return found


def main() -> None:
    """Compute, and save or print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    args = parser.parse_args()
    compile_decoder()
    compile_encoder()
    known = {"ResNet50 shapes": models.resnet50()}
    if models.minilm_file() is not None:
        known["MiniLM"] = models.minilm()
    save_or_print({name: measured(arrays, args.threads) for name, arrays in known.items()}, args.json)


if __name__ == "__main__":
    main()
