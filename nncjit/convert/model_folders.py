"""Folders of models, as Hugging Face has them: the model file is converted, all other files go along."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from nncjit.bits import as_source
from nncjit.errors import OptionError
from nncjit.files import atomic_write, os_errors, resolved
from nncjit.formats.folder_model import STATES, model_in
from nncjit.stream.data_units import StreamReader

__all__ = ["STEM", "FolderPair", "copy_rest", "into_folder"]

STEM = "model"
"""Of the model file that is written, as loaders look for it."""
WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".npz", ".onnx", ".gguf", ".h5", ".keras", ".msgpack", ".ot",
    ".nnc", ".index.json",
)  # fmt: skip
"""Suffixes of what is not copied: the model, and the same model in other formats."""
NNEF = (".nnef", ".dat", ".quant")
"""Suffixes of the files that make an NNEF model."""


class FolderPair(NamedTuple):
    """The files that are read and written where a folder is converted."""

    source: Path
    target: Path


@contextmanager
def into_folder(
    source: Any, target: Any, *, decoded: bool = False, in_shards: bool = False, writes: bool = True
) -> Iterator[FolderPair]:
    """The model file of a folder and the one to make of it; when the block ends well, all other files are copied.

    Parameters
    ----------
    source : path
        A folder.
    target : path
        A folder, which is made where it does not exist. A path with the suffix of a file is the one file to make.
    decoded : bool
        Whether a model is made of a stream.
    in_shards : bool
        Whether that model shall be in several files, even if it was in one.
    writes : bool
        False for a dry run.

    Raises
    ------
    OptionError
        The target is no path, or the source itself.
    ModelError
        There is no model file, or a file cannot be copied.
    """
    if not isinstance(target, str | PathLike):
        raise OptionError(f"a folder becomes a folder: the target is a {type(target).__name__}, must be a path")
    source, target = Path(source), Path(target)
    found = model_in(source, decoded=decoded)
    if decoded != (found.name.endswith((".nnc", ".nnc.index.json"))):
        raise OptionError(f"{found}: is {'no ' if decoded else 'already an '}NNC file")
    if target.suffix and not target.is_dir():
        yield FolderPair(found, target)
        return
    if resolved(target) == resolved(source):
        raise OptionError(f"{target}: the target is the source")
    suffix = (".safetensors.index.json" if in_shards or _is_sharded(found) else ".safetensors") if decoded else ".nnc"
    with os_errors(target):
        if writes:
            target.mkdir(parents=True, exist_ok=True)
    yield FolderPair(found, target / f"{STEM}{suffix}")
    if writes:
        copy_rest(source, target, found)


def copy_rest(source: Path, target: Path, model: Path) -> None:
    """Copy the files of a folder that are no models into another one, which exists. `model` is what its model is in.

    Raises
    ------
    ModelError
        A file cannot be copied.
    """
    with os_errors(target):
        left = (*WEIGHTS, *NNEF) if model.name.endswith(".nnef") else WEIGHTS
        _copy_others(source, target, resolved(target), left)


def _is_sharded(stream: Path) -> bool:
    """Whether a stream came from a model in several files."""
    if stream.name.endswith(".json"):
        return True
    with as_source(stream) as opened:
        reader = StreamReader(opened)
        next(reader.data_units(), None)
        return bool(reader.model_metadata.shards)


def _copy_others(source: Path, target: Path, outermost: Path, left: tuple[str, ...]) -> None:
    """Copy what is neither hidden nor ends like one of those `left` out, folders included, but no links to folders:
    these may lead in circles.
    """
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or (path.is_dir() and (path.is_symlink() or path.resolve() == outermost)):
            continue
        if path.is_dir():
            files = [inner for inner in path.rglob("*") if inner.is_file()]
            if files and not any(_goes_along(inner, left) for inner in files):
                continue
            (target / path.name).mkdir(exist_ok=True)
            _copy_others(path, target / path.name, outermost, left)
        elif path.is_file() and _goes_along(path, left):
            with path.open("rb") as old, atomic_write(target / path.name) as new:
                shutil.copyfileobj(old, new)


def _goes_along(path: Path, left: tuple[str, ...]) -> bool:
    return path.name in STATES or not path.name.endswith(left)
