"""NNCodec through its worker, with a stand-in for it: what is asked, what comes back, and how it fails."""

import sys

import numpy as np
import pytest

from nncjit.errors import ModelError, OptionError
from nncjit.report import metrics, rival
from nncjit.report.rival import Rival

RANDOM = np.random.default_rng(0)
MODEL = {
    "w": RANDOM.standard_normal((20, 30), dtype=np.float32),
    "half": RANDOM.standard_normal((4, 5)).astype(np.float16),
    "int64": np.arange(6).reshape(2, 3),
    "int": np.array(12),
    "int wide": np.array([1 << 40]),
    "empty": np.zeros((0, 3), np.float32),
    "x_G": np.ones((2, 2), np.float32),
}


def test_a_model_goes_there_and_back(rival_python):
    taken, left = rival.fit_for_rival(MODEL)
    assert set(left) == {"int wide", "empty", "x_G"}
    assert {array.dtype for array in taken.values()} == {np.dtype(np.float32), np.dtype(np.int32)}
    with Rival(rival_python) as nncodec:
        data, seconds = nncodec.encode(taken, qp=-20)
        found, _ = nncodec.decode(data)
        coarse, _ = nncodec.encode(taken, qp=-4)
    assert seconds > 0
    assert len(coarse) < len(data)
    back = rival.back_from_rival(found, MODEL)
    for name, array in MODEL.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype)
        assert np.abs(back[name].astype(float) - array).max(initial=0) <= 2.0**-5
    assert back["int64"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_it_says_what_nncodec_cannot_do_and_goes_on(rival_python):
    array = np.ones((2, 2), np.float32)
    with Rival(rival_python) as nncodec:
        with pytest.raises(ModelError, match="NNCodec cannot encode the model: KeyError: 'fail'"):
            nncodec.encode({"fail": array})
        with pytest.raises(ModelError, match="NNCodec died when it was to encode the model"):
            nncodec.encode({"die": array})
        data, _ = nncodec.encode({"w": array}, qp=-20)
        assert nncodec.decode(data)[0]["w"] == pytest.approx(array, abs=2.0**-5)


def test_an_interpreter_without_nncodec_is_refused(tmp_path, monkeypatch):
    (tmp_path / "nncodec.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(OptionError, match="has no NNCodec; install it there with pip install nncodec"):
        Rival(sys.executable).__enter__()


def test_an_interpreter_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(OptionError, match="none: cannot be started: No such file"):
        Rival(str(tmp_path / "none")).__enter__()


def test_the_first_quantization_parameter_is_near_the_error_asked_for():
    model = {"w": RANDOM.standard_normal((100, 100)), "v": 3 * RANDOM.standard_normal(100)}
    for snr in (10.0, 20.0, 30.0):
        step = 1.9 * 2.0 ** (rival.first_qp(model, snr) / 4)
        rounded = {"w": np.rint(model["w"] / step) * step, "v": model["v"]}
        assert metrics.model_snr(model, rounded) == pytest.approx(snr, abs=1.5)
    assert rival.first_qp({"w": np.zeros((3, 3))}, 20.0) == rival.NNCODEC_QP
    assert rival.first_qp({}, 20.0) == rival.NNCODEC_QP


def test_lists_of_quantization_parameters():
    assert rival.parse_qps("-38,-30") == [-38, -30]
    with pytest.raises(OptionError, match="--rival-qp -38,x: must be whole numbers"):
        rival.parse_qps("-38,x")
