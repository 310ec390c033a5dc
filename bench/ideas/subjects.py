"""Networks that ideas are tried on: what they are calibrated on, and how far coding moves their outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from bench.zoo import calibration as zoo_calibration
from bench.zoo import layers, minilm, passages
from nncjit.calibrate import Statistics
from nncjit.torch import calibrate, calibration_moments, compensate

Weights = Mapping[str, np.ndarray]
Texts = list[list[int]]
Part = Literal["calibration", "choosing"]


class Subject(ABC):
    """A network. What is chosen is chosen on samples that it is neither calibrated on nor reported on."""

    qualities: tuple[float, ...]
    weights: Weights

    @abstractmethod
    def collect(self, weights: Weights, samples: int | None, probes: int | None, seed: int) -> Statistics:
        """Statistics of the network with these weights."""

    @abstractmethod
    def outputs(self, weights: Weights, part: Part) -> torch.Tensor:
        """float64[samples, n] of some samples."""

    @abstractmethod
    def distance(self, found: torch.Tensor, wanted: torch.Tensor) -> float:
        """Mean over samples: what errors of the weights cost."""

    @abstractmethod
    def compensated(self, known: Statistics, quality: float) -> Weights:
        """Weights that make up for errors of earlier layers."""

    @cached_property
    def size(self) -> int:
        """Bytes of the original."""
        return sum(array.nbytes for array in self.weights.values())

    def loss(self, weights: Weights, part: Part = "choosing") -> float:
        """How far the outputs are from those of the original."""
        with torch.no_grad():
            if part not in self._wanted:
                self._wanted[part] = self.outputs(self.weights, part)
            return self.distance(self.outputs(weights, part), self._wanted[part])

    @cached_property
    def _wanted(self) -> dict[Part, torch.Tensor]:
        return {}

    @cache  # noqa: B019 - subjects live as long as the process
    def statistics(
        self, samples: int | None = None, probes: int | None = None, share: float | None = None, seed: int = 0
    ) -> Statistics:
        """Statistics of the original; `share`: of the coherent part, if not the library's."""
        kept = calibration_moments.COHERENT_SHARE
        calibration_moments.COHERENT_SHARE = kept if share is None else share
        try:
            return self.collect(self.weights, samples, probes, seed)
        finally:
            calibration_moments.COHERENT_SHARE = kept


class MiniLm(Subject):
    """1 - cosine of the embeddings of passages (``bench.zoo.passages``)."""

    qualities = (1.0, 0.7, 0.42)
    """About 4.5, 6.3 and 7.9 % of the original."""
    LOSSES_ON = 24
    COMPENSATED_ON, TOKENS = 512, 32
    """All of one length, so that none is padded."""

    def __init__(self) -> None:
        self.weights = layers.load(minilm.WEIGHTS)

    @cached_property
    def passages(self) -> Texts:
        """To calibrate on, in random order."""
        return [minilm.tokenise(passage) for passage in passages.collect()[0]]

    def network(self, weights: Weights) -> torch.nn.Module:
        """In PyTorch, until it is asked for again."""
        with torch.no_grad():
            for name, parameter in self._network.named_parameters():
                parameter.copy_(torch.from_numpy(np.array(weights[name])))
        return self._network

    @cached_property
    def _network(self) -> torch.nn.Module:
        from transformers import AutoModel

        torch.set_num_threads(1)
        return AutoModel.from_pretrained(minilm.WEIGHTS.parent).eval()

    def collect(self, weights: Weights, samples: int | None, probes: int | None, seed: int) -> Statistics:
        texts = _batches(self.passages[:samples])
        found = calibrate(
            self.network(weights), texts, output="embedding", forward=_mean_state, probes=probes or 1, seed=seed
        )
        return found.statistics()

    def outputs(self, weights: Weights, part: Part) -> torch.Tensor:
        texts = self.passages[: self.LOSSES_ON]
        if part == "choosing":
            texts = [minilm.tokenise(text) for text in zoo_calibration.chosen_texts()]
        model = self.network(weights)
        found = torch.cat([_mean_state(model, batch) for batch in _batches(texts)])
        return functional.normalize(found.double(), dim=1)

    def distance(self, found: torch.Tensor, wanted: torch.Tensor) -> float:
        return 1 - float((found * wanted).sum(1).mean())

    def compensated(self, known: Statistics, quality: float) -> Weights:
        model = self.network(self.weights)
        ids = torch.tensor([text[: self.TOKENS] for text in self.passages if len(text) >= self.TOKENS])
        compensate(
            model,
            {"input_ids": ids[: self.COMPENSATED_ON]},
            calibration=known,
            quality=quality,
            unreached="zero",
            forward=lambda network, batch: network(**batch).last_hidden_state,
        )
        found = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
        return {name: found.get(name, array) for name, array in self.weights.items()}


def _mean_state(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    mask = batch["attention_mask"]
    states = model(**batch).last_hidden_state
    return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _batches(texts: Texts, size: int = 32) -> list[dict[str, torch.Tensor]]:
    """Padded, texts of like length together."""
    found = []
    ordered = sorted(texts, key=len)
    for at in range(0, len(ordered), size):
        chosen = ordered[at : at + size]
        ids = torch.zeros(len(chosen), max(map(len, chosen)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(chosen):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


class Classifier(Subject):
    """The divergence of a zoo network's outputs on the validation split, in nats. Norms are merged."""

    qualities = (0.9, 0.65, 0.45)
    MEASURED_ON = 1024
    COMPENSATED_ON = 512

    def __init__(self, name: str) -> None:
        self.name = name
        self.weights = zoo_calibration.merged(name)

    def collect(self, weights: Weights, samples: int | None, probes: int | None, seed: int) -> Statistics:
        samples = samples or zoo_calibration.TASKS[self.name].samples
        state = {key: torch.from_numpy(np.array(array)) for key, array in weights.items()}
        batches = [x for x, _ in zoo_calibration.inputs_of(self.name, samples)]
        return calibrate(state, batches, forward=self._run, probes=probes or 2, seed=seed).statistics()

    def outputs(self, weights: Weights, part: Part) -> torch.Tensor:
        state = {key: torch.from_numpy(np.array(array)) for key, array in weights.items()}
        return torch.cat([self._run(state, zoo_calibration.to_torch(x)).double() for x in self._inputs(part)])

    def _run(self, state: Any, inputs: Any) -> torch.Tensor:
        return zoo_calibration.run(self.name, state, inputs)

    def _inputs(self, part: Part) -> list[np.ndarray]:
        if part == "calibration":
            found = zoo_calibration.inputs_of(self.name, self.MEASURED_ON)
        else:
            found = zoo_calibration.split(self.name, "validation").batches
        return [x for x, _ in found[: self.MEASURED_ON // zoo_calibration.BATCH]]

    def distance(self, found: torch.Tensor, wanted: torch.Tensor) -> float:
        exact = wanted.log_softmax(-1)
        return float((exact.exp() * (exact - found.log_softmax(-1))).sum(-1).mean())

    def compensated(self, known: Statistics, quality: float) -> Weights:
        state = {key: torch.from_numpy(np.array(array)) for key, array in self.weights.items()}
        batches = zoo_calibration.inputs_of(self.name, self.COMPENSATED_ON)
        inputs = np.concatenate([x for x, _ in batches])
        compensate(state, inputs, calibration=known, quality=quality, forward=self._run)
        return {key: tensor.numpy() for key, tensor in state.items()}


SUBJECTS = {
    "minilm": MiniLm,
    **{name: lambda name=name: Classifier(name) for name in ("digits", "mobilenet", "resnet", "vgg")},
}
"""What makes each of them."""
