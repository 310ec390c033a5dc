"""One chunk of an array as a stream of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nncjit.decoder.stream_decoder import decode
from nncjit.encoder.model_encoder import encode
from nncjit.encoder.options import Options
from nncjit.errors import ModelError, OptionError

NAMES = {
    (True, False): "chunk",
    (False, False): "swapped chunk",
    (True, True): "column-major chunk",
    (False, True): "swapped column-major chunk",
}
"""Of the tensor in the stream: whether bytes were in the machine's order, and whether columns lay in memory one after
the other. zarr's second format and numcodecs read a chunk in the order of its memory.
"""
LAYOUTS = {name: layout for layout, name in NAMES.items()}
WITHOUT_LOSS: Mapping[str, Any] = {"quantizer": "lossless"}
"""The options where none are given: what is stored comes back bit for bit."""


def checked(options: Any) -> dict[str, Any]:
    """The options of a codec as keywords that JSON can hold.

    Raises
    ------
    OptionError
        They are no table; one is unknown, or has a value that it cannot have.
    """
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise OptionError(f"the codec's options are {options!r}, must be a table of names and values")
    return Options(**options).keywords() or Options(**WITHOUT_LOSS).keywords()


def array_in(buffer: Any) -> Any:
    """A buffer as the array that it holds.

    Raises
    ------
    ModelError
        It is neither an array nor a buffer.
    """
    if hasattr(buffer, "__array_interface__"):
        return np.asarray(buffer)
    try:
        return np.asarray(memoryview(buffer))
    except (TypeError, ValueError):
        raise ModelError(f"a chunk is an array or a buffer, not a {type(buffer).__name__}") from None


def encoded(array: Any, options: Mapping[str, Any]) -> bytes:
    """The stream of a chunk."""
    array = np.asarray(array)
    native, flags = array.dtype.isnative, array.flags
    values = array if native else array.astype(array.dtype.newbyteorder())
    name = NAMES[native, flags.f_contiguous and not flags.c_contiguous]
    return bytes(encode({name: values}, threads=1, **options))


def decoded(data: Any) -> Any:
    """The array in a stream.

    Raises
    ------
    BitstreamError
        It is damaged.
    ModelError
        It is no stream of a chunk.
    """
    arrays = decode(data, threads=1)
    name = next(iter(arrays), "")
    if len(arrays) != 1 or name not in LAYOUTS:
        raise ModelError(f"the stream holds {', '.join(map(repr, arrays)) or 'nothing'}, and no chunk of an array")
    native, by_columns = LAYOUTS[name]
    array = np.asfortranarray(arrays[name]) if by_columns else arrays[name]
    return array if native else array.astype(array.dtype.newbyteorder())
