"""The ideas of ``bench/ideas``, on a network of one layer."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit.calibrate import Calibration, Statistics

pytest.importorskip("torch")

import torch

from bench.calibration_ideas import IDEAS
from bench.ideas import idea_curves, metric_ideas, network_ideas, output_feedback
from bench.ideas.subjects import Part, Subject, Weights


class OneLayer(Subject):
    """Outputs x W' of inputs of unlike power, and outputs that go together."""

    qualities = (1.0, 0.5)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.weights = {"w": rng.standard_normal((128, 128)).astype(np.float32)}
        strength = np.geomspace(0.1, 3, 128)
        self.inputs = (rng.standard_normal((64, 8, 128)) @ np.diag(strength)).astype(np.float32)
        self.gradients = (rng.standard_normal((64, 8, 4)) @ rng.standard_normal((4, 128))).astype(np.float32)

    def collect(self, weights: Weights, samples: int | None, probes: int | None, seed: int) -> Statistics:
        found = Calibration()
        for x, g in zip(self.inputs[:samples], self.gradients[:samples], strict=True):
            found.linear("w", weights["w"].shape).add(x, g)
            found.end_samples(1, output_power=1e5)
        return found.statistics()

    def outputs(self, weights: Weights, part: Part) -> torch.Tensor:
        return torch.from_numpy(self.inputs.reshape(-1, 128) @ weights["w"].T).double()

    def distance(self, found: torch.Tensor, wanted: torch.Tensor) -> float:
        return float((found - wanted).square().mean())

    def compensated(self, known: Statistics, quality: float) -> Weights:
        return self.weights


@pytest.fixture(scope="module")
def subject() -> OneLayer:
    return OneLayer()


@pytest.fixture(scope="module")
def known(subject: OneLayer) -> Statistics:
    return subject.statistics()


def test_an_idea_that_does_not_help_is_larger_at_equal_loss(subject: OneLayer, known: Statistics) -> None:
    *_, found = idea_curves.compare({"no steps by input": metric_ideas.damped(1e6)}, subject, known)
    assert min(found["no steps by input"]["changes"]) > 5
    *_, again = idea_curves.compare({"itself": idea_curves.as_it_is}, subject, known, found)
    assert again["itself"]["changes"] == [0.0, 0.0]
    assert again["no steps by input"] == found["no steps by input"]


@pytest.mark.parametrize(
    "name", ["shrunk-0.03", "rank-16", "samples-128", "second-round-0.5", "measured-losses-1.0", "rates-of-first-pass"]
)
def test_each_idea_makes_a_stream(subject: OneLayer, known: Statistics, name: str) -> None:
    decoded = nncjit.decode(IDEAS[name](subject, known, 0.5))
    assert subject.loss(decoded) < 2 * subject.loss(nncjit.decode(idea_curves.as_it_is(subject, known, 0.5)))


def test_the_expected_loss_is_that_of_the_metric(subject: OneLayer, known: Statistics) -> None:
    error = np.random.default_rng(1).standard_normal((128, 128))
    metric = known["w"].metric()[0]
    assert network_ideas.expected_loss(known, "w", error) == pytest.approx(0.5 * np.trace(error @ metric @ error.T))


def test_feedback_along_outputs_is_a_sum_over_blocks() -> None:
    rng = np.random.default_rng(2)
    errors, root = rng.standard_normal((5, 12)), rng.standard_normal((12, 12))
    metric = root @ root.T
    metric *= 12 / metric.trace()
    feed, costs = output_feedback.factors(metric, 0.0, 1)
    beside = errors + errors @ feed
    assert np.square(beside) @ costs == pytest.approx(np.einsum("ki,ij,kj->k", errors, metric, errors))
    blocks, _ = output_feedback.factors(metric, 0.0, 4)
    assert not np.triu(blocks[:4, :4]).any()
    assert blocks[:4, 4:].any()


def test_feedback_along_outputs_lowers_the_loss_by_both_metrics(
    subject: OneLayer, known: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = subject.gradients.reshape(-1, 128).astype(np.float64)
    both = flat.T @ flat
    both *= 128 / both.trace()
    monkeypatch.setattr("nncjit.encoder.decide.PARALLEL_WEIGHTS", 0)
    monkeypatch.setattr(output_feedback, "output_metrics", lambda subject: {"w": both})
    lost = []
    for damping in (np.inf, 0.3):
        decoded = nncjit.decode(output_feedback.feedback_along_outputs(damping)(subject, known, 0.5))
        error = (decoded["w"] - subject.weights["w"]).astype(np.float64)
        lost.append(np.trace(error @ known["w"].metric()[0] @ error.T @ both))
    assert lost[1] < 0.7 * lost[0]
    assert 0 < output_feedback.promised(subject, 1.0, 64) < output_feedback.promised(subject, 0.3, 64)
