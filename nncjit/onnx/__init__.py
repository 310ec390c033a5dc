"""nncjit for ONNX: the operator that decodes tensors inside a NAME.nnc.onnx, for ONNX's reference evaluator.

``ReferenceEvaluator("net.nnc.onnx", new_ops=[nncjit.onnx.Decode])`` runs such a file as it is.
"""

from __future__ import annotations

from nncjit.onnx.reference_operator import Decode

__all__ = ["Decode"]
