"""Federated learning with updates both ways: ``python bench/federated.py [digits] [charlm] [--ways plain one small]``.

Clients hold unequal shares of the data (`bench/federated_tasks.py`). In a round each starts from the model that all
have, trains on its own data, and sends an update; what that left over it carries into its next one. The server adds the
mean of the updates to its own model, which is never rounded, and sends one update to all: how its model differs from
theirs, so that nothing is lost in this direction either. Beside it, the same training without compression, and the
bytes of NNCodec with temporal contexts for the very levels of the updates, where it is installed.

Needs torch and scikit-learn; writes docs/measurements/federated.json and fills docs/howto/federated.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.federated_tasks import TASKS, Arrays, Task
from nncjit.quant import steps
from nncjit.updates import Receiver, Sender

RESULTS = Path(__file__).parents[1] / "docs" / "measurements" / "federated.json"
PAGE = RESULTS.parents[1] / "howto" / "federated.md"
BEGIN, END = "<!-- federated: begin -->", "<!-- federated: end -->"
NNCODEC = Path(__file__).with_name("nncodec_updates.py")
WAYS: dict[str, float | None] = {"plain": None, "one": 0.028, "small": 0.006}
"""Share of the weights that an update changes, both ways; None: no updates."""
TOOLS: dict[str, Any] = {"zeros_scope": "model", "one_step": True, "quantizer": "uniform", "rate_weight": 0.0}
"""The largest changes of all matrices are sent, with a step of about their own size."""
VECTOR_QUALITY = 0.5
"""Of the tensors that are not made sparse."""


class Link:
    """One direction between the server and a client, or all clients: what it sent, as NNCodec is given it too."""

    def __init__(self, model: Arrays, task: Task, kept: float, *, carry: bool) -> None:
        self.sender = Sender(
            model,
            rules={task.exact: {"quality": VECTOR_QUALITY}},
            zeros=1 - kept,
            compact=True,
            carry=carry,
            threads=1,
            **TOOLS,
        )
        self.receiver = Receiver(model, threads=1)
        self.sizes: list[int] = []
        self.chain: dict[str, Any] = {}

    def send(self, new: Arrays, start: Arrays | None = None) -> Arrays:
        """What the other side has then; both start from another model first, where one is given."""
        if start is not None:
            self.sender.rebase(start)
            self.receiver.rebase(start)
        data = self.sender.update(new)
        self.sizes.append(len(data))
        self._log(len(self.sizes) - 1)
        return {name: np.array(array) for name, array in self.receiver.apply(data).items()}

    def _log(self, k: int) -> None:
        """Keep the levels of update k."""
        last = self.sender.last
        assert last is not None
        for row in last.tensors:
            levels = last.state.parameters[row.name].levels
            if row.tool == "difference" and levels is not None and row.step is not None:
                self.chain[f"{k}/{row.name}"] = levels().reshape(row.shape)
                self.chain[f"qp/{k}/{row.name}"] = steps.nearest_qp(row.step, 2)


def mean(changes: list[Arrays], weights: list[int]) -> Arrays:
    """The mean of the clients' changes by how much data they have."""
    shares = np.array(weights) / sum(weights)
    return {
        name: np.sum([share * np.float64(change[name]) for share, change in zip(shares, changes, strict=True)], axis=0)
        for name in changes[0]
    }


