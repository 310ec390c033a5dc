"""List the tensors of an .nnc file or a model file, how each is coded and its size; with --units all units. Of the
folder of a session of updates: what it keeps of each tensor.

Only headers are read, so this is fast for files of any size.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nncjit.cli import text
from nncjit.cli.arguments import add_output, path_or_url, show
from nncjit.cli.pipes import behind_pipe

if TYPE_CHECKING:
    from nncjit.decoder.inspection import Inspection

EDITIONS = {0: "first edition", 1: "second edition"}
VALUE_WIDTH = 60
"""Characters of a metadata value that are shown."""


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "source", type=path_or_url, metavar="FILE", help="the .nnc file, a model file or folder, or a session's folder"
    )
    parser.add_argument("--units", action="store_true", help="list every unit and what its header says")
    add_output(parser)


def run(args: Namespace) -> None:
    """Inspect one file."""
    import nncjit
    from nncjit.updates.chain_folder import ChainFolder

    if isinstance(args.source, Path) and ChainFolder.is_at(args.source):
        from nncjit.cli import session_text
        from nncjit.updates import inspect_session

        show(args, inspect_session(args.source), partial(session_text.describe, tensors=True))
        return
    with behind_pipe(args.source) as source:
        found = nncjit.inspect(source)
    if source is not args.source:
        found = replace(found, source=str(args.source))
    show(args, found, lambda found: describe(found, units=args.units))


def describe(found: Inspection, *, units: bool = False) -> str:
    """The file as a whole, its metadata, and a line for each tensor (or unit)."""
    parts = [f"{text.printable(found.source)}: {_kind(found)}"]
    parts += [f"  {text.printable(f'{key}: {_short(value)}')}" for key, value in found.metadata.items()]
    parts += [f"  {text.printable(line)}" for line in _place(found)]
    parts += ["", unit_table(found) if units else tensor_table(found), "", _sums(found)]
    return "\n".join(parts)


def _place(found: Inspection) -> list[str]:
    """Where an update stands in its chain, and what it changes in the model's structure."""
    lines = [f"base_model_id: {found.base_model_id}"] if found.base_model_id else []
    said = found.update
    if said is None:
        return lines
    after = f"follows on update {said.number - 1}" if said.number > 1 else "the first after a base"
    lines.append(f"update {said.number} of a chain, {after}; builds on the model {said.base.hex()}")
    changes = {
        "renamed": [f"{before} to {name}" for name, before in said.renamed.items()],
        "gone": list(said.gone),
        "new shape": [f"{name} {text.shape(shape)}" for name, shape in said.reshaped.items()],
    }
    lines += [f"{what}: {_short(', '.join(names))}" for what, names in changes.items() if names]
    return lines


def _kind(found: Inspection) -> str:
    if found.profile is None:
        return "a model file, not compressed"
    return f"ISO/IEC 15938-17, profile {found.profile} ({EDITIONS.get(found.profile, 'unknown edition')})"


def tensor_table(found: Inspection) -> str:
    """One line for each tensor."""
    rows = [
        (
            tensor.name,
            text.shape(tensor.shape),
            tensor.dtype,
            f"tied to {tensor.tied_to}" if tensor.tied_to else ", ".join(tensor.tools),
            text.size(tensor.bytes) if tensor.bytes else "-",
            text.bits(tensor.bits_per_weight) if tensor.bytes else "-",
        )
        for tensor in found.tensors
    ]
    return text.table([("tensor", "shape", "type", "coded as", "size", "bits/weight"), *rows], left=(0, 2, 3))


def unit_table(found: Inspection) -> str:
    """One line for each unit, with the fields of its header that are not zero; all of them are in the JSON."""
    rows = [
        (
            str(unit["type"]),
            f"{unit['offset']:,}",
            f"{unit['size']:,}",
            ", ".join(unit.get("names", ())),
            _short(_fields(unit), 2 * VALUE_WIDTH),
        )
        for unit in found.units
    ]
    return text.table([("unit", "at byte", "bytes", "tensor", "header"), *rows], left=(0, 3, 4))


def _sums(found: Inspection) -> str:
    rows = [
        ("file", text.size(found.bytes), f"{len(found.units):,} units" if found.units else ""),
        (
            "holds",
            text.size(found.original_bytes),
            f"{len(found.tensors):,} tensors, {text.count(found.weights)} weights",
        ),
        ("per weight", f"{text.bits(found.bits_per_weight)} bits", ""),
    ]
    return text.table(rows, left=(0, 2), head=False)


def _fields(unit: dict[str, Any]) -> str:
    said = {**(unit.get("header") or {}), **(unit["body"] if isinstance(unit.get("body"), dict) else {})}
    return " ".join(
        f"{name}={value}"
        for name, value in said.items()
        if value not in (0, None, [], ()) and name != "topology_elem_id"
    )


def _short(value: str, width: int = VALUE_WIDTH) -> str:
    return value if len(value) <= width else f"{value[: width - 3]}..."
