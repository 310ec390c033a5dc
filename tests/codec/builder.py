"""Streams put together unit by unit, for what the encoder does not write by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.syntax import Context, MpsPayload, NduHeader, StrHeader, UnitType, write_unit


class Builder:
    """A stream in the making; `context` is the one of the next unit."""

    def __init__(self, *, profile: int = 1, **mps: Any) -> None:
        self.context, self.data = Context(), b""
        self.put(UnitType.STR, StrHeader(general_profile_idc=profile))
        self.put(UnitType.MPS, None, MpsPayload(**({"mps_qp_density": 2, "mps_quantization_parameter": 0} | mps)))

    def unit(self, unit_type: UnitType, header: Any = None, body: Any = b"") -> bytes:
        """One unit, written in the context that stands; the context moves on."""
        data = write_unit(unit_type, header, body, self.context)
        self.context = self.context.after(unit_type, header, body)
        return data

    def put(self, unit_type: UnitType, header: Any = None, body: Any = b"") -> None:
        self.data += self.unit(unit_type, header, body)

    def tensor(self, payload: bytes, **header: Any) -> None:
        """A data unit."""
        self.put(UnitType.NDU, NduHeader(**header), payload)


def string(*matrices: np.ndarray, qp: int | None = 0, density: int = 2, **layer: Any) -> bytes:
    """The payload of integer matrices, each with a qp_delta before it unless `qp` is None."""
    encoder = PayloadEncoder()
    for matrix in matrices:
        if qp is not None:
            encoder.number(qp, 6 + density)
        levels = np.ascontiguousarray(matrix, np.int32).reshape(-1)
        encoder.layer(levels, Layer.of(matrix.shape, **layer), selection="none")
    return encoder.finish()
