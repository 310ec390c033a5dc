"""Federated learning with updates both ways: ``python bench/federated.py [digits] [charlm] [--ways plain one small]``.

Settings are chosen with ``--validation``, on data that neither the clients nor the test have. For example,
``python bench/federated.py digits --validation --set server_momentum=0.8`` tries another setting, and writes nothing.

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
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from bench.federated_tasks import TASKS, Arrays, HeldOut, Task
from nncjit.quant import steps
from nncjit.updates import Receiver, Sender

RESULTS = Path(__file__).parents[1] / "docs" / "measurements" / "federated.json"
PAGE = RESULTS.parents[1] / "howto" / "federated.md"
BEGIN, END = "<!-- federated: begin -->", "<!-- federated: end -->"
NNCODEC = Path(__file__).with_name("nncodec_updates.py")
WAYS: dict[str, float | None] = {"plain": None, "one": 0.034, "small": 0.007}
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


def run(task: Task, kept: float | None, *, rival: bool = True) -> dict[str, Any]:
    """One training: what it has come to after each round, and the bytes of NNCodec where they are asked for."""
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
            local = task.train(model, client, k)
            if kept is not None:
                local = up[client].send(local, model)
            changes.append({name: np.float64(local[name]) - model[name] for name in model})
        for name, change in mean(changes, task.shares).items():
            moving[name] = task.server_momentum * moving[name] + change
            server[name] = server[name] + moving[name]
        rounded = {name: np.asarray(array, np.float32) for name, array in server.items()}
        model = down.send(rounded) if kept is not None else rounded
        found.append(task.measure(model))
        print(task.name, task.seed, kept, k + 1, f"{found[-1]:.4f}", _last_sizes(up, down) if kept else "", flush=True)
    result: dict[str, Any] = {"measured": [round(value, 4) for value in found], "kept": kept}
    if kept is not None:
        result |= {"up": [link.sizes for link in up], "down": down.sizes}
        sizes = nncodec_sizes([*up, down]) if rival else None
        if sizes is not None:
            result |= {"nncodec_up": sizes[:-1], "nncodec_down": sizes[-1]}
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
        "| | rounds | seeds | weights sent | at the end | worse by | to the server | NNCodec, tca | to the clients "
        "| NNCodec, tca | largest |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    shares = []
    for kind, held_out in product(TASKS, get_args(HeldOut)):
        task = kind(held_out=held_out)
        if task.key not in results:
            continue
        found = results[task.key]
        drawn = [", ".join(f"{n:,}" for n in of_seed) for of_seed in found["shares"].values()]
        shares.append(f"{task.key}: {'; '.join(dict.fromkeys(drawn))}")
        lines += [_row(task, found, way) for way in WAYS if way in found]
    lines += [
        "",
        "Quality is the mean over the seeds and, after ±, the standard deviation between them; *worse by* compares "
        "each seed with the uncompressed training of the same seed. Sizes are in percent of the model in float32: "
        f"means over all updates, and the largest of them. Clients' shares by seed: {'. '.join(shares)}.",
    ]
    return "\n".join(lines)


def _row(task: Task, found: dict[str, Any], way: str) -> str:
    """A way in the table."""
    size, runs = found["float32_bytes"], list(found[way].values())
    kept, rounds = runs[0]["kept"], len(runs[0]["measured"]) - 1
    ends = np.array([one["measured"][-1] for one in runs])
    sent = "float32" if kept is None else f"{100 * kept:g} %"
    title = task.title if task.held_out == "test" else f"{task.title}, on validation data"
    cells = [title, f"{rounds}", f"{len(runs)}", sent, _spread(task, ends)]
    if kept is None:
        return f"| {' | '.join([*cells, '', '100 %', '', '100 %', '', ''])} |"
    plain = found.get("plain", {})
    worse = np.array(
        [plain[seed]["measured"][-1] - found[way][seed]["measured"][-1] for seed in found[way] if seed in plain]
    )
    cells.append(_spread(task, worse if task.higher_is_better else -worse) if worse.size else "")
    for key in ("up", "nncodec_up", "down", "nncodec_down"):
        sizes = [np.mean(one[key]) for one in runs if key in one]
        cells.append(f"{100 * np.mean(sizes) / size:.2f} %" if sizes else "")
    largest = max(np.max(one[key]) for one in runs for key in ("up", "down"))
    return f"| {' | '.join([*cells, f'{100 * largest / size:.2f} %'])} |"


def _spread(task: Task, measured: np.ndarray) -> str:
    mean_of = task.written(float(np.mean(measured)))
    return mean_of if len(measured) < 2 else f"{mean_of} ± {task.written(float(np.std(measured, ddof=1)))}"


def tried(kind: type[Task], ways: list[str], seeds: list[int], settings: dict[str, float]) -> None:
    """Print what settings come to on the validation data."""
    for way in ways:
        ends = []
        for seed in seeds:
            task = kind(seed, "validation")
            for name, value in settings.items():
                setattr(task, name, type(getattr(task, name))(value))
            ends.append(run(task, WAYS[way], rival=False)["measured"][-1])
        print(f"validation, {kind.name}, {way}, {settings}: {_spread(kind(), np.array(ends))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=[task.name for task in TASKS], help="digits, charlm")
    parser.add_argument(
        "--ways", nargs="*", choices=WAYS, default=list(WAYS), help="what to run; nothing: only fill the page"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--validation", action="store_true", help="measure on the validation data")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="rate, rounds or server_momentum")
    parser.add_argument("--json", type=Path, default=RESULTS, help="the file of the figures")
    args = parser.parse_args()
    settings = {name: float(value) for name, value in (pair.split("=") for pair in args.set)}
    if settings and not args.validation:
        parser.error("settings are tried with --validation")
    torch.set_num_threads(1)
    chosen = [kind for kind in TASKS if kind.name in args.tasks]
    if settings:
        for kind in chosen:
            tried(kind, args.ways, args.seeds, settings)
        return
    held_out: HeldOut = "validation" if args.validation else "test"
    for kind in chosen:
        for seed in args.seeds:
            for way in args.ways:
                task = kind(seed, held_out)
                done = run(task, WAYS[way])
                results = json.loads(args.json.read_text("utf-8")) if args.json.exists() else {}
                found = results.setdefault(task.key, {"shares": {}})
                found["shares"][f"{seed}"] = task.shares
                found["float32_bytes"] = sum(array.nbytes for array in task.start().values())
                found.setdefault(way, {})[f"{seed}"] = done
                args.json.write_text(json.dumps(results) + "\n", "utf-8")
    results = json.loads(args.json.read_text("utf-8"))
    page = PAGE.read_text("utf-8")
    filled = re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{text(results)}\n{END}", page, flags=re.DOTALL)
    PAGE.write_text(filled, "utf-8")


if __name__ == "__main__":
    main()
