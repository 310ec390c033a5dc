"""What clients learn together in `bench/federated.py`: the digits from the start, and the character model further.

A task has a first model, clients with unequal shares of its data, training on one client's share, and a measure on
data that no client has. Needs torch and scikit-learn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

from bench.zoo import charlm, layers, training
from bench.zoo.digits import SEED, TEST_IMAGES, vary
from nncjit.demo import digits

Arrays = dict[str, np.ndarray]
CONCENTRATION = 1.0
"""Of the Dirichlet distribution by which a digit's images go to the clients: small is unequal."""
PROSE = "pydoc_data/topics.py"
"""Of the standard library: English about Python, of which the zoo's training has seen nothing."""
PARTS = (0.08, 0.12, 0.17, 0.25, 0.38)
"""The share of that text which each client has."""
HELD_OUT_SHARE = 8
"""One character of so many, at the end of each part, is for the test."""


class Task(ABC):
    """What is learnt."""

    name: str
    title: str
    measured: str
    """What `measure` gives."""
    higher_is_better: bool
    decimals: int
    """Places behind the point that `measured` is written with."""
    rounds: int
    server_momentum: float
    exact: str
    """Pattern of the tensors that are not made sparse: few numbers that matter much."""

    def written(self, measured: float) -> str:
        """A measure, or a difference between two."""
        return f"{measured:.{self.decimals}f}"

    @abstractmethod
    def start(self) -> Arrays:
        """The model before the first round."""

    @property
    @abstractmethod
    def shares(self) -> list[int]:
        """How much data each client has."""

    @abstractmethod
    def train(self, model: Arrays, client: int, seed: int) -> Arrays:
        """The model after a client's training of one round."""

    @abstractmethod
    def measure(self, model: Arrays) -> float:
        """How good a model is on data that no client has."""


class Digits(Task):
    """Three linear layers from a random start; each client has mostly some of the digits."""

    name, title, measured = "digits", "Digits, from a random start", "test images read correctly, %"
    higher_is_better, decimals, rounds, server_momentum = True, 2, 40, 0.5
    exact = r".*bias"
    CLIENTS, RATE, MOMENTUM, BATCH, WIDTHS = 5, 0.1, 0.9, 16, (64, 512, 256, 10)

    def _net(self) -> nn.Sequential:
        net = nn.Sequential(nn.Flatten())
        for k, (n_in, n_out) in enumerate(pairwise(self.WIDTHS)):
            net.add_module(f"layer{k}", nn.Linear(n_in, n_out))
            net.add_module(f"relu{k}", nn.ReLU())
        return net[:-1]

    def start(self) -> Arrays:
        torch.manual_seed(SEED)
        return {name: tensor.numpy().copy() for name, tensor in self._net().state_dict().items()}

    @cached_property
    def _parts(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        data = load_digits()
        rows = np.arange(len(data.target))
        rows = np.sort(train_test_split(rows, test_size=TEST_IMAGES, stratify=data.target, random_state=SEED)[0])
        images = torch.from_numpy(data.images[rows, None].astype(np.float32) / np.float32(digits.WHITE))
        labels = torch.from_numpy(data.target[rows])
        rng = np.random.default_rng(SEED)
        mine: list[list[int]] = [[] for _ in range(self.CLIENTS)]
        for digit in range(10):
            order = rng.permutation(np.flatnonzero(labels.numpy() == digit))
            cuts = (np.cumsum(rng.dirichlet([CONCENTRATION] * self.CLIENTS))[:-1] * len(order)).astype(int)
            for client, part in enumerate(np.split(order, cuts)):
                mine[client] += part.tolist()
        return [(images[sorted(part)], labels[sorted(part)]) for part in mine]

    @property
    def shares(self) -> list[int]:
        return [len(labels) for _, labels in self._parts]

    def train(self, model: Arrays, client: int, seed: int) -> Arrays:
        images, labels = self._parts[client]
        generator, net = torch.Generator().manual_seed(seed), self._net()
        net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in model.items()})
        optimiser = torch.optim.SGD(net.parameters(), lr=self.RATE, momentum=self.MOMENTUM)
        order = torch.randperm(len(images), generator=generator)
        for chosen in order.split(self.BATCH):
            loss = functional.cross_entropy(net(vary(images[chosen], generator)), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
        return {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}

    def measure(self, model: Arrays) -> float:
        held_out, net = digits.load_held_out(), self._net()
        net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in model.items()})
        with torch.no_grad():
            found = net(torch.from_numpy(held_out.images.astype(np.float32) / np.float32(digits.WHITE))).argmax(1)
        return 100 * float((found.numpy() == held_out.labels).mean())


class Characters(Task):
    """The zoo's character model, which knows program text, trained further on prose."""

    name, title, measured = "charlm", "Character model, trained further on prose", "bits per character of the test text"
    higher_is_better, decimals, rounds, server_momentum = False, 3, 10, 0.5
    exact = r".*norm.*|.*\.bias"
    RATE, STEPS, ROWS, TEST_LENGTH = 1e-3, 3, 4, 1600

    def start(self) -> Arrays:
        return {name: np.array(array) for name, array in layers.load(charlm.WEIGHTS).items()}

    @cached_property
    def _texts(self) -> list[np.ndarray]:
        ids = charlm.numbers((charlm.library() / PROSE).read_text("utf-8"))
        return np.split(ids, (np.cumsum(PARTS)[:-1] * len(ids)).astype(int))

    @cached_property
    def parts(self) -> list[np.ndarray]:
        """What each client trains on."""
        return [text[: len(text) - len(text) // HELD_OUT_SHARE] for text in self._texts]

    @property
    def shares(self) -> list[int]:
        return [len(part) for part in self.parts]

    def train(self, model: Arrays, client: int, seed: int) -> Arrays:
        weights = {name: torch.from_numpy(np.array(array)).requires_grad_(True) for name, array in model.items()}
        optimiser = torch.optim.Adam(weights.values(), lr=self.RATE)
        rng, text = np.random.default_rng(seed), self.parts[client]
        for _ in range(self.STEPS):
            at = rng.integers(len(text) - charlm.WINDOW, size=(self.ROWS, 1)) + np.arange(charlm.WINDOW + 1)
            ids, following = (torch.from_numpy(text[part]) for part in (at[:, :-1], at[:, 1:]))
            loss = training.cross_entropy(charlm.forward(weights, ids, training), following)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return {name: tensor.detach().numpy().copy() for name, tensor in weights.items()}

    def measure(self, model: Arrays) -> float:
        """Over as much of the end of each part."""
        ends = [text[-(len(text) // HELD_OUT_SHARE) :][: self.TEST_LENGTH] for text in self._texts]
        return charlm.measure(model, np.concatenate(ends))["bits_per_character"]


TASKS: tuple[Task, ...] = (Digits(), Characters())
