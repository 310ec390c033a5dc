"""nncjit compresses trained neural networks to ISO/IEC 15938-17 (NNC) bitstreams and decodes them fast.

The public names are imported when they are first used, so reading a file's headers loads no compiler.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - it cannot be imported any more when the main thread has ended
import importlib
from typing import TYPE_CHECKING, Any

from nncjit.errors import BitstreamError, ModelError, NncError, NncWarning, OptionError, UpdateError

if TYPE_CHECKING:
    from nncjit.convert import compress, decompress
    from nncjit.decoder.inspection import inspect
    from nncjit.decoder.random_access import open
    from nncjit.decoder.stream_decoder import decode
    from nncjit.decoder.update_state import UpdateState
    from nncjit.decoder.verification import verify
    from nncjit.encoder.model_encoder import encode
    from nncjit.encoder.options import Options
    from nncjit.encoder.rules import Rule
    from nncjit.model import Graph
    from nncjit.report.comparison import diff
    from nncjit.updates.in_memory import apply, update

__version__ = "0.1.0"

_HOMES = {
    "Graph": "nncjit.model",
    "Options": "nncjit.encoder.options",
    "Rule": "nncjit.encoder.rules",
    "UpdateState": "nncjit.decoder.update_state",
    "apply": "nncjit.updates.in_memory",
    "compress": "nncjit.convert",
    "diff": "nncjit.report.comparison",
    "decode": "nncjit.decoder.stream_decoder",
    "decompress": "nncjit.convert",
    "encode": "nncjit.encoder.model_encoder",
    "inspect": "nncjit.decoder.inspection",
    "open": "nncjit.decoder.random_access",
    "update": "nncjit.updates.in_memory",
    "verify": "nncjit.decoder.verification",
}

_PACKAGES = {"calibrate", "flower", "hf", "onnx", "reduce", "torch", "updates", "zarr"}
"""Packages that are public as attributes and imported when they are first used."""

__all__ = [
    "BitstreamError",
    "Graph",
    "ModelError",
    "NncError",
    "NncWarning",
    "OptionError",
    "Options",
    "Rule",
    "UpdateError",
    "UpdateState",
    "apply",
    "compress",
    "decode",
    "decompress",
    "diff",
    "encode",
    "inspect",
    "open",
    "update",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"nncjit.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'nncjit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])
