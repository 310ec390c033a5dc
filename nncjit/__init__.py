"""nncjit makes trained neural networks small and opens them fast, as standard ISO/IEC 15938-17 (NNC) bitstreams.

The public names are imported when they are first used: looking at a file's headers loads no compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nncjit.errors import BitstreamError, ModelError, NncError, NncWarning, OptionError

if TYPE_CHECKING:
    from nncjit.codec.decode import decode
    from nncjit.codec.encode import encode
    from nncjit.codec.files import compress, decompress
    from nncjit.codec.inspect import inspect
    from nncjit.codec.options import Options, Rule
    from nncjit.codec.reader import open
    from nncjit.codec.updates import UpdateState
    from nncjit.codec.verify import verify

__version__ = "0.1.0"

_HOMES = {
    "Options": "nncjit.codec.options",
    "Rule": "nncjit.codec.options",
    "UpdateState": "nncjit.codec.updates",
    "compress": "nncjit.codec.files",
    "decode": "nncjit.codec.decode",
    "decompress": "nncjit.codec.files",
    "encode": "nncjit.codec.encode",
    "inspect": "nncjit.codec.inspect",
    "open": "nncjit.codec.reader",
    "verify": "nncjit.codec.verify",
}

__all__ = [
    "BitstreamError",
    "ModelError",
    "NncError",
    "NncWarning",
    "OptionError",
    "Options",
    "Rule",
    "UpdateState",
    "compress",
    "decode",
    "decompress",
    "encode",
    "inspect",
    "open",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nncjit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
