"""The codec for zarr's third format: it makes bytes of the array of a chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.zarr.chunk_streams import checked, decoded, encoded

_ArrayBytesCodec: Any = require("zarr.abc.codec", "chunks of arrays", distribution="zarr").ArrayBytesCodec


class NncCodec(_ArrayBytesCodec):  # type: ignore[misc] # of a library that may not be there
    """Chunks as NNC streams, as the serializer of a zarr array; zarr knows it as ``nnc``.

    Parameters
    ----------
    **options
        Those of `nncjit.encode`, for example ``bits=4``. Without any, chunks come back bit for bit.

    Raises
    ------
    OptionError
        An option is wrong.
    """

    is_fixed_size = False

    def __init__(self, **options: Any) -> None:
        self.options = checked(options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NncCodec) and self.options == other.options

    def __hash__(self) -> int:
        return hash(repr(self.options))

    @classmethod
    def from_dict(cls, data: Any) -> NncCodec:
        """The codec of zarr's metadata.

        Raises
        ------
        OptionError
            The options in it are wrong.
        """
        return cls(**checked((data.get("configuration") if isinstance(data, Mapping) else data) or {}))

    def to_dict(self) -> dict[str, Any]:
        """Name and options for zarr's metadata."""
        return {"name": "nnc", "configuration": self.options}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Not known before a chunk is encoded."""
        raise NotImplementedError(f"of {input_byte_length} bytes of {chunk_spec.dtype}")

    async def _encode_single(self, chunk_array: Any, chunk_spec: Any) -> Any:
        """The stream of a chunk, made in a thread."""
        data = await asyncio.to_thread(encoded, chunk_array.as_numpy_array(), self.options)
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        """The chunk of a stream, made in a thread."""
        array = await asyncio.to_thread(decoded, chunk_bytes.to_bytes())
        dtype = chunk_spec.dtype.to_native_dtype()
        if array.shape != chunk_spec.shape or array.dtype.newbyteorder("=") != dtype.newbyteorder("="):
            is_now, should = f"{array.dtype}{list(array.shape)}", f"{dtype}{list(chunk_spec.shape)}"
            raise ModelError(f"the stream of a chunk holds {is_now}, the array wants {should}")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(np.asarray(array, dtype))


require("zarr.registry", "chunks of arrays", distribution="zarr").register_codec("nnc", NncCodec)
