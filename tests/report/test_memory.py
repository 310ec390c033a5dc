"""Peak memory of work in a process of its own."""

import pytest

from nncjit.errors import ModelError, OptionError
from nncjit.report.memory import in_child, peak_memory


def test_the_work_and_nothing_else_is_seen():
    ballast = bytearray(200_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    found = in_child("operator:mul", "x", 100_000_000)
    assert found.peak_bytes - found.idle_bytes > 90_000_000
    assert found.idle_bytes < 150_000_000 < len(ballast) < peak_memory()
    assert found.seconds > 0


def test_results_come_back_as_far_as_they_are_json():
    assert in_child("math:hypot", 3, 4).result == 5.0
    assert in_child("builtins:object").result is None


def test_reports_come_back_as_dictionaries(tmp_path):
    import numpy as np

    np.savez(tmp_path / "m.npz", w=np.ones((4, 4), np.float32))
    found = in_child("nncjit:compress", tmp_path / "m.npz", tmp_path / "m.nnc", qp=-20)
    assert found.result["compressed_bytes"] == (tmp_path / "m.nnc").stat().st_size


def test_errors_of_the_work_are_raised_here(tmp_path):
    with pytest.raises(ModelError, match=r"none\.npz"):
        in_child("nncjit:compress", tmp_path / "none.npz", tmp_path / "m.nnc")
    with pytest.raises(OptionError, match="no option 'beauty'"):
        in_child("nncjit:compress", tmp_path / "none.npz", tmp_path / "m.nnc", beauty=3)


def test_a_process_that_dies_is_an_error():
    with pytest.raises(ModelError, match="os:_exit died in a process of its own: exit code 7"):
        in_child("os:_exit", 7)
