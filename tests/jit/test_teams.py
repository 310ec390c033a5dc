"""Work in a team: all of it is done once, in order, by no more threads than there are, and nobody waits for anybody."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from nncjit.jit import JIT, address, atomic_add, kernel, load_i64, store_64, teams
from nncjit.jit.teams import KernelCall, Team, finish

N = 20_000 if JIT else 50


@kernel
def add_share(work, worker):
    """Add to the numbers that it takes. work : address of int64[3], a counter, an array's address, what to add."""
    while True:
        k = atomic_add(work, 1)
        if k >= N:
            return
        store_64(load_i64(work, 1), k, load_i64(load_i64(work, 1), k) + load_i64(work, 2))


def sums(counts):
    """Work of one call after the other, with so many workers each: call k adds 10 ** k to all numbers."""
    out = np.zeros(N, np.int64)
    for k, workers in enumerate(counts):
        argument = np.array([0, address(out, writes=True), 10**k])
        yield KernelCall(add_share, address(argument, writes=True), workers)
        assert (out == sum(10**n for n in range(k + 1))).all(), "went on before all was done"
    return out


@pytest.fixture
def python_kernels(monkeypatch):
    """Functions of Python can be called as kernels."""
    monkeypatch.setattr(teams.numba_internals, "compile_worker", lambda _: None)


@pytest.mark.kernel
@pytest.mark.parametrize("counts", [(), (1,), (3,), (2, 1, 5), (4,) * 9])
def test_work_is_done_as_a_whole(counts):
    assert (finish(sums(counts)) == sum(10**k for k in range(len(counts)))).all()


@pytest.mark.kernel
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_team_does_all_of_several_works(size):
    before = threading.active_count()
    team = Team(size, "team")
    futures = [team.start(sums((1 + k % 4,) * (k % 3 + 1))) for k in range(12)]
    for k, future in enumerate(futures):
        assert (future.result(60) == sum(10**n for n in range(k % 3 + 1))).all()
    assert threading.active_count() <= before + size
    team.stop()
    assert threading.active_count() == before


def tasks(call, n, at_work=None):
    """Work of one call whose workers share `n` tasks: ``call(task)``."""
    left = list(range(n))[::-1]
    lock = threading.Lock()

    def share(_, worker):
        while True:
            with lock:
                if not left:
                    return
                k = left.pop()
            if at_work is not None:
                at_work[threading.current_thread().name] += 1
            call(k)

    yield KernelCall(share, 0, n)
    return n


@pytest.mark.usefixtures("python_kernels")
def test_who_ends_early_begins_the_next_work():
    """The first work ends when the second has begun, and the second when the first has: two threads suffice."""
    second, first = threading.Event(), threading.Event()

    def early(k):
        assert k == 0 or second.wait(30), "the second work has not begun"

    def one():
        yield from tasks(early, 2)
        first.set()

    def other(_):
        second.set()
        assert first.wait(30), "the first work waits for a thread that is not there"

    team = Team(2, "team")
    futures = [team.start(one()), team.start(tasks(other, 1))]
    assert [future.result(60) for future in futures] == [None, 1]
    team.stop()


@pytest.mark.usefixtures("python_kernels")
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_team_has_no_more_threads_at_work_than_it_has(size):
    busy, most, lock = 0, 0, threading.Lock()

    def work(_):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(2e-3)
        with lock:
            busy -= 1

    def several():
        for _ in range(3):
            yield from tasks(work, 4)

    team, at_work = Team(size, "team"), Counter()
    futures = [team.start(several()) for _ in range(3)] + [team.start(tasks(work, 20, at_work))]
    for future in futures:
        future.result(60)
    team.stop()
    assert most == size
    assert len(at_work) <= size


@pytest.mark.usefixtures("python_kernels")
@pytest.mark.parametrize("size", [1, 3])
def test_an_error_of_the_work_or_of_a_kernel_comes_out(size):
    def refuse(k):
        if k == 1:
            raise ValueError("task 1")

    def fails():
        yield from tasks(int, 3)
        raise KeyError("after a call")

    def explains():
        try:
            yield from tasks(refuse, 3)
        except ValueError as error:
            raise RuntimeError("explained") from error

    team = Team(size, "team")
    after_call, explained = team.start(fails()), team.start(explains())
    with pytest.raises(KeyError, match="after a call"):
        after_call.result(60)
    with pytest.raises(RuntimeError, match="explained"):
        explained.result(60)
    assert team.start(tasks(int, 3)).result(60) == 3, "the team goes on"
    team.stop()


@pytest.mark.usefixtures("python_kernels")
def test_a_closed_team_ends_with_its_work():
    go_on, before = threading.Event(), threading.active_count()
    team = Team(2, "team")
    futures = [team.start(tasks(lambda _: go_on.wait(30), 2)) for _ in range(3)]
    team.close()
    assert threading.active_count() == before + 2
    go_on.set()
    assert [future.result(60) for future in futures] == [2, 2, 2]
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(1e-3)
    assert threading.active_count() == before
    team.stop()


@pytest.mark.usefixtures("python_kernels")
def test_a_stopped_team_ends_what_it_has_begun_and_begins_nothing():
    begun, before = threading.Event(), threading.active_count()

    def slowly():
        for _ in range(3):
            yield from tasks(lambda _: (begun.set(), time.sleep(0.01)), 4)

    team, never = Team(2, "team"), []
    first, last = team.start(slowly()), team.start(tasks(never.append, 1))
    assert begun.wait(30)
    team.stop()
    assert threading.active_count() == before
    assert first.done()
    assert last.done() == bool(never)


@pytest.mark.usefixtures("python_kernels")
def test_nobody_keeps_a_result_that_was_fetched():
    """Nor a helper of the work, that had to wait until it was too late."""

    class Large:
        pass

    def work():
        yield from tasks(int, 3)
        return Large()

    go_on, team = threading.Event(), Team(1, "team")
    result = team.start(work())
    last = team.start(tasks(lambda _: go_on.wait(30), 1))
    large = weakref.ref(result.result(60))
    del result
    assert large() is None
    go_on.set()
    assert last.result(60) == 1
    team.stop()


@pytest.mark.usefixtures("python_kernels")
def test_each_thread_works_in_the_context_that_the_team_has():
    here = threading.local()

    class Within:
        def __enter__(self):
            here.depth = getattr(here, "depth", 0) + 1

        def __exit__(self, *_):
            here.depth -= 1

    def work(_):
        assert here.depth == 1
        time.sleep(1e-3)

    team = Team(3, "team", Within)
    futures = [team.start(tasks(work, 9)) for _ in range(4)]
    assert [future.result(60) for future in futures] == [9] * 4
    team.stop()


@pytest.mark.usefixtures("python_kernels")
@pytest.mark.parametrize("where", ["for a helper", "to begin"])
def test_whoever_waits_hears_of_whatever_goes_wrong_in_a_team(where, monkeypatch):
    """As little as memory for what the team itself makes."""

    def no_memory(*_):
        raise MemoryError

    team = Team(2, "team", within=no_memory if where == "to begin" else contextlib.nullcontext)
    if where == "for a helper":
        monkeypatch.setattr(team._pool, "offer", no_memory)
        monkeypatch.setattr(team._pool, "submit", partial(ThreadPoolExecutor.submit, team._pool))
    future = team.start(tasks(int, 2))
    with pytest.raises(MemoryError):
        future.result(30)
    team.stop()
