"""The operator Decode of the domain nncjit, in Python."""

from __future__ import annotations

from typing import Any

from nncjit.convert.encoded_onnx import DOMAIN
from nncjit.convert.tensor_streams import decode_one
from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.formats.onnx_tensors import TYPES, to_raw

_onnx: Any = require("onnx", "ONNX's operators")
_OpRun: Any = require("onnx.reference.op_run", "ONNX's operators", distribution="onnx").OpRun


class Decode(_OpRun):  # type: ignore[misc] # onnx is optional
    """Makes a tensor of the bytes of its stream."""

    op_domain = DOMAIN

    def _run(self, data: Any, to: int = 1, shape: Any = ()) -> tuple[Any]:
        dtype, storage = decode_one(data.tobytes(), "Decode")
        kind = TYPES.get(to)
        if kind is None or kind.dtype != dtype or list(storage.shape) != list(shape):
            raise ModelError(
                f"Decode: the stream holds {dtype}{list(storage.shape)}, the node wants type {to}{list(shape)}"
            )
        tensor = _onnx.TensorProto(data_type=to, dims=list(shape), raw_data=to_raw(kind, storage).tobytes())
        return (_onnx.numpy_helper.to_array(tensor),)
