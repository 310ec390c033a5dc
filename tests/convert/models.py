"""Small models in files, and executors of odd kinds."""

from __future__ import annotations

import pickle
import random
import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from nncjit import formats
from nncjit.model import TensorInfo


def tensors(layers: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    model: dict[str, np.ndarray] = {"embed.weight": rng.normal(0, 0.02, (300, 64)).astype(np.float32)}
    for k in range(layers):
        model[f"layers.{k}.proj.weight"] = rng.normal(0, 0.05, (96, 64)).astype(np.float16)
        model[f"layers.{k}.proj.bias"] = rng.normal(0, 0.1, 96).astype(np.float16)
        model[f"layers.{k}.norm.weight"] = rng.normal(1, 0.1, 64).astype(np.float32)
    model["steps"] = np.arange(50)
    return model


def write_model(path: Path, model: dict[str, np.ndarray], ties: dict[str, str] | None = None, **options) -> Path:
    """A model file; `ties` adds names that share a tensor."""
    infos = [TensorInfo(name, array.shape, array.dtype.name) for name, array in model.items()]
    infos += [TensorInfo(name, model[twin].shape, model[twin].dtype.name, twin) for name, twin in (ties or {}).items()]
    with formats.create(path, infos, {"format": "np"}, **options) as writer:
        for name, array in model.items():
            writer.put(name, array)
    return path


class OddExecutor:
    """Pickles everything both ways, and does tasks in random order, some of them twice."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self._waiting: list[tuple[Future, bytes]] = []
        self._timer: threading.Timer | None = None

    def submit(self, work, *args):
        future: Future = Future()
        self._waiting.append((future, pickle.dumps((work, args))))
        if self._timer is None:
            self._timer = threading.Timer(0.05, self._run)
            self._timer.start()
        return future

    def _run(self) -> None:
        waiting, self._waiting, self._timer = self._waiting, [], None
        self._rng.shuffle(waiting)
        for future, packed in waiting:
            work, args = pickle.loads(packed)
            if not future.set_running_or_notify_cancel():
                continue
            try:
                for _ in range(self._rng.randint(1, 2)):
                    result = pickle.dumps(work(*args))
            except BaseException as error:  # noqa: BLE001 - as executors do
                future.set_exception(error)
            else:
                future.set_result(pickle.loads(result))
