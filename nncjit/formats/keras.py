"""Keras files: .keras archives, and HDF5 files with a model or with weights alone; read with h5py, without Keras.

The model's configuration is the topology, as the JSON text that Keras wrote. The tree of the HDF5 file around the
tensors is kept in the metadata (see `hdf5_tree`), and so is metadata.json of an archive. Assets become tensors
of bytes. The state of the optimizer is kept, exactly.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nncjit.errors import ModelError
from nncjit.files import atomic_write, os_errors
from nncjit.formats.hdf5_tree import Dataset, Tree, damage, fill, open_hdf5, rebuild, survey
from nncjit.formats.keras_roles import Layer, classes_in, role_by_name, role_by_place
from nncjit.formats.tensor_writer import Store
from nncjit.formats.zip_members import ZipMembers, check_name
from nncjit.model import Graph, Model, Role, Tensor, TensorInfo

__all__ = ["GRAPH", "KEEPS_METADATA", "NO_MODEL", "PARTS", "check_all_placed", "read", "tensors_in", "write"]

GRAPH = "tensorflow"
"""The graph that `write` needs."""
KEEPS_METADATA = True
"""`write` takes all graphs and the metadata."""

Array = np.ndarray[Any, Any]

PARTS = "keras parts"
"""Key of the metadata: what a file holds beside configuration and values; JSON."""
NO_MODEL = b"{}"
"""The configuration where a file holds weights alone."""
MAX_CONFIG = 1 << 28
_CONFIG, _ABOUT, _SUFFIX = "config.json", "metadata.json", ".keras"
_ATTRIBUTE = "model_config"
"""Of HDF5 files with a model: the configuration."""
_HDF5, _ARCHIVE = "hdf5", "keras"


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:  # noqa: ARG001 - tensors are read one by one
    """Open a file; see `nncjit.formats.open_model`."""
    with ExitStack() as stack:
        try:
            with os_errors(path):
                file = stack.enter_context(Path(path).open("rb"))
            if file.read(4) == b"PK\x03\x04":
                model = _archive(stack.enter_context(_closing(ZipMembers(path))), stack)
            else:
                model = _hdf5(file, os.fstat(file.fileno()).st_size, stack)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        kept = stack.pop_all()
    return Model(model, model.metadata, kept.close, model.graphs)


@contextmanager
def _closing(archive: ZipMembers) -> Iterator[ZipMembers]:
    try:
        yield archive
    finally:
        archive.close()


def _hdf5(file: BinaryIO, size: int, stack: ExitStack) -> Model:
    opened = stack.enter_context(open_hdf5(file))
    tree, datasets = survey(opened, file, size)
    config = tree["attrs"].get(_ATTRIBUTE)
    text = NO_MODEL
    if config is not None and config["shape"] == [] and isinstance(config["data"], list):
        text = config["data"].pop().encode("utf-8", "surrogateescape")
    layers = classes_in(text)
    parts = {"form": _HDF5, "trees": {"": tree}}
    return Model(tensors_in(datasets, tree, "", layers), {PARTS: json.dumps(parts)}, graphs=[Graph(GRAPH, text)])


def _archive(archive: ZipMembers, stack: ExitStack) -> Model:
    if _CONFIG not in archive:
        raise ModelError(f"not a Keras file: it has no {_CONFIG}")
    text = archive.read(_CONFIG, MAX_CONFIG)
    layers = classes_in(text)
    files = [name for name in archive.names if name.endswith(".weights.h5")]
    if not files:
        raise ModelError("holds no weights in HDF5 (model.weights.h5)")
    tensors: list[Tensor] = []
    parts: dict[str, Any] = {"form": _ARCHIVE, "members": archive.names, "trees": {}}
    for name in files:
        file = archive.open(name)
        opened = stack.enter_context(open_hdf5(file))
        prefix = "" if len(files) == 1 else f"{name}/"
        parts["trees"][name], datasets = survey(opened, file, archive.size(name), prefix)
        tensors += tensors_in(datasets, parts["trees"][name], prefix, layers)
    if _ABOUT in archive:
        parts["about"] = archive.read(_ABOUT, MAX_CONFIG).decode("utf-8", "surrogateescape")
    for name in archive.names:
        if name not in (_CONFIG, _ABOUT, *files):
            load = partial(archive.read_array, name)
            tensors.append(Tensor(name, (archive.size(name),), "uint8", load, fresh=True, role=Role("kept")))
    return Model(tensors, {PARTS: json.dumps(parts)}, graphs=[Graph(GRAPH, text or NO_MODEL)])


def tensors_in(datasets: list[Dataset], tree: Tree, prefix: str, layers: Mapping[str, Layer]) -> Iterator[Tensor]:
    """The tensors of an HDF5 file with their roles; of a layer that is quantised already, all are to be exact.

    Parameters
    ----------
    datasets : list of Dataset
    tree : Tree
        What `survey` found beside them.
    prefix : str
        What their names start with.
    layers : mapping of str to Layer
        Of the configuration, by name.
    """
    quantised = {_group_of(d.info) for d in datasets if d.info.itemsize == 1 and len(d.info.shape) > 1}
    for dataset in datasets:
        info = dataset.info
        path = info.name.removeprefix(prefix)
        rank = len(info.shape)
        role = role_by_place(path, layers.get(_layer_at(tree, path)), rank) or role_by_name(path, rank)
        if _group_of(info) in quantised:
            role = Role("kept")
        yield Tensor(info.name, info.shape, info.dtype, dataset.read, info.same_as, fresh=True, role=role)


def _group_of(info: TensorInfo) -> str:
    return info.name.rpartition("/")[0]


def _layer_at(tree: Tree, path: str) -> str:
    """The name of the layer whose group holds a dataset."""
    for part in path.split("/")[:-1]:
        tree = tree["items"][part]
    name = tree["attrs"].get("name", {}).get("data")
    return str(name[0]) if isinstance(name, list) and name else ""


@contextmanager
def write(
    path: str | os.PathLike[str],
    infos: Sequence[TensorInfo],
    graph: Graph,
    *,
    graphs: Sequence[Graph] = (),  # noqa: ARG001 - one is all there is
    metadata: Mapping[str, str],
    fsync: bool = False,
) -> Iterator[Store]:
    """Write the file that the tensors came from again; see `nncjit.formats.create`.

    Raises
    ------
    ModelError
        They came from a file of another kind, or do not fit its tree.
    """
    parts = _parts_of(path, metadata)
    named = {info.name: info for info in infos}
    with atomic_write(path, fsync=fsync) as file, ExitStack() as stack:
        made: dict[str, Any] = {}
        opened: dict[str, tuple[BinaryIO, Any]] = {}
        assets: dict[str, bytes] = {}
        try:
            for name, tree in parts["trees"].items():
                _give_config(tree, graph.data)
                target = file if parts["form"] == _HDF5 else stack.enter_context(_scratch(path))
                h5 = stack.enter_context(open_hdf5(target, "w", ordered=bool(tree.get("ordered"))))
                opened[name] = target, h5
                made |= rebuild(h5, tree, named, "" if len(parts["trees"]) == 1 else f"{name}/")
            check_all_placed(named, {*made, *parts["members"]})
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

        def store(info: TensorInfo, array: Array) -> None:
            if info.name in made:
                with os_errors(path), damage(info.name):
                    fill(made[info.name], array)
            else:
                assets[info.name] = array.tobytes()

        yield store
        with os_errors(path), damage(os.fspath(path)):
            for _, h5 in opened.values():
                h5.close()
            if parts["form"] == _ARCHIVE:
                said = {_CONFIG: graph.data, _ABOUT: parts["about"].encode("utf-8", "surrogateescape")}
                _zip(file, parts["members"], said | assets, {name: source for name, (source, _) in opened.items()})


def check_all_placed(names: Mapping[str, TensorInfo], places: Set[str]) -> None:
    """Refuse tensors of which the tree has no dataset."""
    for name in names:
        if name not in places:
            raise ModelError(f"tensor {name}: has no place in the file's tree")


def _parts_of(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a file of this kind holds beside configuration and values."""
    if PARTS not in metadata:
        raise ModelError(f"{path}: can be made only of a stream that was made of a Keras file")
    try:
        parts = json.loads(metadata[PARTS])
        form, trees, about = parts["form"], dict(parts["trees"]), str(parts.get("about", ""))
        members = [str(name) for name in parts["members"]] if form == _ARCHIVE else []
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelError(f"{path}: what the stream says of the Keras file is damaged") from None
    for name in members:
        check_name(name)
    if len(set(members)) < len(members) or (members and not set(trees) <= set(members)) or not trees:
        raise ModelError(f"{path}: what the stream says of the Keras file contradicts itself")
    wanted = _ARCHIVE if os.fspath(path).lower().endswith(_SUFFIX) else _HDF5
    if form != wanted:
        names = {_ARCHIVE: "a .keras archive", _HDF5: "an HDF5 file (.h5)", "shards": "several files (.weights.json)"}
        raise ModelError(f"{path}: the model was {names.get(form, 'something else')}, and can become one again")
    return {"form": form, "trees": trees, "members": members, "about": about}


def _give_config(tree: Any, text: bytes) -> None:
    """Put the configuration of an HDF5 file back into its attribute."""
    row = tree.get("attrs", {}).get(_ATTRIBUTE) if isinstance(tree, dict) else None
    if isinstance(row, dict) and row.get("data") == []:
        row["data"] = [text.decode("utf-8", "surrogateescape")]


@contextmanager
def _scratch(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    with os_errors(path), tempfile.TemporaryFile(dir=Path(path).resolve().parent) as file:
        yield file


def _zip(file: BinaryIO, members: Sequence[str], said: Mapping[str, bytes], files: Mapping[str, BinaryIO]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in members:
            source = files.get(name) or io.BytesIO(said[name])
            source.seek(0)
            with archive.open(name, "w", force_zip64=True) as member:
                while piece := source.read(1 << 20):
                    member.write(piece)
