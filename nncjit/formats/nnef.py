"""NNEF models: a folder with graph.nnef, a .dat file for each variable, and perhaps graph.quant.

The graph stays opaque text, but for the labels of its variables, which name the .dat files. It goes into the topology
unit as it is, graph.quant into a quantisation unit. A .dat file starts with 128 bytes that say type and shape; where
these are others than type and shape imply (a vendor's item type, quantised integers), they are kept in the metadata.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError
from nncjit.files import os_errors
from nncjit.formats.nnef_headers import (
    HEADER_BYTES,
    MAX_DIMENSIONS,
    TYPES,
    DatHeader,
    headers_in,
    kept_headers,
    parse_header,
    usual_header,
)
from nncjit.formats.onnx_external import Extent, ExternalFiles
from nncjit.formats.tensor_writer import Store
from nncjit.model import Graph, Model, Tensor, TensorInfo

__all__ = ["GRAPH", "KEEPS_METADATA", "read", "write"]

GRAPH = "nnef"
"""The graph that `write` needs."""
KEEPS_METADATA = True
"""`write` takes all graphs and the metadata."""

Array = np.ndarray[Any, Any]

MAX_GRAPH = 1 << 28

_VARIABLE = re.compile(r"""=\s*variable\b(?:\s*<[^>]*>)?\s*\(((?:'[^'\n]*'|"[^"\n]*"|[^)'"])*)\)""")
_LABEL = re.compile(r"""(?:\blabel\s*=\s*|,\s*)(?:'([^'\n]*)'|"([^"\n]*)")""")
"""By its name, or as the second argument."""
_QUOTED_HASH = re.compile(r"""'[^'\n]*'|"[^"\n]*"|#[^\n]*""")


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:  # noqa: ARG001 - tensors are read one by one
    """Open graph.nnef; see `nncjit.formats.open_model`."""
    path = Path(path)
    with os_errors(path):
        if path.stat().st_size > MAX_GRAPH:
            raise ModelError(f"{path}: is too large for a graph")
        text = path.read_bytes()
        quant = path.with_suffix(".quant")
        extra = quant.read_bytes() if quant.is_file() else b""
    files = ExternalFiles(path)
    try:
        headers: dict[str, DatHeader] = {}
        for label in labels(text):
            headers[label] = _read_header(label, files)
        tensors = [
            Tensor(label, head.shape, head.dtype, partial(_load, files, label, head), fresh=True)
            for label, head in headers.items()
        ]
    except ModelError as error:
        files.close()
        raise ModelError(f"{path}: {error}") from None
    except BaseException:
        files.close()
        raise
    odd = {label: head.data for label, head in headers.items() if head.data != usual_header(head.dtype, head.shape)}
    graphs = [Graph(GRAPH, text), *([Graph(GRAPH, extra, quantization=True)] if extra else [])]
    return Model(tensors, kept_headers(odd), files.close, graphs)


def labels(text: bytes) -> list[str]:
    """The labels of a graph's variables, each once, in order.

    Raises
    ------
    ModelError
        It is no NNEF graph, or a label names no file inside the folder.
    """
    try:
        graph = text.decode()
    except UnicodeDecodeError:
        raise ModelError("not an NNEF graph: it is no UTF-8 text") from None
    graph = _QUOTED_HASH.sub(lambda m: "" if m[0].startswith("#") else m[0], graph)
    if not re.match(r"\s*version\b", graph):
        raise ModelError("not an NNEF graph: it does not start with a version")
    found: dict[str, None] = {}
    for variable in _VARIABLE.finditer(graph):
        label = _LABEL.search(variable[1])
        if label is None:
            raise ModelError(f"a variable has no label: {' '.join(variable[0].split())[:60]}")
        found[_checked(label[1] or label[2] or "")] = None
    return list(found)


def _checked(label: str) -> str:
    parts = PurePosixPath(label).parts
    outside = not parts or ".." in parts or PurePosixPath(label).is_absolute() or PureWindowsPath(label).anchor
    if outside or "\0" in label or "\\" in label:
        raise ModelError(f"variable {label!r}: the label is no name of a file in the model's folder")
    return label


def _read_header(label: str, files: ExternalFiles) -> DatHeader:
    try:
        head = Extent(f"{label}.dat", 0, HEADER_BYTES)
        files.check(head)
        header = parse_header(files.read(head).tobytes())
        files.check(Extent(f"{label}.dat", HEADER_BYTES, header.n_bytes))
    except ModelError as error:
        raise ModelError(f"variable {label}: {error}") from None
    return header


def _load(files: ExternalFiles, label: str, head: DatHeader) -> Array:
    raw = files.read(Extent(f"{label}.dat", HEADER_BYTES, head.n_bytes))
    storage = DTYPES[head.dtype].storage
    return raw.view(storage.newbyteorder("<")).astype(storage, copy=False).reshape(head.shape)


@contextmanager
def write(
    path: str | os.PathLike[str],
    infos: Sequence[TensorInfo],
    graph: Graph,
    *,
    graphs: Sequence[Graph] = (),
    metadata: Mapping[str, str],
    fsync: bool = False,  # noqa: ARG001 - many small files
) -> Iterator[Store]:
    """Write graph.nnef and the files beside it; see `nncjit.formats.create`.

    All is written into a folder beside the graph first. Files move to their places at the end, the graph last.

    Raises
    ------
    ModelError
        Tensors do not fit the variables of the graph.
    """
    path = Path(path)
    try:
        headers = _headers_for(graph.data, infos, metadata)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    extra = next((g.data for g in graphs if g.format == GRAPH and g.quantization), b"")
    with os_errors(path):
        if not path.resolve().parent.is_dir():
            raise ModelError(f"{path}: there is no folder {path.resolve().parent}")
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.resolve().parent))
    try:

        def store(info: TensorInfo, array: Array) -> None:
            values = array.astype(array.dtype.newbyteorder("<"), copy=False)
            _put(folder / f"{info.name}.dat", headers[info.name], values)

        yield store
        if extra:
            _put(folder / path.with_suffix(".quant").name, extra)
        _put(folder / path.name, graph.data)
        with os_errors(path):
            for made in sorted(folder.rglob("*"), key=lambda file: file == folder / path.name):
                if made.is_file():
                    place = path.resolve().parent / made.relative_to(folder)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    made.replace(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(path: Path, *parts: Any) -> None:
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for part in parts:
                file.write(part if isinstance(part, bytes) else memoryview(part.reshape(-1).view(np.uint8)))


def _headers_for(text: bytes, infos: Sequence[TensorInfo], metadata: Mapping[str, str]) -> dict[str, bytes]:
    """The headers of the files of all tensors."""
    wanted = labels(text)
    names = {info.name for info in infos}
    for label in wanted:
        if label not in names:
            raise ModelError(f"variable {label}: is in the graph, but not in the stream")
    odd = headers_in(metadata)
    headers = {}
    for info in infos:
        if info.name not in wanted:
            raise ModelError(f"tensor {info.name}: has no place in the graph")
        header = odd.get(info.name)
        if header is None:
            if len(info.shape) > MAX_DIMENSIONS or info.dtype not in TYPES.values():
                raise ModelError(f"tensor {info.name}: NNEF has no {info.dtype}{list(info.shape)}")
            header = usual_header(info.dtype, info.shape)
        told = parse_header(header) if len(header) == HEADER_BYTES else None
        if told is None or (told.dtype, told.shape) != (info.dtype, info.shape):
            raise ModelError(f"tensor {info.name}: is {info.dtype}{list(info.shape)}, its header says something else")
        headers[info.name] = header
    return headers
