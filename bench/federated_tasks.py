"""What clients learn together in `bench/federated.py`: the digits from the start, and the character model further.

A task has a first model, clients with unequal shares of its data, training on one client's share, and a measure on
data that no client has. Of these data there are two parts: settings are chosen on the validation part, and results are
reported on the test part. A seed gives the first model where it is random, the shares of the clients where these are
drawn, and the batches. Needs torch and scikit-learn.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from itertools import pairwise
from typing import Literal

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
HeldOut = Literal["validation", "test"]
CONCENTRATION = 1.0
"""Of the Dirichlet distribution by which a digit's images go to the clients: small is unequal."""
PROSE = "pydoc_data/topics.py"
"""Of the standard library: English about Python, of which the zoo's training has seen nothing."""
PARTS = (0.08, 0.12, 0.17, 0.25, 0.38)
"""The share of that text which each client has."""
HELD_OUT_SHARE = 8
"""One character of so many, at the end of each part, is held out: first for the test, then for validation."""


class Task(ABC):
    """What is learnt.

    Parameters
    ----------
    seed : int
    held_out : {"test", "validation"}
        The data to measure on.
    """

    name: str
    title: str
    measured: str
    """What `measure` gives."""
    higher_is_better: bool
    decimals: int
    """Places behind the point that `measured` is written with."""
    rounds: int
    rate: float
    """Of the first round."""
    comes_to_rest: bool
    """Whether the rate falls to 0 along half a cosine."""
    server_momentum: float
    exact: str
    """Pattern of the tensors that are not made sparse: few numbers that matter much."""

    def __init__(self, seed: int = 0, held_out: HeldOut = "test") -> None:
        self.seed, self.held_out = seed, held_out

    @property
    def key(self) -> str:
        """What results are kept under."""
        return self.name if self.held_out == "test" else f"{self.name} {self.held_out}"

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
    def train(self, model: Arrays, client: int, number: int) -> Arrays:
        """The model after a client's training in round `number`."""

    def rate_of(self, number: int) -> float:
        """The learning rate of a round."""
        return self.rate * (0.5 * (1 + math.cos(math.pi * number / self.rounds)) if self.comes_to_rest else 1.0)

    def seed_of(self, client: int, number: int) -> int:
        """What makes the batches of a client in a round."""
        return 100_000 * self.seed + 1000 * number + client

    @abstractmethod
    def measure(self, model: Arrays) -> float:
        """How good a model is on data that no client has."""


class Digits(Task):
    """Three linear layers from a random start; each client has mostly some of the digits."""

    name, title, measured = "digits", "Digits, from a random start", "test images read correctly, %"
    higher_is_better, decimals, rounds, rate, comes_to_rest, server_momentum = True, 2, 100, 0.1, True, 0.5
    exact = r".*bias"
    CLIENTS, MOMENTUM, BATCH, WIDTHS, VALIDATION_IMAGES = 5, 0.9, 16, (64, 512, 256, 10), 288

    def _net(self) -> nn.Sequential:
        net = nn.Sequential(nn.Flatten())
        for k, (n_in, n_out) in enumerate(pairwise(self.WIDTHS)):
            net.add_module(f"layer{k}", nn.Linear(n_in, n_out))
            net.add_module(f"relu{k}", nn.ReLU())
        return net[:-1]

    def start(self) -> Arrays:
        torch.manual_seed(SEED + self.seed)
        return {name: tensor.numpy().copy() for name, tensor in self._net().state_dict().items()}

    @cached_property
    def _images(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Images and labels of each part of the data."""
        data = load_digits()
        rows: dict[str, np.ndarray] = {"train": np.arange(len(data.target))}
        for part, images in (("test", TEST_IMAGES), ("validation", self.VALIDATION_IMAGES)):
            rows["train"], rows[part] = train_test_split(
                rows["train"], test_size=images, stratify=data.target[rows["train"]], random_state=SEED
            )
        images = data.images[:, None].astype(np.float32) / np.float32(digits.WHITE)
        return {
            part: (torch.from_numpy(images[np.sort(chosen)]), torch.from_numpy(data.target[np.sort(chosen)]))
            for part, chosen in rows.items()
        }

    @cached_property
    def _parts(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        images, labels = self._images["train"]
        rng = np.random.default_rng(SEED + self.seed)
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

    def train(self, model: Arrays, client: int, number: int) -> Arrays:
        images, labels = self._parts[client]
        generator, net = torch.Generator().manual_seed(self.seed_of(client, number)), self._net()
        net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in model.items()})
        optimiser = torch.optim.SGD(net.parameters(), lr=self.rate_of(number), momentum=self.MOMENTUM)
        order = torch.randperm(len(images), generator=generator)
        for chosen in order.split(self.BATCH):
            loss = functional.cross_entropy(net(vary(images[chosen], generator)), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
        return {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}

    def measure(self, model: Arrays) -> float:
        images, labels = self._images[self.held_out]
        net = self._net()
        net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in model.items()})
        with torch.no_grad():
            return 100 * float((net(images).argmax(1) == labels).double().mean())


class Characters(Task):
    """The zoo's character model, which knows program text, trained further on prose."""

    name, title, measured = "charlm", "Character model, trained further on prose", "bits per character of the test text"
    higher_is_better, decimals, rounds, rate, comes_to_rest, server_momentum = False, 3, 10, 1e-3, False, 0.5
    exact = r".*norm.*|.*\.bias"
    STEPS, ROWS, LENGTH = 3, 4, 1600

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

    def train(self, model: Arrays, client: int, number: int) -> Arrays:
        weights = {name: torch.from_numpy(np.array(array)).requires_grad_(True) for name, array in model.items()}
        optimiser = torch.optim.Adam(weights.values(), lr=self.rate_of(number))
        rng, text = np.random.default_rng(self.seed_of(client, number)), self.parts[client]
        for _ in range(self.STEPS):
            at = rng.integers(len(text) - charlm.WINDOW, size=(self.ROWS, 1)) + np.arange(charlm.WINDOW + 1)
            ids, following = (torch.from_numpy(text[part]) for part in (at[:, :-1], at[:, 1:]))
            loss = training.cross_entropy(charlm.forward(weights, ids, training), following)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return {name: tensor.detach().numpy().copy() for name, tensor in weights.items()}

    def measure(self, model: Arrays) -> float:
        """Over as much of what each part holds out."""
        found = []
        for text in self._texts:
            held_out = text[-(len(text) // HELD_OUT_SHARE) :]
            middle = len(held_out) // 2
            half = held_out[:middle] if self.held_out == "test" else held_out[middle:]
            found.append(half[: self.LENGTH])
        return charlm.measure(model, np.concatenate(found))["bits_per_character"]


TASKS: tuple[type[Task], ...] = (Digits, Characters)
