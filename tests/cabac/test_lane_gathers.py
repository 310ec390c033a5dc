"""Lanes gather contexts before a bin or after it, as suits the processor they are compiled for: levels are the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cabac.decoding import VECTORS, decode, take_way, vector

from nncjit.cabac import lane_step_kernels
from nncjit.jit import JIT, processor

pytestmark = pytest.mark.kernel

PROCESSORS = {"znver4": False, "sapphirerapids": True}
"""LLVM's names, and whether contexts are gathered ahead there."""


def check(ahead: bool, paths: list[Path]) -> None:
    """Decode layers of the reference in lanes."""
    assert lane_step_kernels.AHEAD is ahead
    with pytest.MonkeyPatch.context() as patch:
        take_way(patch, "lanes")
        layers = [vector(path) for path in paths]
        for one, out in zip(layers, decode(*layers, threads=2), strict=True):
            np.testing.assert_array_equal(out, one.levels)


@pytest.mark.skipif(JIT, reason="compiled code has made its choice")
@pytest.mark.parametrize("ahead", [False, True])
def test_both_ways_give_the_same_levels(ahead, monkeypatch):
    monkeypatch.setattr(lane_step_kernels, "AHEAD", ahead)
    check(ahead, [path for path in VECTORS if path.stat().st_size < 1500][::40])


@pytest.mark.slow
@pytest.mark.skipif(not JIT or not processor.has_wide_vectors(), reason="no lanes to compile")
@pytest.mark.parametrize("name", PROCESSORS)
def test_both_ways_compiled_give_the_same_levels(name, tmp_path):
    code = f"from cabac.test_lane_gathers import VECTORS, check; check({PROCESSORS[name]}, VECTORS)"
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    settings = {"NUMBA_CPU_NAME": name, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], env=os.environ | settings, check=True)


def test_the_choice_follows_the_name_of_the_processor(monkeypatch):
    for name, ahead in {**PROCESSORS, "znver5": False, "": True}.items():
        monkeypatch.setattr(processor.config, "CPU_NAME", name)
        assert processor.has_slow_gathers() is not ahead
