"""Models as differences from models that the receiver has: updates, chains of them, and both ends of a link."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nncjit.updates.chain_sides import Receiver, Sender
    from nncjit.updates.session_inspection import SessionInspection, inspect_session
    from nncjit.updates.update_options import UpdateOptions

_HOMES = {
    "Receiver": "nncjit.updates.chain_sides",
    "Sender": "nncjit.updates.chain_sides",
    "SessionInspection": "nncjit.updates.session_inspection",
    "UpdateOptions": "nncjit.updates.update_options",
    "inspect_session": "nncjit.updates.session_inspection",
}

__all__ = ["Receiver", "Sender", "SessionInspection", "UpdateOptions", "inspect_session"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nncjit.updates' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
