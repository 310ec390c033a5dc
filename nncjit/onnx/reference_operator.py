"""The operator Decode of the domain nncjit, in Python."""

from __future__ import annotations

from typing import Any

import numpy as np

from nncjit.convert.onnx_decode_nodes import DOMAIN
from nncjit.convert.tensor_streams import decode_one
from nncjit.errors import ModelError, NncError
from nncjit.extras import require
from nncjit.onnx.decoded_values import values_of

_OpRun: Any = require("onnx.reference.op_run", "ONNX's operators", distribution="onnx").OpRun


class Decode(_OpRun):  # type: ignore[misc] # onnx is optional
    """Makes a tensor of the bytes of its stream."""

    op_domain = DOMAIN

    def _run(self, data: Any, target_type: Any, to: int = 1, shape: Any = ()) -> tuple[Any]:
        node = self.onnx_node
        try:
            dtype, storage = decode_one(data.tobytes(), "Decode")
            return (values_of(dtype, storage, to, shape, np.asarray(target_type).dtype),)
        except NncError as error:
            raise ModelError(f"node {node.name} (Decode): tensor {node.output[0]}: {error}") from None
