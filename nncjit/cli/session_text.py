"""The folder of a session as text, for `status` and `inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nncjit.cli import text

if TYPE_CHECKING:
    from nncjit.updates.session_inspection import SessionInspection


def describe(found: SessionInspection, *, tensors: bool) -> str:
    """What the session is and keeps, and, where wanted, a line for each tensor."""
    rows = text.table(found.facts(), left=(0, 1), head=False)
    parts = [f"{text.printable(found.source)}:", rows]
    if tensors:
        from nncjit.updates.session_inspection import HEAD

        table = [HEAD, *(tensor.row() for tensor in found.tensors)]
        parts += ["", text.table(table, left=(0, 2, 5, 6))]
    return "\n".join(parts)
