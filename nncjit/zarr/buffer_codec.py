"""The codec for numcodecs."""

from __future__ import annotations

from typing import Any

from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.zarr.chunk_streams import array_in, checked, decoded, encoded

_numcodecs: Any = require("numcodecs", "codecs of chunks")
_Codec: Any = require("numcodecs.abc", "codecs of chunks", distribution="numcodecs").Codec


class NncBuffers(_Codec):  # type: ignore[misc] # of a library that may not be there
    """Arrays as NNC streams; numcodecs knows it as ``nnc``.

    Parameters
    ----------
    **options
        Those of `nncjit.encode`, for example ``bits=4``. Without any, arrays come back bit for bit.

    Raises
    ------
    OptionError
        An option is wrong.
    """

    codec_id = "nnc"

    def __init__(self, **options: Any) -> None:
        self.options = checked(options)

    def encode(self, buf: Any) -> bytes:
        """The stream of an array or a buffer.

        Raises
        ------
        ModelError
            It is neither, or its values are no numbers.
        """
        return encoded(array_in(buf), self.options)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The array in a stream, in `out` where that is given.

        Raises
        ------
        BitstreamError
            The stream is damaged.
        ModelError
            It is no stream of a chunk, or the chunk does not fit `out`.
        """
        array = decoded(array_in(buf).tobytes())
        if out is not None and (room := array_in(out).nbytes) != array.nbytes:
            raise ModelError(f"the chunk has {array.nbytes} bytes, there is room for {room}")
        return _numcodecs.compat.ndarray_copy(array, out)

    def get_config(self) -> dict[str, Any]:
        """What makes an equal codec."""
        return {"id": self.codec_id, **self.options}


_numcodecs.register_codec(NncBuffers)
