"""Sessions of onnxruntime for models whose tensors are coded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from nncjit.convert import decompress
from nncjit.extras import require

__all__ = ["inference_session"]


def inference_session(
    source: Any,
    *,
    form: str | None = None,
    threads: int | None = None,
    max_bytes: int | str | None = None,
    **arguments: Any,
) -> Any:
    """An onnxruntime session for an ONNX model that is in a stream, or in a file with encoded tensors inside.

    The tensors are decoded once, into a temporary file that is gone when the session is ready. Sessions have no other
    way to get tensors of every type and place: operators in Python would run with each inference.

    Parameters
    ----------
    source : path, bytes-like or binary file
        An NNC file of an ONNX model, or a NAME.nnc.onnx.
    form, threads, max_bytes
        As in `decompress`; "qdq" keeps weights as integers.
    **arguments
        Of `onnxruntime.InferenceSession`: ``sess_options``, ``providers`` and so on.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    BitstreamError
        The stream is damaged.
    ModelError
        onnxruntime is not installed, or the source is no ONNX model.
    """
    runtime = require("onnxruntime", "sessions")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "model.onnx")
        decompress(source, path, form=form, threads=threads, max_bytes=max_bytes)
        return runtime.InferenceSession(str(path), **arguments)
