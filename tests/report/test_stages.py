"""Stages: each is charged with its own time and memory, and costs nothing while nobody listens."""

import threading
import time

import numpy as np
import pytest

import nncjit
from nncjit.calibrate import Calibration
from nncjit.stages import Cost, recording, stage, staged


def busy(seconds):
    stop = time.thread_time() + seconds
    while time.thread_time() < stop:
        pass


@staged("inner")
def inner(seconds):
    busy(seconds)
    return seconds


def test_a_stage_inside_a_stage_is_charged_alone():
    with recording() as recorder, stage("outer", "w"):
        busy(0.02)
        inner(0.05)
        busy(0.02)
        inner(0.03)
    outer, inside = recorder.costs["outer", "w"], recorder.costs["inner", "w"]
    assert (outer.calls, inside.calls) == (1, 2)
    assert 0.04 <= outer.cpu_seconds < 0.055
    assert 0.08 <= inside.cpu_seconds < 0.095
    assert outer.seconds >= 0.9 * outer.cpu_seconds


def test_nobody_listens_and_nothing_is_kept():
    with recording() as recorder:
        pass
    assert inner(0.0) == 0.0
    with stage("outer"):
        pass
    assert not recorder.costs


def test_all_threads_are_heard():
    def work():
        with stage("side", "b"):
            busy(0.02)

    with recording() as recorder:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert recorder.costs["side", "b"].calls == 3
    assert recorder.costs["side", "b"].cpu_seconds >= 0.06


def test_memory_is_charged_to_the_stage_that_held_it():
    with recording(memory=True) as recorder, stage("outer"):
        with stage("large"):
            np.ones(4_000_000)
        with stage("small"):
            np.ones(1_000)
    costs = {name: cost.peak for (name, _), cost in recorder.costs.items()}
    assert costs["large"] > 32_000_000
    assert costs["small"] < 1_000_000
    assert costs["outer"] < 1_000_000


def test_an_error_closes_its_stage():
    with recording() as recorder:
        with pytest.raises(ZeroDivisionError), stage("outer", "w"), stage("inner"):
            raise ZeroDivisionError
        assert recorder.open_spans() == []
    assert {name for name, _ in recorder.costs} == {"outer", "inner"}


def test_costs_add_up_and_peaks_do_not():
    cost = Cost(1.0, 0.5, 1, 100)
    cost.add(Cost(2.0, 1.5, 2, 80))
    assert cost == Cost(3.0, 2.0, 3, 100)


def test_the_codec_passes_through_its_stages(tmp_path):
    random = np.random.default_rng(0)
    model = {"w": random.standard_normal((140, 120), dtype=np.float32), "b": random.standard_normal(60)}
    np.savez(tmp_path / "model.npz", **model)
    with recording() as recorder:
        nncjit.compress(tmp_path / "model.npz", tmp_path / "model.nnc", threads=1, zeros=0.2)
    there = {name for name, _ in recorder.costs}
    assert there >= {"read", "plan", "reduce", "quantise", "initialise", "code", "syntax", "write"}
    assert {tensor for _, tensor in recorder.costs} >= {"w", "b"}
    assert recorder.costs["quantise", "w"].calls == 1
    with recording() as recorder:
        nncjit.decompress(tmp_path / "model.nnc", tmp_path / "back.npz", threads=1)
    assert {name for name, _ in recorder.costs} >= {"parse", "read", "decode", "compose", "write"}


def test_stages_of_calibrated_coding_are_told_apart():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((96, 96), dtype=np.float32)
    calibration = Calibration()
    x, g = rng.standard_normal((2, 200, 96), dtype=np.float32)
    calibration.linear("w", weight.shape).add(x, g)
    calibration.end_samples(1, output_power=1000.0)
    with recording(memory=True) as recorder:
        nncjit.encode({"w": weight}, calibration=calibration.statistics(), threads=1)
    peaks = {name: cost.peak for (name, _), cost in recorder.costs.items()}
    assert all(peaks[name] > 0 for name in ("read", "factorise", "quantise", "feedback", "code"))
