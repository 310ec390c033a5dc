"""Folders of models, as Hugging Face has them: the model file is converted, all other files go along."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from nncjit.bits import as_source
from nncjit.errors import NncWarning, OptionError
from nncjit.files import atomic_write, os_errors, resolved
from nncjit.formats.folder_model import STATES, model_in
from nncjit.stream.data_units import StreamReader

__all__ = ["STEM", "FolderPair", "copy_rest", "into_folder"]

MODULES = "modules.json"
"""The list of modules in the folder of a sentence transformer."""
STEM, ADAPTER = "model", "adapter_model"
"""Of the model file that is written, as loaders look for it; the second, where that is an adapter (LoRA)."""
WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".npz", ".onnx", ".gguf", ".h5", ".keras", ".msgpack", ".ot",
    ".nnc", ".index.json",
)  # fmt: skip
"""Suffixes of what is not copied: the model, and the same model in other formats."""
OTHER_FORMS = (STEM, "pytorch_model", "tf_model", "flax_model", "rust_model", "consolidated")
"""How names of the same model in other formats begin."""
_PARTS = (".safetensors", ".bin", ".pt")
"""Suffixes of what in a folder within is another model rather than another form of this one."""
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
    stem = ADAPTER if found.name.startswith(f"{ADAPTER}.") else STEM
    yield FolderPair(found, target / f"{stem}{suffix}")
    if writes:
        copy_rest(source, target, found)


def _is_sharded(stream: Path) -> bool:
    """Whether a stream came from a model in several files."""
    if stream.name.endswith(".json"):
        return True
    with as_source(stream) as opened:
        reader = StreamReader(opened)
        next(reader.data_units(), None)
        return bool(reader.model_metadata.shards)


def copy_rest(source: Path, target: Path, model: Path) -> None:
    """Copy what is neither hidden nor a model, folders included, but no links to folders: these may lead in circles.

    An adapter beside the model goes along as it is, and so do the folders that modules.json names, which hold parts of
    a sentence transformer. A warning names tensors that stay behind, unless they are those of the model in another
    format.

    Parameters
    ----------
    source : Path
        A folder.
    target : Path
        The folder that gets them.
    model : Path
        The file in the source that is converted, or its index.
    """
    is_left = (*WEIGHTS, *NNEF) if model.name.endswith(".nnef") else WEIGHTS
    adapters = () if model.name.startswith(ADAPTER) else tuple(source.glob(f"{ADAPTER}.*"))
    whole = (*adapters, *_modules_of(source))
    with os_errors(target):
        left = _copy(source, target, resolved(target), is_left, whole)
    forms = (*OTHER_FORMS, model.name.partition(".")[0])
    strangers = [
        path.relative_to(source).as_posix()
        for path in left
        if not path.name.startswith(forms) or (path.parent != source and path.name.endswith(_PARTS))
    ]
    if strangers and not model.name.endswith(".nnef"):
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        said = f"{', '.join(strangers[:3])}{more}: not copied, tensors that are not in {model.name}"
        warnings.warn(f"{source}: {said}", NncWarning, stacklevel=2)


def _modules_of(source: Path) -> Iterator[Path]:
    """The folders of a sentence transformer's other modules."""
    try:
        modules = json.loads((source / MODULES).read_bytes())
        names = [str(module["path"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    yield from (source / name for name in names if name)


def _copy(
    source: Path, target: Path, outermost: Path, is_left: tuple[str, ...], whole: tuple[Path, ...] = ()
) -> list[Path]:
    """Copy all files but those whose names end so, unless they are to be copied as a whole; others are returned."""
    left = []
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or (path.is_dir() and (path.is_symlink() or path.resolve() == outermost)):
            continue
        if path.is_dir():
            files = [inner for inner in path.rglob("*") if inner.is_file()]
            if path in whole:
                (target / path.name).mkdir(exist_ok=True)
                _copy(path, target / path.name, outermost, ())
                continue
            if files and not any(_goes_along(inner, is_left) for inner in files):
                left += files
                continue
            (target / path.name).mkdir(exist_ok=True)
            left += _copy(path, target / path.name, outermost, is_left)
        elif path.is_file() and (path in whole or _goes_along(path, is_left)):
            with path.open("rb") as old, atomic_write(target / path.name) as new:
                shutil.copyfileobj(old, new)
        elif path.is_file():
            left.append(path)
    return left


def _goes_along(path: Path, left: tuple[str, ...]) -> bool:
    return path.name in STATES or not path.name.endswith(left)
