"""Updates through Flower's own objects, without a network: client mod, strategy wrapper, refusals."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

import nncjit

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from nncjit.flower import ReceivesUpdates, sends_updates

RNG = np.random.default_rng(0)
MODEL = {"w": RNG.standard_normal((60, 40)).astype(np.float32), "b": np.zeros(40, np.float32)}
STEP = {name: (0.01 * RNG.standard_normal(array.shape)).astype(np.float32) for name, array in MODEL.items()}


def record(arrays):
    return ArrayRecord(array_dict={name: Array(array) for name, array in arrays.items()})


def arrays(found):
    return {name: array.numpy() for name, array in found.items()}


def message(model, **metrics):
    content = {"arrays": record(model)}
    if metrics:
        content["metrics"] = MetricRecord(metrics)
    return SimpleNamespace(
        content=RecordDict(content),
        has_error=lambda: False,
        has_content=lambda: True,
        metadata=SimpleNamespace(src_node_id=7),
    )


def context():
    return Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})


def client(msg, _):
    """Trains: each weight moves by its step."""
    model = arrays(msg.content["arrays"])
    return message({name: array + STEP[name] for name, array in model.items()}, **{"num-examples": 10})


class Grid:
    """What a strategy asks of it."""

    def get_node_ids(self):
        return [7]


def test_rounds_through_mod_and_strategy():
    strategy = ReceivesUpdates(FedAvg(fraction_train=0.0, fraction_evaluate=0.0))
    mod, ctx, model = sends_updates(quality=1), context(), MODEL
    for k in range(4):
        strategy.configure_train(k, record(model), ConfigRecord({}), Grid())
        reply = mod(message(model), ctx, client)
        (sent,) = reply.content["arrays"].values()
        assert sent.stype == "nncjit.update"
        with pytest.raises(TypeError):
            sent.numpy()
        found, _ = strategy.aggregate_train(k, [reply])
        model = arrays(found)
        assert list(model) == list(MODEL)
    assert strategy.received_bytes < 0.2 * 4 * sum(array.nbytes for array in MODEL.values())
    for name, array in model.items():
        assert np.abs(array - MODEL[name] - 4 * STEP[name]).max() < 0.05


def test_what_is_left_over_stays_in_the_context():
    ctx, mod = context(), sends_updates(zeros=0.9)
    total = np.zeros_like(MODEL["w"])
    for _ in range(12):
        reply = mod(message(MODEL), ctx, client)
        (sent,) = reply.content["arrays"].values()
        total += nncjit.apply(MODEL, sent.data)["w"] - MODEL["w"]
    assert np.square(total - 12 * STEP["w"]).mean() < 0.3 * np.square(12 * STEP["w"]).mean()


def test_an_update_to_another_model_takes_no_part():
    strategy = ReceivesUpdates(FedAvg(fraction_train=0.0))
    strategy.configure_train(1, record(MODEL), ConfigRecord({}), Grid())
    other = {name: array + 1 for name, array in MODEL.items()}
    good, bad = sends_updates()(message(MODEL), context(), client), sends_updates()(message(other), context(), client)
    with pytest.warns(nncjit.NncWarning, match="client 7: its update is refused: b: has other values"):
        found, _ = strategy.aggregate_train(1, [bad, good])
    assert np.abs(arrays(found)["w"] - MODEL["w"] - STEP["w"]).max() < 0.05


def test_options_are_checked_when_the_app_is_made():
    with pytest.raises(nncjit.OptionError, match="zeros"):
        sends_updates(zeros=3)


def test_whole_models_pass_through():
    strategy = ReceivesUpdates(FedAvg(fraction_train=0.0))
    strategy.configure_train(1, record(MODEL), ConfigRecord({}), Grid())
    found, _ = strategy.aggregate_train(1, [client(message(MODEL), None)])
    assert np.allclose(arrays(found)["w"], MODEL["w"] + STEP["w"])
    assert strategy.fraction_train == 0.0
