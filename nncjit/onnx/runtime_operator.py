"""The operator Decode for onnxruntime, through the operators in Python of onnxruntime-extensions.

Whatever such an operator raises ends the process, so streams are decoded and checked before a session is made. They
are kept as long as the session's options, which the session itself keeps.
"""

from __future__ import annotations

import sys
import threading
import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from nncjit.convert.encoded_onnx import decode_inside
from nncjit.convert.onnx_decode_nodes import DOMAIN, OPERATOR
from nncjit.convert.tensor_streams import decode_one
from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.formats.onnx_tensors import TYPES
from nncjit.onnx.decoded_values import values_of

__all__ = ["session_options"]

_HANDED_OVER = {
    1: "float",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    11: "double",
    12: "uint32",
    13: "uint64",
}
"""data_type -> its name in onnxruntime-extensions."""


class _Values(np.ndarray[Any, Any]):
    """An array that is handed over as it is, not as a list of numbers."""

    def flatten(self, order: Any = "C") -> Any:  # noqa: ARG002 - it is contiguous
        return self.reshape(-1)

    def tolist(self) -> Any:
        return np.asarray(self)


_ready: weakref.WeakValueDictionary[tuple[bytes, int], _Values] = weakref.WeakValueDictionary()
"""Bytes and data_type -> values; whoever made options keeps them."""
_lock = threading.Lock()
_registered: list[Any] = []


def session_options(
    source: Any, sess_options: Any = None, *, threads: int | None = None, max_bytes: int | str | None = None
) -> Any:
    """Options with which onnxruntime runs a file with encoded tensors inside as it is.

    ``onnxruntime.InferenceSession("net.nnc.onnx", nncjit.onnx.session_options("net.nnc.onnx"))``: the tensors are
    decoded and checked here, once, and kept in memory until the session is gone. At each run, the operator copies them
    into the graph. onnxruntime cannot see that they are constant. So `inference_session` is the faster road.

    Parameters
    ----------
    source : path
        The NAME.nnc.onnx that the session will be for.
    sess_options : onnxruntime.SessionOptions, optional
        Options that are extended; default: new ones.
    threads, max_bytes
        As in `decompress`.

    Returns
    -------
    onnxruntime.SessionOptions

    Raises
    ------
    ModelError
        onnxruntime or onnxruntime-extensions is not installed; the source is no such file; a stream is damaged or does
        not fit its node. The error names node and tensor.
    """
    runtime = require("onnxruntime", "sessions")
    extensions = require("onnxruntime_extensions", "operators in Python", distribution="onnxruntime-extensions")
    options = runtime.SessionOptions() if sess_options is None else sess_options
    kept = []
    for one, data, storage in decode_inside(source, threads=threads, max_bytes=max_bytes):
        if one.target not in _HANDED_OVER:
            raise ModelError(f"{source}: {one.where}: no operator in Python hands over {TYPES[one.target].name}")
        key = data, one.to
        with _lock:
            values = _ready.get(key)
            if values is None:
                array = values_of(one.info.dtype, storage, one.to, one.info.shape, _numpy_type(one.target))
                _ready[key] = values = np.ascontiguousarray(array).view(_Values)
        kept.append(values)
    with _lock:
        if not _registered:
            _registered.extend(_operators(extensions))
    options.register_custom_ops_library(extensions.get_library_path())
    weakref.finalize(options, kept.clear)  # which keeps them till then
    return options


def _operators(extensions: Any) -> list[Any]:
    """One operator for each type; onnxruntime chooses by the second input."""
    definition = extensions.PyCustomOpDef
    made = []
    for code, name in _HANDED_OVER.items():
        kind = getattr(definition, f"dt_{name}")
        register = extensions.onnx_op(
            op_type=f"{DOMAIN}::{OPERATOR}",
            inputs=[definition.dt_uint8, kind],
            outputs=[kind],
            attrs={"to": definition.dt_int64},
        )
        made.append(register(partial(_run, _numpy_type(code))))
    return made


def _run(target: np.dtype[Any], data: Any, target_type: Any, *, to: int) -> _Values:  # noqa: ARG001 - it is known
    """What the operator does at each run. It may not raise."""
    coded = data.tobytes()
    values = _ready.get((coded, to))
    if values is not None:
        return values
    try:  # the options were made for another file
        dtype, storage = decode_one(coded, "its stream")
        return np.ascontiguousarray(values_of(dtype, storage, to, storage.shape, target)).view(_Values)
    except Exception as error:  # noqa: BLE001 - see the head of this module
        said = ModelError(f"node of {OPERATOR}: gives nothing: {error}")
        hook: Any = sys.unraisablehook
        hook(SimpleNamespace(exc_type=ModelError, exc_value=said, exc_traceback=None, err_msg=None, object=None))
        return np.zeros(0, target).view(_Values)


def _numpy_type(code: int) -> np.dtype[Any]:
    return np.dtype(DTYPES[TYPES[code].dtype].storage)
