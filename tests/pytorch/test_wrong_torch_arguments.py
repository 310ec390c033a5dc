"""Whatever is given for an argument of `nncjit.torch`, it works or raises an `NncError` of one line."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from wrong_values import WRONG, refuses_or_works  # noqa: E402

import nncjit  # noqa: E402
from nncjit.torch import attach, calibrate, compensate, finetune, match_biases, match_norms, merge_norms, save_file  # noqa: E402


def network():
    return torch.nn.Linear(2, 2)


@pytest.mark.parametrize("name", ["train", "epochs", "rate", "refresh", "sparsity"])
def test_any_setting_of_a_training_gives_a_result_or_our_error(name):
    for value in WRONG:
        refuses_or_works(lambda x: finetune(network(), [], **{name: x}), value)


@pytest.mark.parametrize("name", ["probes", "widest_block", "seed", "save_every", "names", "parts"])
def test_any_setting_of_a_calibration_gives_a_result_or_our_error(name):
    for value in WRONG:
        refuses_or_works(lambda x: calibrate(network(), [], **{name: x}), value)


@pytest.mark.parametrize("name", ["whole", "device", "budget"])
def test_any_setting_of_an_attachment_gives_a_result_or_our_error(name):
    stream = nncjit.encode(network().state_dict())
    for value in WRONG:
        refuses_or_works(lambda x: attach(network(), stream, **{name: x}).detach(load=False), value)


RUNS = {
    "calibrate": lambda forward: calibrate(network(), [torch.ones(3, 2)], forward=forward),
    "compensate": lambda forward: compensate(network(), torch.ones(3, 2), calibration=None, forward=forward),
    "match_biases": lambda forward: match_biases(network(), network(), torch.ones(3, 2), forward=forward),
    "match_norms": lambda forward: match_norms(network(), network(), torch.ones(3, 2), forward=forward),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_is_no_function_runs_no_batch(name):
    for value in WRONG:
        if value is not None and not callable(value):
            with pytest.raises(nncjit.OptionError, match="forward is"):
                RUNS[name](value)


def test_norms_of_what_is_no_network_are_refused():
    for value in WRONG:
        refuses_or_works(merge_norms, value)


def test_a_lazy_layer_without_values_is_refused_by_name(tmp_path):
    with pytest.raises(nncjit.ModelError, match=r"0\.weight: has no values yet"):
        save_file(torch.nn.Sequential(torch.nn.LazyLinear(3)), tmp_path / "m.nnc")


def test_a_batch_that_the_network_does_not_take_is_told_how_it_was_given():
    batches = [(torch.ones(3, 2), torch.zeros(3))]
    with pytest.raises(TypeError) as caught:
        calibrate(network(), batches)
    assert "run as model(Tensor, Tensor); with forward=" in caught.value.__notes__[0]


def test_weights_without_gradients_are_refused_by_name():
    with torch.inference_mode():
        made = network()
    with pytest.raises(nncjit.ModelError, match=r"weight: was made under torch\.inference_mode"):
        calibrate(made, [torch.ones(3, 2)])
