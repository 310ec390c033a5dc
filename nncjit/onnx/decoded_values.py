"""What leaves the operator Decode: values of a decoded tensor as NumPy has them for ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.formats.onnx_tensors import TYPES, is_plain, to_raw

Array = np.ndarray[Any, Any]


def values_of(dtype: str, storage: Array, to: int, shape: Sequence[int], target: np.dtype[Any]) -> Array:
    """A tensor's values in the type that its node hands over.

    Parameters
    ----------
    dtype, storage
        The decoded tensor.
    to : int
        Its data_type, as the node says it.
    shape : sequence of int
        Its shape, as the node says it.
    target : np.dtype
        The type to hand over, which holds all values of `to`.

    Raises
    ------
    ModelError
        The tensor is not what the node says.
    """
    kind = TYPES.get(to)
    if kind is None or kind.dtype != dtype or list(storage.shape) != list(shape):
        raise ModelError(f"the stream holds {dtype}{list(storage.shape)}, the node wants type {to}{list(shape)}")
    if is_plain(kind) and storage.dtype == target:
        return storage
    onnx = require("onnx", "ONNX's operators")
    tensor = onnx.TensorProto(data_type=to, dims=list(shape), raw_data=to_raw(kind, storage).tobytes())
    array: Array = onnx.numpy_helper.to_array(tensor).astype(target, copy=False)
    return array
