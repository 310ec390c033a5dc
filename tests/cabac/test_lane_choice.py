"""Where lanes are used: the user's word, else a trial whose outcome is kept; and what the tables of lanes rest on."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.cabac import decoder_records as dr
from nncjit.cabac import lane_choice, lane_supply, payload_decoder
from nncjit.cabac.lane_tables import tables_of
from nncjit.cabac.tables import INITIAL_WORDS, RANGE_LPS, UPDATE_CURVE
from nncjit.errors import OptionError
from nncjit.jit import address


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.delenv("NNCJIT_LANES", raising=False)
    monkeypatch.setattr(lane_choice, "JIT", True)
    monkeypatch.setattr(lane_choice.processor, "has_wide_vectors", lambda: True)
    monkeypatch.setattr(lane_choice, "_waiting_weights", 0)
    monkeypatch.setattr(lane_choice, "are_compiled", lambda: True)
    known = lane_choice.are_faster
    known.cache_clear()
    yield
    known.cache_clear()


def test_the_user_has_the_last_word(monkeypatch):
    monkeypatch.setattr(lane_choice, "are_faster", lambda: False)
    monkeypatch.setenv("NNCJIT_LANES", "1")
    assert lane_choice.available()
    assert lane_choice.pay(1)
    assert lane_choice.describe() == "in lanes: NNCJIT_LANES=1"
    monkeypatch.setenv("NNCJIT_LANES", "0")
    assert not lane_choice.available()
    assert lane_choice.describe() == "in pairs: NNCJIT_LANES=0"
    monkeypatch.setenv("NNCJIT_LANES", "yes")
    with pytest.raises(OptionError, match="NNCJIT_LANES is 'yes'"):
        lane_choice.available()


def test_without_wide_vectors_there_are_no_lanes_whatever_the_user_says(monkeypatch):
    monkeypatch.setattr(lane_choice.processor, "has_wide_vectors", lambda: False)
    monkeypatch.setenv("NNCJIT_LANES", "1")
    assert not lane_choice.available()
    assert "AVX-512" in lane_choice.describe()


def test_lanes_are_compiled_only_after_enough_work(monkeypatch):
    monkeypatch.setattr(lane_choice, "are_compiled", lambda: False)
    monkeypatch.setattr(lane_choice, "are_faster", lambda: True)
    assert "warmup" in lane_choice.describe()
    assert not lane_choice.pay(lane_choice.WORTH_COMPILING - 1)
    assert lane_choice.pay(1)


@pytest.mark.parametrize("faster", [True, False])
def test_the_trial_is_made_once_and_its_outcome_kept(monkeypatch, faster):
    notes, trials = {}, []
    monkeypatch.setattr(lane_choice, "identity", lambda *_: "these kernels")
    monkeypatch.setattr(lane_choice, "read_note", notes.get)
    monkeypatch.setattr(lane_choice, "write_note", notes.__setitem__)
    monkeypatch.setattr(lane_choice, "_trial", lambda: trials.append(1) or faster)
    for _ in range(2):
        lane_choice.are_faster.cache_clear()
        assert lane_choice.are_faster() is faster
        assert lane_choice.pay(1) is faster
    assert len(trials) == 1
    for name in notes:
        notes[name] = b"damaged"
    lane_choice.are_faster.cache_clear()
    assert lane_choice.are_faster() is faster
    assert len(trials) == 2


@pytest.mark.parametrize(("kernels", "kept"), [("other kernels", 2), ("", 1)])
def test_what_a_trial_of_other_kernels_has_said_is_not_believed(monkeypatch, kernels, kept):
    """Nor is anything kept where nobody can tell which kernels these are."""
    notes, said = {}, iter([False, True])
    monkeypatch.setattr(lane_choice, "read_note", notes.get)
    monkeypatch.setattr(lane_choice, "write_note", notes.__setitem__)
    monkeypatch.setattr(lane_choice, "_trial", lambda: next(said))
    for name, faster in (("these kernels", False), (kernels, True)):
        monkeypatch.setattr(lane_choice, "identity", lambda *_, name=name: name)
        lane_choice.are_faster.cache_clear()
        assert lane_choice.are_faster() is faster
    assert len(notes) == kept


@pytest.mark.parametrize("tick", [1e-9, 1e-6, 1 / 64])
@pytest.mark.parametrize("load", [0.0, 0.3])
@pytest.mark.parametrize(("pairs", "lanes"), [(2.8e-3, 1.4e-3), (1.4e-3, 2.8e-3), (9e-3, 6e-3), (6e-3, 6e-3)])
def test_a_trial_finds_the_faster_way_by_any_clock(monkeypatch, pairs, lanes, load, tick):
    """Of the clock of threads on Windows a tick is 1/64 s. Others at work make some runs longer."""
    now, random = 0.0, np.random.default_rng(0)

    def thread_time():
        nonlocal now
        now += 1e-7
        return now // tick * tick

    def decode_payloads(_jobs, _threads, *, lanes):
        nonlocal now
        now += of[lanes] * (1 + load * random.random())

    of = {False: pairs, True: lanes}
    monkeypatch.setattr(lane_choice.time, "thread_time", thread_time)
    monkeypatch.setattr(payload_decoder, "decode_payloads", decode_payloads)
    assert lane_choice._trial() is (pairs > lane_choice.GAIN * lanes)


def test_the_width_of_the_less_probable_symbol_is_that_for_the_largest_range_scaled():
    widest = tables_of(11, 0)["lps_widths"][0].astype(np.int64) >> 8
    for quarter in range(8):
        table = RANGE_LPS[32:].view(np.uint64) >> np.uint64(8 * quarter) & np.uint64(255)
        assert (table == widest * (quarter + 9) >> 4).all()


def test_no_context_leaves_what_16_bits_and_the_tables_of_32_hold():
    """All words that any bins lead to from the nine initial ones, estimator by estimator and together as bounds."""
    curve = UPDATE_CURVE.astype(np.int64)
    bounds = []
    for first, shift, top, step in ((4, 13, 9, 4), (16, 29, 12, 0)):
        for initial in np.unique(INITIAL_WORDS):
            word = int(initial)
            slow = first == 16
            value = word >> first & (1 << top) - 1
            by = (word >> shift & 3) + (4 if slow else 0)
            seen, left = set(), [value]
            while left:
                value = left.pop()
                if value in seen:
                    continue
                seen.add(value)
                scaled = value << step if not slow else value
                up = int(curve[scaled >> 7 & 31]) >> by
                down = int(curve[(0x1000 if slow else 0xF00F) - scaled >> 7 & 31]) >> by
                if not slow:
                    up, down = up & ~15, down & ~15
                left += [value + (up >> step), value - (down >> step)]
            bounds.append((slow, min(seen), max(seen)))
    assert all(low > 0 and high < (1 << 12 if slow else 1 << 8) for slow, low, high in bounds)


@pytest.mark.parametrize(
    ("bits", "threads", "sooner"),
    [([1000] * 64, 1, True), ([1000] * 64, 2, True), ([1000] * 32, 16, False), ([1000] * 99 + [10**6], 1, False)],
)
def test_a_long_segment_does_not_wait_in_a_lane(bits, threads, sooner):
    assert lane_supply._end_sooner(np.array(bits), min(threads, len(bits) // 4), threads) is sooner


@pytest.mark.parametrize(
    ("count", "threads", "shared", "workers", "lanes"),
    [
        *[(64, 2, False, 2, 16), (64, 8, False, 8, 8), (18, 4, False, 4, 5), (5, 4, False, 1, 5)],
        *[(64, 2, True, 2, 16), (64, 8, True, 4, 16), (18, 4, True, 1, 16), (20, 4, True, 2, 10), (5, 4, True, 1, 5)],
    ],
)
def test_work_that_shares_threads_fills_lanes_first(count, threads, shared, workers, lanes, monkeypatch):
    monkeypatch.setattr(lane_supply.lane_choice, "available", lambda: True)
    layers, segments = np.zeros(1, dr.LAYER), np.zeros(count, dr.SEGMENT)
    payload = np.zeros(1000, np.uint8)
    layers["words"], layers["n_bits"], layers["unary_length"] = address(payload), 8 * payload.size, 10
    size, bits, regular = np.full(count, 4096), np.full(count, 10), np.ones(count, np.bool_)
    jobs = lane_supply.jobs_for_lanes(layers, segments, size, bits, regular, threads, True, shared=shared)
    assert (jobs.workers, jobs.lanes) == (workers, lanes)
