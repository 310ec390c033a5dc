"""Models in several files: an index that says which file holds which tensor, and the files beside it.

The files are safetensors. Those of PyTorch (``pytorch_model.bin.index.json``) are read, too, and not written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from nncjit.errors import ModelError, OptionError
from nncjit.files import MAX_INDEX, atomic_write, check_readable, read_index_bytes
from nncjit.formats import pytorch, safetensors
from nncjit.formats.tensor_writer import PlacedStore
from nncjit.model import Model, Tensor, TensorInfo
from nncjit.remote import RemoteFile, beside

__all__ = ["read", "write"]

DEFAULT_SHARD_SIZE = 5_000_000_000
_SUFFIX = ".safetensors.index.json"


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:
    """Open an index and the files that it names; see `nncjit.formats.open_model`.

    Tensors come in the order of the index. Tensors that only the files list come last, since loaders that read file by
    file find them, too. Metadata are those of the files; if two files disagree, the first one counts.
    """
    path = Path(path)

    def open_file(name: str) -> Model:
        check_readable(path.parent / name)
        model: Model = _module_of(path).read(path.parent / name, mmap=mmap)
        return model

    return _joined(path, _read_index(path), open_file)


def read_url(url: str) -> Model:
    """Open an index at a URL and the files beside it, of which ranges are read."""
    name = Path(url.rpartition("/")[2])
    if _shard_suffix(name) != ".safetensors":
        raise OptionError(f"{url}: of models in several files, those of safetensors are read at URLs")
    file = RemoteFile(url)
    if file.size > MAX_INDEX:
        raise ModelError(f"{url}: {file.size} bytes are too many for an index")
    shard_of = _files_of(url, file.read(0, file.size), ".safetensors")
    return _joined(url, shard_of, lambda name: safetensors.read_url(beside(url, name)))


def _joined(path: str | Path, shard_of: Mapping[str, str], open_file: Callable[[str], Model]) -> Model:
    """The model in the files of an index, which is at `path`."""
    metadata: dict[str, str] = {}
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for shard in dict.fromkeys(shard_of.values()):
            model = open_file(shard)
            stack.callback(model.close)
            metadata = model.metadata | metadata
            for tensor in model:
                if tensor.name in found:
                    raise ModelError(f"{path}: {tensor.name} is in {shard} and in {found[tensor.name].shard}")
                found[tensor.name] = replace(tensor, shard=shard)
        for name, shard in shard_of.items():
            if name not in found or found[name].shard != shard:
                raise ModelError(f"{path}: {name} is not in {shard}, where the index has it")
        order = [*shard_of, *(name for name in found if name not in shard_of)]
        return Model([found[name] for name in order], metadata, stack.pop_all().close)


def _read_index(path: Path) -> dict[str, str]:
    """File name by tensor name."""
    return _files_of(path, read_index_bytes(path), _shard_suffix(path))


def _files_of(path: str | Path, text: bytes, suffix: str) -> dict[str, str]:
    """The same from the text of an index."""
    try:
        shard_of = json.loads(text)["weight_map"]
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is not JSON ({error})") from None
    except (KeyError, TypeError):
        raise ModelError(f"{path}: has no weight_map") from None
    if not isinstance(shard_of, dict):
        raise ModelError(f"{path}: weight_map is not a table of file names")
    for name, shard in shard_of.items():
        if not _is_shard_name(shard, suffix):
            raise ModelError(f"{path}: {name} is in {shard!r}, which is no {suffix} file beside the index")
    return shard_of


def _shard_suffix(path: Path) -> str:
    """What the files of an index end with: the index is called ``NAME.safetensors.index.json`` or so."""
    return f".{path.name.lower().split('.')[-3]}"


def _module_of(path: Path) -> ModuleType:
    """The module of the files of an index."""
    return pytorch if _shard_suffix(path) == ".bin" else safetensors


def _is_shard_name(name: Any, suffix: str = ".safetensors") -> bool:
    """Whether this names a file in the folder of the index, and none outside it."""
    return isinstance(name, str) and name.endswith(suffix) and not set(name) & set("/\\:\0")


@contextmanager
def write(
    path: str | os.PathLike[str],
    infos: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    *,
    shard_size: int | None = None,
    fsync: bool = False,
) -> Iterator[PlacedStore]:
    """Write the files and their index; see `nncjit.formats.create`.

    All files are renamed into place at the end, the index last. A file is replaced only if the old index lists it: the
    names of shards come from the stream, which does not know what else is in the folder.

    Raises
    ------
    ModelError
        A shard has the name of a file that does not belong to the model at `path`.
    """
    path = Path(path)
    if _shard_suffix(path) != ".safetensors":
        raise OptionError(f"{path}: models in several files are written as safetensors: *{_SUFFIX}")
    shard_of = _layout(path, infos, shard_size)
    files: dict[str, list[TensorInfo]] = {}
    for info in infos:
        files.setdefault(shard_of[info.name], []).append(info)
    check_neighbours(path, files)
    index = {
        "metadata": {"total_size": sum(info.nbytes for info in infos)},
        "weight_map": {info.name: shard_of[info.name] for info in infos},
    }
    with ExitStack() as stack:
        # the first to be entered is the last to be renamed
        index_file = stack.enter_context(atomic_write(path, fsync=fsync))
        index_file.write(json.dumps(index, indent=2, ensure_ascii=False).encode())
        stores: dict[str, PlacedStore] = {
            shard: stack.enter_context(safetensors.write(path.parent / shard, inside, metadata, fsync=fsync))
            for shard, inside in files.items()
        }
        yield PlacedStore(lambda info, array, start: stores[shard_of[info.name]].put(info, array, start))


def check_neighbours(path: Path, shards: Iterable[str]) -> None:
    """Refuse to replace files that are not the model's own."""
    strangers = [shard for shard in shards if (path.parent / shard).exists()]
    if strangers:
        try:
            own = set(_read_index(path).values()) if path.exists() else set[str]()
        except ModelError:
            own = set()
        for shard in strangers:
            if shard not in own:
                raise ModelError(f"{path.parent / shard} exists and is no part of {path}: choose another folder")


def _layout(path: Path, infos: Sequence[TensorInfo], shard_size: int | None) -> dict[str, str]:
    """File name by tensor name: as the tensors say, or in order into files of at most `shard_size` bytes, but one
    tensor at least.
    """
    shard_of = {info.name: info.shard for info in infos if _is_shard_name(info.shard)}
    if shard_size is None and len(shard_of) == len(infos):
        return {name: str(shard) for name, shard in shard_of.items()}
    numbers: list[int] = []
    filled = 0
    for info in infos:
        number = numbers[-1] if numbers else 1
        if numbers and filled + info.nbytes > (shard_size or DEFAULT_SHARD_SIZE):
            number, filled = number + 1, 0
        filled += info.nbytes
        numbers.append(number)
    stem = path.name[: -len(_SUFFIX)]
    count = numbers[-1] if numbers else 1
    return {
        info.name: f"{stem}-{number:05d}-of-{count:05d}.safetensors"
        for info, number in zip(infos, numbers, strict=True)
    }
