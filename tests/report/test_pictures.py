"""Pictures in the terminal and as PNG."""

import math

import numpy as np
import pytest

from nncjit.errors import ModelError, OptionError
from nncjit.report import ascii as pictures
from nncjit.report import plot
from nncjit.report.curves import Curve

A = Curve("ours", (1, 2, 4), (10.0, 80.0, 95.0))
B = Curve("theirs", (2, 3, 8), (20.0, 70.0, 94.0))


def test_a_chart_has_every_point_label_and_the_level():
    text = pictures.chart([A, B], x_label="bits per weight", y_label="top-1 in %", level=97.0, width=40, height=10)
    lines = text.splitlines()
    assert lines[0].strip() == "top-1 in %"
    assert "bits per weight (logarithmic)" in text
    field = [line[4:] for line in lines[1:11]]
    assert sum(line.count("o") for line in field) == 3
    assert sum(line.count("x") for line in field) == 3
    assert lines[1].strip().startswith("97 +- -")
    assert lines[-2:] == ["  o  ours", "  x  theirs"]
    assert max(map(len, lines)) <= 48


def test_points_are_where_they_belong():
    lines = pictures.chart([A], x_label="r", y_label="q", width=41, height=11).splitlines()
    assert lines[1].split("+", 1)[1].index("o") == 40
    assert lines[11].split("+", 1)[1].index("o") == 0


@pytest.mark.parametrize("qualities", [(5.0,), (math.inf,), (math.nan,)])
def test_a_chart_of_one_point_or_none_is_drawn(qualities):
    text = pictures.chart([Curve("x", (1.0,), qualities)], x_label="r", y_label="q", level=math.inf)
    assert ("no points" in text) == (not math.isfinite(qualities[0]))


def test_bars_are_as_long_as_their_share():
    assert pictures.bar(0.5, 10) == "█████"
    assert pictures.bar(0.55, 10) == "█████▌"
    assert pictures.bar(0.55, 10, blocks=False) == "######"
    assert pictures.bar(0.0, 10) == ""


def pixels(path):
    image = pytest.importorskip("PIL.Image")
    with image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def test_a_curve_becomes_a_picture_with_its_colours(tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "curve.png"
    plot.rate_quality(target, [A, B], title="t", x_label="bits", y_label="%", level=97.0)
    seen = pixels(target)
    assert min(seen.shape[:2]) > 400
    for colour in plot.COLOURS[:2]:
        wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(seen.astype(int) - wanted).sum(2) < 10).sum() > 100


def test_bars_become_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "bars.png"
    groups = [("first", "ms", [("code", 3.0), ("a very long name " * 5, 1.0)]), ("second", "KB", [("nothing", 0.0)])]
    plot.grouped_bars(target, groups, title="t")
    assert (pixels(target) != 255).any()


def test_a_picture_of_another_kind_is_refused():
    with pytest.raises(OptionError, match=r"curve\.jpg: a picture's name must end in \.png"):
        plot.check_target("curve.jpg")


def test_without_matplotlib_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ModelError, match=r"pictures need matplotlib: pip install matplotlib"):
        plot.check_target("curve.png")