def run(task: Task, kept: float | None) -> dict[str, Any]:
    """One training: what it has come to after each round."""
    model = task.start()
    server = {name: np.float64(array) for name, array in model.items()}
    moving = {name: np.zeros_like(array) for name, array in server.items()}
    clients = range(len(task.shares))
    if kept is not None:
        up = [Link(model, task, kept, carry=True) for _ in clients]
        down = Link(model, task, kept, carry=False)
    found = [task.measure(model)]
    for k in range(task.rounds):
        changes = []
        for client in clients:
            local = task.train(model, client, 1000 * k + client)
            if kept is not None:
                local = up[client].send(local, model)
            changes.append({name: np.float64(local[name]) - model[name] for name in model})
        for name, change in mean(changes, task.shares).items():
            moving[name] = task.server_momentum * moving[name] + change
            server[name] = server[name] + moving[name]
        rounded = {name: np.asarray(array, np.float32) for name, array in server.items()}
        model = down.send(rounded) if kept is not None else rounded
        found.append(task.measure(model))
        print(task.name, kept, k + 1, f"{found[-1]:.4f}", _last_sizes(up, down) if kept else "", flush=True)
    result: dict[str, Any] = {"measured": [round(value, 4) for value in found]}
    if kept is not None:
        result |= {"up": [link.sizes for link in up], "down": down.sizes}
        rival = nncodec_sizes([*up, down])
        if rival is not None:
            result |= {"nncodec_up": rival[:-1], "nncodec_down": rival[-1]}
    return result


def _last_sizes(up: list[Link], down: Link) -> str:
    return f"up {[link.sizes[-1] for link in up]} down {down.sizes[-1]}"


def nncodec_sizes(links: list[Link]) -> list[list[int]] | None:
    """The bytes of NNCodec for what went over the links; None where it is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for k, link in enumerate(links):
            paths.append(str(Path(folder) / f"{k}.npz"))
            np.savez(paths[-1], updates=len(link.sizes), **link.chain)
        done = subprocess.run([sys.executable, str(NNCODEC), *paths], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"no sizes of NNCodec: {(done.stderr.strip().splitlines() or ['it died'])[-1]}")
        return None
    return [json.loads(line) for line in done.stdout.splitlines()]


def text(results: dict[str, Any]) -> str:
    """Accuracy and bytes, for the page."""
    lines = [
        "| | rounds | weights sent | at the end | worse by | to the server | NNCodec, tca | to the clients "
        "| NNCodec, tca |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for task in TASKS:
        if task.name not in results:
            continue
        found = results[task.name]
        size = found["float32_bytes"]
        for way, kept in WAYS.items():
            if way not in found:
                continue
            one = found[way]
            cells = [task.title, f"{task.rounds}", "float32" if kept is None else f"{100 * kept:g} %"]
            cells += [task.written(one["measured"][-1]), ""]
            if kept is not None and "plain" in found:
                worse = found["plain"]["measured"][-1] - one["measured"][-1]
                cells[-1] = task.written(worse if task.higher_is_better else -worse)
            cells += [
                f"{100 * np.mean(one[key]) / size:.2f} %" if key in one else ""
                for key in ("up", "nncodec_up", "down", "nncodec_down")
            ]
            if kept is None:
                cells[5] = cells[7] = "100 %"
            lines.append(f"| {' | '.join(cells)} |")
    shares = "; ".join(
        f"{task.name}: {', '.join(f'{n:,}' for n in results[task.name]['shares'])}"
        for task in TASKS
        if task.name in results
    )
    lines += ["", f"Sizes are means over all updates, in percent of the model in float32. Clients' shares: {shares}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=[task.name for task in TASKS], help="digits, charlm")
    parser.add_argument(
        "--ways", nargs="*", choices=WAYS, default=list(WAYS), help="what to run; nothing: only fill the page"
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help="the file of the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for task in TASKS:
        if task.name not in args.tasks:
            continue
        for way in args.ways:
            done = run(task, WAYS[way])
            results = json.loads(args.json.read_text("utf-8")) if args.json.exists() else {}
            about = {"shares": task.shares, "float32_bytes": sum(a.nbytes for a in task.start().values())}
            results[task.name] = results.get(task.name, {}) | about | {way: done}
            args.json.write_text(json.dumps(results) + "\n", "utf-8")
    results = json.loads(args.json.read_text("utf-8"))
    page = PAGE.read_text("utf-8")
    filled = re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{text(results)}\n{END}", page, flags=re.DOTALL)
    PAGE.write_text(filled, "utf-8")


if __name__ == "__main__":
    main()
