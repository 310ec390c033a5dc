"""Small trained models, and what each of them is good for.

Each module of `MODELS` has

- ``TITLE``: one line that says which row of the standard's table the model stands for,
- ``WEIGHTS``: path of its safetensors file,
- ``measure(weights) -> dict[str, float]``: what a model with these weights (a mapping of names to arrays) is worth at
  its task; needs NumPy and SciPy only and takes seconds,
- ``MAIN``: the main measure, and whether more of it is better,
- ``train(path)``: makes the weights anew, with PyTorch (all but ``minilm``, whose weights come with a package).

Run from the root of the repository: ``python -m bench.zoo.vgg`` trains, ``python -m bench.zoo`` measures all.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

MODELS = ("vgg", "resnet", "mobilenet", "audio", "autoencoder", "charlm", "minilm")
RECORD = Path(__file__).with_name("weights") / "measures.json"
"""What each model measures with its own weights, and how many it has."""


class Main(NamedTuple):
    """The measure that a model is judged by."""

    name: str
    higher_is_better: bool


def model(name: str) -> ModuleType:
    """The module of one of `MODELS`."""
    return importlib.import_module(f"{__name__}.{name}")
