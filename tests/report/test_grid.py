"""Grids: products of values become labelled curves, and grids that make no sense are refused in one line."""

import pytest

from nncjit.encoder.choices import Fineness
from nncjit.encoder.options import Options
from nncjit.errors import OptionError
from nncjit.report import grid


def test_one_grid_is_one_curve():
    (curve,) = grid.series(["bits=2,3.5,4"])
    assert curve.label == ""
    assert curve.settings == ({"bits": 2}, {"bits": 3.5}, {"bits": 4})
    assert [point.fineness for point in curve.points] == [Fineness("bits", bits) for bits in (2, 3.5, 4)]


def test_grids_multiply_and_what_does_not_move_along_a_curve_labels_it():
    found = grid.series(["quantizer=trellis,uniform", "qp=-30,-20", "rate-weight=0,0.5"])
    assert [curve.label for curve in found] == [
        "quantizer=trellis, rate_weight=0",
        "quantizer=trellis, rate_weight=0.5",
        "quantizer=uniform, rate_weight=0",
        "quantizer=uniform, rate_weight=0.5",
    ]
    assert all([point.fineness.qp for point in curve.points] == [-30, -20] for curve in found)
    assert found[3].points[0] == Options(quantizer="uniform", rate_weight=0.5, qp=-30)


def test_without_a_fineness_the_quality_moves():
    (curve,) = grid.series([])
    assert [point.fineness.quality for point in curve.points] == list(grid.DEFAULT["quality"])
    assert len(grid.series(["quantizer=trellis,uniform"])) == 2


def test_all_points_have_the_base_in_common():
    base = Options(quantizer="uniform", rules={".*bias": "raw"})
    (curve,) = grid.series(["quality=1,2"], base)
    assert all(point.rules == base.rules and point.quantising == base.quantising for point in curve.points)


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        (["bits"], "must be OPTION=VALUE"),
        (["bits="], "must be OPTION=VALUE"),
        (["=1,2"], "must be OPTION=VALUE"),
        (["bits=2,,3"], "must be OPTION=VALUE"),
        (["beauty=1,2"], "no option 'beauty'"),
        (["bits=2,x"], "grid 'bits=2,x': bits is 'x'"),
        (["bits=2,99"], "bits is 99"),
        (["qp=-30.5"], "qp is -30.5"),
        (["quantizer=trellis,magic"], "quantizer is 'magic'"),
        (["bits=2,2"], "a value is there twice"),
        (["bits=2", "bits=3"], "there is another one for bits"),
        (["bits=2,3", "quality=1,2"], "bits and quality contradict each other"),
        (["threads=1,2"], "threads never changes the result"),
        (["rules=a,b"], "rules is given with --rule"),
        (
            [f"qp={','.join(map(str, range(-60, -20)))}", f"unary_length={','.join(map(str, range(1, 21)))}"],
            "800 points",
        ),
    ],
)
def test_grids_that_make_no_sense_are_refused(grids, words):
    with pytest.raises(OptionError) as caught:
        grid.series(grids)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
