"""The tensors of an .nnc file as a state dict whose entries are decoded when a loader takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nncjit.decoder.random_access import NncFile
from nncjit.errors import ModelError

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""dtypes as safetensors and loaders for it spell them; the other integers are I8."""


class LazyTensor:
    """A tensor that is decoded when it is indexed, like a slice of safetensors."""

    def __init__(self, file: NncFile, name: str) -> None:
        self._slice = file.get_slice(name)

    def get_shape(self) -> list[int]:
        """Its shape."""
        return self._slice.get_shape()

    def get_dtype(self) -> str:
        """Its dtype, as safetensors spells it."""
        return _CODES.get(self._slice.get_dtype(), "I8")

    def __getitem__(self, index: Any) -> Any:
        return self._slice[index]


class LazyStateDict(Mapping[str, LazyTensor]):
    """Names and tensors of an open file."""

    def __init__(self, file: NncFile) -> None:
        self._file = file

    def __getitem__(self, name: str) -> LazyTensor:
        try:
            return LazyTensor(self._file, name)
        except ModelError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.keys())

    def __len__(self) -> int:
        return len(self._file)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def lazy_state_dict(file: Any, *, threads: int | None = None, max_bytes: int | None = None) -> LazyStateDict:
    """The tensors of an .nnc file for ``from_pretrained(None, config=..., state_dict=...)``.

    Nothing is decoded before the loader asks for it, and each tensor is decoded once, in the loader's threads.

    Parameters
    ----------
    file : path, bytes-like or binary file
        The stream.
    threads : int, optional
        Threads at work when a tensor is decoded.
    max_bytes : int, optional
        Most memory that one tensor may take.

    Returns
    -------
    mapping of str to LazyTensor
        With ``close()``.

    Raises
    ------
    BitstreamError
        A header is damaged.
    ModelError
        The file cannot be read, or torch is not there.
    """
    return LazyStateDict(NncFile(file, framework="pt", threads=threads, max_bytes=max_bytes))
