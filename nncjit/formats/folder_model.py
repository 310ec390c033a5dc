"""Which file of a folder is the model, as Hugging Face and others have folders."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from nncjit.errors import ModelError, OptionError
from nncjit.files import os_errors

__all__ = ["STATES", "is_folder", "model_in", "read_from"]

PREFERRED = (
    "*.nnc.index.json", "*.nnc", "*.safetensors.index.json", "model.safetensors", "*.safetensors",
    "pytorch_model.bin.index.json", "pytorch_model.bin", "*.pt", "*.pth", "*.npz", "*.onnx", "*.gguf",
    "*.keras", "*.weights.json", "*.h5", "*.nnef", "*.nnef.tgz", "*.nnef.tar.gz", "*.nnef.tar",
)  # fmt: skip
"""Model files in the order in which one is chosen."""
STREAMS = "*.nnc"
"""How the patterns of streams begin."""
STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")
"""Files of a training run that are no models."""
NOT_MODELS = {
    "saved_model.pb": "is a SavedModel, whose variables nncjit does not read: save the model as .keras",
    "Data/com.apple.CoreML": "is a Core ML model, which nncjit does not read",
    "model_index.json": "is a pipeline of several models: compress the folders in it one by one",
    "chain.json": "is the folder of a session of updates: `nncjit apply FOLDER -o MODEL` writes its model, "
    "`nncjit inspect` and `nncjit.updates.inspect_session` show it",
}
"""What a folder is that holds no model file but one of these."""


def is_folder(path: Any) -> bool:
    """Whether this is the path of a folder that exists."""
    try:
        return isinstance(path, str | PathLike) and Path(path).is_dir()
    except (OSError, ValueError):  # no file can have this name
        return False


def read_from(source: Any, *, decoded: bool = False) -> Any:
    """The model file of a folder, as `model_in` finds it; anything else as it is."""
    return model_in(Path(source), decoded=decoded) if is_folder(source) else source


def model_in(folder: Path, *, decoded: bool = False) -> Path:
    """The model file of a folder; streams come first where they shall be `decoded`, and last where not.

    Raises
    ------
    ModelError
        There is none.
    OptionError
        There are several, and nothing tells which.
    """
    for pattern in sorted(PREFERRED, key=lambda pattern: pattern.startswith(STREAMS) != decoded):
        with os_errors(folder):
            found = sorted(path for path in folder.glob(pattern) if path.is_file() and path.name not in STATES)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found[:4])
            raise OptionError(f"{folder}: holds {len(found)} models ({names}), name one of them")
    for name, said in NOT_MODELS.items():
        if (folder / name).exists():
            raise ModelError(f"{folder}: {said}")
    raise ModelError(f"{folder}: holds no model file ({', '.join(PREFERRED)})")
