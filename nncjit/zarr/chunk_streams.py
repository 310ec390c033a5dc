"""One chunk of an array as a stream of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nncjit.decoder.stream_decoder import decode
from nncjit.encoder.model_encoder import encode
from nncjit.encoder.options import Options
from nncjit.errors import ModelError

NAMES = {True: "chunk", False: "swapped chunk"}
"""Of the tensor in the stream; the second, where bytes were in the order that the machine does not have."""
WITHOUT_LOSS: Mapping[str, Any] = {"quantizer": "lossless"}
"""The options where none are given: what is stored comes back bit for bit."""


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a codec as keywords that JSON can hold.

    Raises
    ------
    OptionError
        One is unknown, or has a value that it cannot have.
    """
    return Options(**(options or WITHOUT_LOSS)).keywords()


def encoded(array: Any, options: Mapping[str, Any]) -> bytes:
    """The stream of a chunk."""
    array = np.asarray(array)
    native = array.dtype.isnative
    values = array if native else array.astype(array.dtype.newbyteorder())
    return bytes(encode({NAMES[native]: values}, threads=1, **options))


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
    if len(arrays) != 1 or name not in NAMES.values():
        raise ModelError(f"the stream holds {', '.join(map(repr, arrays)) or 'nothing'}, and no chunk of an array")
    array = arrays[name]
    return array if name == NAMES[True] else array.astype(array.dtype.newbyteorder())
