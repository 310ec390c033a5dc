"""nncjit for ONNX: models with coded tensors in ONNX's reference evaluator and in onnxruntime.

``ReferenceEvaluator("net.nnc.onnx", new_ops=[nncjit.onnx.Decode])`` runs a file with encoded tensors inside as it is.
``nncjit.onnx.inference_session("net.nnc")`` makes a session of onnxruntime, of a stream or of such a file;
``onnxruntime.InferenceSession("net.nnc.onnx", nncjit.onnx.session_options("net.nnc.onnx"))`` runs the file as it is.
"""

from __future__ import annotations

from nncjit.onnx.reference_operator import Decode
from nncjit.onnx.runtime_operator import session_options
from nncjit.onnx.runtime_session import inference_session

__all__ = ["Decode", "inference_session", "session_options"]
