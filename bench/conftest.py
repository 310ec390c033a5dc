"""What all benchmarks share: the modules beside them, and one way to run and to check."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Saved runs tell the clock, so that times can be told in cycles."""
    from timing import clock

    output_json["clock_hz"] = clock()


@pytest.fixture(params=[1, None], ids=["1 thread", "all threads"])
def threads(request: pytest.FixtureRequest) -> int | None:
    """One thread, then as many as the machine has."""
    return request.param


@pytest.fixture
def measured(benchmark: Any) -> Callable[..., Any]:
    """Run a function once to compile it, check what it gives, then time it, and note what the time is for.

    ``measured(function, *args, weights=n, check=..., threads=..., bits=..., **more)``: the keywords go into
    `extra_info`, from which the table computes speeds; `check` gets every result.
    """

    def run(
        function: Callable[..., Any],
        *args: Any,
        weights: int,
        check: Callable[[Any], object] | None = None,
        threads: int | None = 1,
        **more: Any,
    ) -> Any:
        from nncjit.jit.threads import count

        first = function(*args)
        if check is not None:
            check(first)
        benchmark.extra_info.update({"weights": weights, "threads": count(threads), **more})
        again = benchmark(function, *args)
        if check is not None:
            check(again)
        return again

    return run
