"""Keras' weights in several files: NAME.weights.json says which HDF5 files beside it hold which group of variables.

``model.save_weights("net.weights.json", max_shard_size=1)`` makes them. The index names one file for a group of one
variable, and a list of files for a group of several, whose variables may lie in different files. So the tensors of all
files have different names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nncjit.errors import ModelError
from nncjit.files import atomic_write, check_readable, os_errors, read_index_bytes
from nncjit.formats.hdf5_tree import damage, fill, open_hdf5, rebuild, survey
from nncjit.formats.keras import GRAPH, KEEPS_METADATA, NO_MODEL, PARTS, check_all_placed, tensors_in
from nncjit.formats.tensor_writer import Store
from nncjit.model import Graph, Model, Tensor, TensorInfo

__all__ = ["GRAPH", "KEEPS_METADATA", "read", "write"]

Array = Any
"""ndarray, which h5py takes."""

FORM = "shards"
"""What the metadata call such files."""
_SUFFIX, _SHARD = ".weights.json", ".weights.h5"


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:  # noqa: ARG001 - tensors are read one by one
    """Open an index and the files that it names; see `nncjit.formats.open_model`."""
    path = Path(path)
    index = _index(path)
    trees: dict[str, Any] = {}
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        shards_of = _shards_of(path, index["weight_map"])
        for name in dict.fromkeys(name for names in shards_of.values() for name in names):
            shard = path.parent / name
            check_readable(shard)
            with os_errors(shard):
                file = stack.enter_context(shard.open("rb"))
            try:
                opened = stack.enter_context(open_hdf5(file))
                trees[name], datasets = survey(opened, file, os.fstat(file.fileno()).st_size)
            except ModelError as error:
                raise ModelError(f"{shard}: {error}") from None
            for tensor in tensors_in(datasets, trees[name], "", {}):
                if tensor.name in found:
                    raise ModelError(f"{path}: {tensor.name} is in {name} and in another file")
                found[tensor.name] = tensor
            for group, holders in shards_of.items():
                if name in holders and group.strip("/") not in opened:
                    raise ModelError(f"{path}: {group} is not in {name}, where the index has it")
        parts = {"form": FORM, "index": index, "trees": trees}
        graph = Graph(GRAPH, NO_MODEL)
        return Model(found.values(), {PARTS: json.dumps(parts)}, stack.pop_all().close, [graph])


def _index(path: Path) -> dict[str, Any]:
    """The table of groups."""
    text = read_index_bytes(path)
    try:
        index = json.loads(text)
        dict(index["weight_map"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelError(f"{path}: is no index of Keras' weights, it has no weight_map") from None
    return dict(index)


def _shards_of(path: Path, weight_map: Mapping[Any, Any]) -> dict[str, list[str]]:
    """The files of each group.

    Raises
    ------
    ModelError
        One of them is no HDF5 file beside the index; or there is none at all.
    """
    if not weight_map:
        raise ModelError(f"{path}: names no file: the model has no weights")
    shards_of = {}
    for group, said in weight_map.items():
        names = said if isinstance(said, list) else [said]
        for name in names:
            if not isinstance(name, str) or not name.endswith(".h5") or set(name) & set("/\\:\0"):
                raise ModelError(f"{path}: {group} is in {name!r}, which is no .h5 file beside the index")
        shards_of[group] = names
    return shards_of


@contextmanager
def write(
    path: str | os.PathLike[str],
    infos: Sequence[TensorInfo],
    graph: Graph,  # noqa: ARG001 - weights have none
    *,
    graphs: Sequence[Graph] = (),  # noqa: ARG001 - weights have none
    metadata: Mapping[str, str],
    fsync: bool = False,
) -> Iterator[Store]:
    """Write the files that the tensors came from again, under names that go with the index; see `create`.

    Raises
    ------
    ModelError
        They came from a file of another kind, or do not fit its tree; a file of that name belongs to something else.
    """
    path = Path(path)
    index, trees = _parts_of(path, metadata)
    stem = path.name.removesuffix(_SUFFIX)
    names = {old: f"{stem}_{k:05}{_SHARD}" for k, old in enumerate(trees)}
    for name in names.values():
        if (path.parent / name).exists() and not path.exists():
            raise ModelError(f"{path.parent / name} exists and is no part of {path}: choose another name")
    named = {info.name: info for info in infos}
    index["weight_map"] = {
        group: [names[old] for old in said] if isinstance(said, list) else names[said]
        for group, said in index["weight_map"].items()
    }
    with ExitStack() as stack:
        # the first to be entered is the last to be renamed
        index_file = stack.enter_context(atomic_write(path, fsync=fsync))
        index_file.write(json.dumps(index, indent=4).encode())
        made: dict[str, Any] = {}
        opened = []
        try:
            for old, tree in trees.items():
                file = stack.enter_context(atomic_write(path.parent / names[old], fsync=fsync))
                opened.append(stack.enter_context(open_hdf5(file, "w", ordered=bool(tree.get("ordered")))))
                made |= rebuild(opened[-1], tree, named)
            check_all_placed(named, made.keys())
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

        def store(info: TensorInfo, array: Array) -> None:
            with os_errors(path), damage(info.name):
                fill(made[info.name], array)

        yield store
        with os_errors(path), damage(os.fspath(path)):
            for h5 in opened:
                h5.close()


def _parts_of(path: Path, metadata: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The index, and the tree of each file."""
    try:
        parts = json.loads(metadata[PARTS])
        form, trees = parts["form"], dict(parts["trees"])
        index = dict(parts["index"]) if form == FORM else {}
        weight_map = dict(index["weight_map"]) if form == FORM else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelError(f"{path}: can be made only of a stream that was made of Keras' weights") from None
    if form != FORM:
        raise ModelError(f"{path}: the model was one file of Keras (.keras or .h5), and can become one again")
    if {name for names in _shards_of(path, weight_map).values() for name in names} != set(trees):
        raise ModelError(f"{path}: what the stream says of the files contradicts itself")
    return index, trees
