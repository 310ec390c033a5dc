"""Federated learning with updates both ways: ``python bench/federated.py [--rounds N] [plain] [updates]``.

Five clients hold unequal shares of the digits: some many images, some few, each mostly some of the digits. In a round
each starts from the server's model, trains on its own images, and sends a sparse update; what is left over it carries
into its next one. The server averages what it has received, and sends one update to all. Beside it, the same training
without compression. Needs torch and scikit-learn; writes docs/measurements/federated.json.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from bench.zoo.digits import BATCH, SEED, TEST_IMAGES, DigitsNet, vary
from nncjit.demo import digits
from nncjit.updates import Receiver, Sender

RESULTS = Path(__file__).parents[1] / "docs" / "measurements" / "federated.json"
PAGE = RESULTS.parents[1] / "howto" / "updates.md"
BEGIN, END = "<!-- federated: begin -->", "<!-- federated: end -->"
CLIENTS, ROUNDS = 5, 15
CONCENTRATION = 1.0
"""Of the Dirichlet distribution by which a digit's images go to the clients: small is unequal."""
RATE, MOMENTUM = 0.05, 0.9
TOOLS: dict[str, Any] = {"zeros": 0.97, "quality": 0.5, "quantizer": "uniform", "compact": True}
"""Of the updates both ways."""
Arrays = dict[str, np.ndarray]


def shares(labels: np.ndarray) -> list[np.ndarray]:
    """The rows that each client has."""
    rng = np.random.default_rng(SEED)
    rows: list[list[int]] = [[] for _ in range(CLIENTS)]
    for digit in range(10):
        mine = rng.permutation(np.flatnonzero(labels == digit))
        cuts = (np.cumsum(rng.dirichlet([CONCENTRATION] * CLIENTS))[:-1] * len(mine)).astype(int)
        for client, part in enumerate(np.split(mine, cuts)):
            rows[client] += part.tolist()
    return [np.array(sorted(part)) for part in rows]


def trained(model: Arrays, images: torch.Tensor, labels: torch.Tensor, seed: int) -> Arrays:
    """The model after one pass over a client's images."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = DigitsNet()
    net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in model.items()})
    optimiser = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    order = torch.randperm(len(images), generator=generator)
    for at in range(0, max(len(images) - 1, 1), BATCH):
        chosen = order[at : at + BATCH]
        if len(chosen) < 2:
            continue
        loss = functional.cross_entropy(net(vary(images[chosen], generator)), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    return {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}


def averaged(models: list[Arrays], weights: list[int]) -> Arrays:
    """The mean of the clients' models by their numbers of images."""
    share = np.array(weights) / sum(weights)
    return {
        name: np.asarray(np.tensordot(share, np.stack([np.float64(model[name]) for model in models]), 1), array.dtype)
        for name, array in models[0].items()
    }


def without_counters(model: Arrays) -> Arrays:
    """Batch norms count their batches, which tells nothing."""
    return {name: np.zeros_like(array) if array.dtype.kind == "i" else array for name, array in model.items()}


def run(parts: list[tuple[torch.Tensor, torch.Tensor]], rounds: int, kind: str) -> Iterator[dict[str, Any]]:
    """One training, "plain" or with "updates": what it has come to after each round."""
    torch.manual_seed(SEED)
    model = without_counters({name: tensor.numpy().copy() for name, tensor in DigitsNet().state_dict().items()})
    n_bytes = sum(array.nbytes for array in model.values())
    counts = [len(labels) for _, labels in parts]
    compressed = kind == "updates"
    if compressed:
        up = [(Sender(model, carry=True, threads=1, **TOOLS), Receiver(model, threads=1)) for _ in parts]
        down = Sender(model, threads=1, **TOOLS), Receiver(model, threads=1)
    accuracy, uplink, downlink = [], [], []
    for k in range(rounds):
        sent = []
        for client, (images, labels) in enumerate(parts):
            local = without_counters(trained(model, images, labels, SEED + 1000 * k + client))
            if not compressed:
                sent.append(local)
                continue
            sender, receiver = up[client]
            for side in (sender, receiver):
                side.rebase(model)
            data = sender.update(local)
            sent.append(receiver.apply(data))
            uplink.append(len(data))
        model = averaged(sent, counts)
        if compressed:
            data = down[0].update(model)
            downlink.append(len(data))
            model = {name: array.copy() for name, array in down[1].apply(data).items()}
        held_out = digits.load_held_out()
        accuracy.append(round(digits.count_correct(model, held_out) / len(held_out.labels), 4))
        print(f"{kind} round {k + 1:3}: {accuracy[-1]:.4f} {uplink[-len(parts) :]} {downlink[-1:]}", flush=True)
        yield {"float32_bytes": n_bytes, "accuracy": accuracy, "uplink": uplink, "downlink": downlink}


def table(results: dict[str, Any]) -> str:
    """Accuracy and bytes, for the page."""
    plain, updates = results["plain"], results["updates"]
    rounds = min(len(plain["accuracy"]), len(updates["accuracy"]))
    percent = {way: 100 * np.mean(updates[way]) / updates["float32_bytes"] for way in ("uplink", "downlink")}
    images = ", ".join(map(str, results["clients"]))
    ends = [100 * found["accuracy"][rounds - 1] for found in (plain, updates)]
    return (
        f"Clients with {images} images, {rounds} rounds from a random start. Then {ends[0]:.1f} % of the test images "
        f"are right without compression, {ends[1]:.1f} % with updates. An update to the server takes "
        f"{percent['uplink']:.2f} % of the model in float32 on average, one to the clients {percent['downlink']:.2f} %."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=["plain", "updates"], help="what to run")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_digits()
    rows = train_test_split(np.arange(len(data.target)), test_size=TEST_IMAGES, stratify=data.target, random_state=SEED)
    train_rows = np.sort(rows[0])
    images = torch.from_numpy(data.images[train_rows, None].astype(np.float32) / np.float32(digits.WHITE))
    labels = torch.from_numpy(data.target[train_rows])
    parts = [(images[mine], labels[mine]) for mine in shares(labels.numpy())]
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    results["clients"] = [len(part[1]) for part in parts]
    for kind in args.kinds:
        for found in run(parts, args.rounds, kind):
            results[kind] = found
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    page = PAGE.read_text("utf-8")
    filled = re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table(results)}\n{END}", page, flags=re.DOTALL)
    PAGE.write_text(filled, "utf-8")


if __name__ == "__main__":
    main()
