"""Arrays in the folder of a session: a file each, without a header, read by memory maps."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nncjit.errors import ModelError
from nncjit.files import os_errors
from nncjit.updates.chain_state import Array

SUFFIX = ".array"
_NAME = re.compile(r"\d+-[a-z]+-\d+\.array")


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """An array in a folder."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @classmethod
    def of(cls, row: dict[str, Any]) -> ArrayFile:
        """From plain values."""
        return cls(str(row["name"]), str(row["dtype"]), tuple(row["shape"]))

    @classmethod
    def written(cls, folder: Path, number: int, what: str, generation: int, array: Array) -> ArrayFile:
        """Write an array, down to the disk. Number, content and generation make the name.

        Raises
        ------
        ModelError
            It cannot be written.
        """
        made = cls(f"{number}-{what}-{generation}{SUFFIX}", array.dtype.str, array.shape)
        path = folder / made.name
        with os_errors(path), path.open("wb") as out:
            out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            out.flush()
            os.fsync(out.fileno())
        return made

    def check(self, folder: Path, label: str) -> None:
        """Refuse a file that is not there in its size, or is none of a session. `label` is what it belongs to.

        Raises
        ------
        ModelError
        """
        path = folder / self.name
        if Path(self.name).name != self.name or not self.name.endswith(SUFFIX):
            raise ModelError(f"{folder}: {label}: {self.name!r} is no file of a session")
        with os_errors(path):
            size = path.stat().st_size
        if size != self.size:
            raise ModelError(f"{path}: {label}: has {size} bytes, must have {self.size}: the session is damaged")

    def mapped(self, folder: Path) -> Array:
        """The array, which cannot be written to."""
        if not self.size:
            return np.empty(self.shape, self.dtype)
        with os_errors(folder / self.name):
            return np.asarray(np.memmap(folder / self.name, self.dtype, "r", shape=self.shape))


def is_array(name: str) -> bool:
    """Whether a file's name is one that `ArrayFile.written` gives."""
    return _NAME.fullmatch(name) is not None
