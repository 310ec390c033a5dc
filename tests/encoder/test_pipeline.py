"""Tensors go through the pool in order, with few in memory."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nncjit.encoder import pipeline
from nncjit.encoder.pipeline import in_order


@pytest.fixture(params=[None, 1, 3])
def pool(request):
    if request.param is None:
        yield None
        return
    with ThreadPoolExecutor(request.param) as executor:
        yield executor


@pytest.fixture(autouse=True)
def no_tiny_items(monkeypatch):
    """The tests count in small numbers."""
    monkeypatch.setattr(pipeline, "TINY", 0)


@pytest.mark.parametrize("tiny", [0, 3, 51])
def test_results_come_in_order_and_large_items_and_the_last_one_get_the_pool(pool, monkeypatch, tiny):
    monkeypatch.setattr(pipeline, "LARGE", 100)
    monkeypatch.setattr(pipeline, "TINY", tiny)
    sizes = [1, 50, 100, 2, 3, 500, 4]

    def work(size, workers):
        time.sleep(0.002 * (size % 5))
        return size, workers

    found = list(in_order([(size, size) for size in sizes], work, pool))
    assert found == [(size, pool if size in (100, 500) or (size == 4 and tiny <= 4) else None) for size in sizes]


def test_few_items_are_in_memory(monkeypatch):
    monkeypatch.setattr(pipeline, "IN_FLIGHT", 3)
    live, most, lock = 0, 0, threading.Lock()

    def items():
        nonlocal live, most
        for k in range(40):
            with lock:
                live += 1
                most = max(most, live)
            yield k, 1

    with ThreadPoolExecutor(2) as executor:
        for _ in in_order(items(), lambda item, _: item, executor):
            with lock:
                live -= 1
    assert most <= 3 + 2  # and the one that was read to see whether there is room, and whether it is the last


def test_a_fault_ends_the_work_and_what_waits_is_not_begun():
    begun = []

    def work(item, _):
        begun.append(item)
        if item == 0:
            raise RuntimeError("tensor 0")
        time.sleep(0.01)

    with ThreadPoolExecutor(1) as executor, pytest.raises(RuntimeError, match="tensor 0"):
        list(in_order([(k, 1) for k in range(50)], work, executor))
    assert len(begun) < 50


def test_small_results_are_not_held_back_by_a_large_item(monkeypatch):
    monkeypatch.setattr(pipeline, "LARGE", 10)
    seen = []

    def items():
        yield "small", 1
        time.sleep(0.1)
        yield "large", 10

    def work(item, _):
        if item == "large":
            seen.append("large begins")
        return item

    with ThreadPoolExecutor(1) as executor:
        for item in in_order(items(), work, executor):
            seen += [f"{item} handed on"]
    assert seen == ["small handed on", "large begins", "large handed on"]


def test_tiny_items_are_done_by_the_caller_while_threads_do_others(monkeypatch):
    monkeypatch.setattr(pipeline, "TINY", 10)
    done = threading.Event()

    def work(item, _):
        if item == "tiny":
            done.set()
            return threading.current_thread()
        assert done.wait(10)
        return item

    with ThreadPoolExecutor(1) as executor:
        found = list(in_order([("first", 10), ("tiny", 9)], work, executor))
    assert found == ["first", threading.current_thread()]


@pytest.mark.parametrize("last", [1, 9, 10])
def test_the_first_fault_in_order_is_raised(monkeypatch, last):
    monkeypatch.setattr(pipeline, "LARGE", 10)
    monkeypatch.setattr(pipeline, "TINY", 2)

    def work(item, _):
        time.sleep(0.01 * (item == "first"))
        raise RuntimeError(item)

    with ThreadPoolExecutor(1) as executor, pytest.raises(RuntimeError, match="first"):
        list(in_order([("first", 5), ("last", last)], work, executor))


def test_large_items_are_begun_side_by_side_and_those_beyond_the_memory_alone(monkeypatch):
    monkeypatch.setattr(pipeline, "LARGE", 10)
    monkeypatch.setattr(pipeline, "LARGE_IN_FLIGHT", 20)
    both, busy = threading.Barrier(2, timeout=10), []

    def work(item, workers):
        busy.append(item)
        assert workers is executor
        if item == "huge":
            assert busy == ["huge"]
            assert threading.current_thread() is threading.main_thread()
        else:
            both.wait()
        busy.remove(item)
        return item

    with ThreadPoolExecutor(2) as executor:
        items = [("first", 10), ("second", 10), ("huge", 21), ("third", 10), ("fourth", 10)]
        assert list(in_order(items, work, executor)) == ["first", "second", "huge", "third", "fourth"]
