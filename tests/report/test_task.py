"""Tasks from files and modules, and what happens to those that are none or fail."""

import textwrap

import numpy as np
import pytest

from nncjit.errors import ModelError, OptionError
from nncjit.report import task

GOOD = """
    from pathlib import Path
    TITLE = "mean of w"
    MAIN = ("mean", True)
    WEIGHTS = Path("model.safetensors")
    def measure(weights):
        return {"mean": weights["w"].mean(), "count": 3}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    count = iter(range(1000))

    def write(text, name=None):
        path = tmp_path / (name or f"{tmp_path.name.replace('-', '_')}_{next(count)}.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_a_file_is_a_task(write):
    path = write(GOOD)
    found = task.load(str(path))
    assert (found.name, found.main, found.higher_is_better, found.title) == (path.stem, "mean", True, "mean of w")
    assert str(found.weights) == "model.safetensors"
    assert found({"w": np.array([1.0, 3.0])}) == {"mean": 2.0, "count": 3.0}


def test_a_module_is_a_task_and_a_file_in_a_package_keeps_its_package(write, tmp_path):
    package = f"pack_{tmp_path.name.replace('-', '_')}"
    write("", f"{package}/__init__.py")
    write("SCALE = 2", f"{package}/other.py")
    text = f"""
        from {package}.other import SCALE
        MAIN = ("x", False)
        def measure(weights):
            return {{"x": SCALE}}
        """
    path = write(text, f"{package}/mine.py")
    for spec in (f"{package}.mine", str(path)):
        found = task.load(spec)
        assert (found.name, found.higher_is_better, found.weights) == ("mine", False, None)
        assert found({}) == {"x": 2.0}


def test_the_shipped_digits_are_a_task():
    from nncjit.demo import digits
    from nncjit.report.task_run import read_arrays

    found = task.load("nncjit.demo.digits")
    measured = found(read_arrays(found.weights))
    assert found.main == "top1"
    assert measured["top1"] == pytest.approx(100 * 359 / 360)
    assert measured["top5"] == 100.0
    assert digits.measure({n: np.zeros_like(a) for n, a in read_arrays(digits.MODEL).items()}) == {"top1": 0, "top5": 0}


def test_loss_is_a_share_of_the_original():
    higher = task.Task("t", lambda _: {}, "m", higher_is_better=True)
    lower = task.Task("t", lambda _: {}, "m", higher_is_better=False)
    assert higher.loss(90.0, 100.0) == 10.0
    assert higher.loss(101.0, 100.0) == -1.0
    assert lower.loss(2.2, 2.0) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MAIN = ('a', True)", "it has no function measure(weights)"),
        ("def measure(weights): ...", "its MAIN must be"),
        ("MAIN = 'accuracy'\ndef measure(weights): ...", "its MAIN must be"),
        ("import nonsense_that_is_not_there", "No module named 'nonsense_that_is_not_there'"),
        ("x = 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_is_no_task_is_refused(write, text, words):
    with pytest.raises(OptionError) as caught:
        task.load(str(write(text)))
    assert words in str(caught.value)


@pytest.mark.parametrize("spec", ["none.py", "nncjit_no_such_module.at_all"])
def test_a_task_that_is_not_there_is_refused(spec):
    with pytest.raises(OptionError, match=spec.partition(".")[0]):
        task.load(spec)


def test_weights_that_do_not_fit_are_said_with_the_place(write):
    path = write(GOOD)
    with pytest.raises(ModelError) as caught:
        task.load(str(path))({"v": np.ones(3)})
    assert str(caught.value) == f"task {path.stem} cannot use these weights: KeyError: 'w' ({path.name}, line 7)"


def test_a_task_must_give_its_main_measure():
    with pytest.raises(ModelError, match="measures b, and not its MAIN 'a'"):
        task.Task("t", lambda _: {"b": 1.0}, "a")({})
