"""Data of ONNX tensors that lie outside their TensorProto: in files beside the model, or elsewhere in the model itself.

The paths come from whoever made the file. So they must lead to a regular file in the model's folder or below it, links
resolved, and the bytes asked for must be there.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nncjit.errors import ModelError
from nncjit.files import os_errors, read_at

Array = np.ndarray[Any, Any]

INLINE = "\0"
"""The location of data that `nncjit.formats.onnx` left in the model file. No file can have this name."""


class Extent(NamedTuple):
    """Where the bytes of a tensor lie."""

    location: str
    offset: int
    size: int


def extent_of(tensor: Any, size: int) -> Extent:
    """Where the bytes of a TensorProto with external data lie.

    Parameters
    ----------
    size : int
        That its type and shape need.

    Raises
    ------
    ModelError
        It does not say so, or says something else than its type and shape.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if not all(isinstance(value, str) for value in entries.values()):
        raise ModelError("has external data that are not said in valid Unicode")
    location = entries.get("location", "")
    if not location:
        raise ModelError("has external data without a location")
    numbers = [_number(key, entries[key]) if entries.get(key) else None for key in ("offset", "length")]
    offset, length = numbers
    if length is not None and length != size:
        raise ModelError(f"has {length} bytes of external data, its type and shape need {size}")
    return Extent(location, offset or 0, size)


def _number(key: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise ModelError(f"has external data with {key} {text!r}, which is no number of bytes")
    return int(text)


class ExternalFiles:
    """The files that external data of one model lie in, each opened once.

    Parameters
    ----------
    model : Path
        The model file.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self._open: dict[str, tuple[BinaryIO, int]] = {}
        self._closed = False

    def check(self, extent: Extent) -> None:
        """Refuse an extent outside the folder, or outside its file.

        Raises
        ------
        ModelError
            Says which of the two.
        """
        _, size = self._file(extent.location)
        stop = extent.offset + extent.size
        if stop > size:
            where = "the file" if extent.location == INLINE else extent.location
            raise ModelError(f"its data would end at byte {stop} of {where}, which has {size}")

    def read(self, extent: Extent) -> Array:
        """The bytes of an extent that was checked, as uint8."""
        file, _ = self._file(extent.location)
        data = np.empty(extent.size, np.uint8)
        with os_errors(file.name):
            count = read_at(file, data, extent.offset)
        if count < extent.size:
            raise ModelError(f"{file.name}: ends early, {count} of {extent.size} bytes are there")
        return data

    def close(self) -> None:
        """Let go of all files."""
        self._closed = True
        _close(file for file, _ in self._open.values())

    def _file(self, location: str) -> tuple[BinaryIO, int]:
        if self._closed:
            raise ModelError(f"{self._model}: is closed")
        if location not in self._open:
            path = self._model if location == INLINE else self._path(location)
            with os_errors(path):
                file = path.open("rb")  # kept until `close`
                self._open[location] = file, path.stat().st_size
        return self._open[location]

    def _path(self, location: str) -> Path:
        parts = PurePosixPath(location).parts
        outside = not parts or ".." in parts or PurePosixPath(location).is_absolute()
        if outside or "\0" in location or PureWindowsPath(location).anchor or "\\" in location:
            raise ModelError(f"its data are in {location!r}, which is no file in the model's folder")
        folder = self._model.resolve().parent
        path = folder / location
        try:
            real = path.resolve(strict=True)
            mode = real.stat().st_mode
        except (OSError, RuntimeError):
            raise ModelError(f"its data are in {location!r}, and there is no such file") from None
        if not real.is_relative_to(folder) or not stat.S_ISREG(mode):
            raise ModelError(f"its data are in {location!r}, which is no file in the model's folder")
        return real


def _close(files: Iterable[BinaryIO]) -> None:
    for file in files:
        file.close()
