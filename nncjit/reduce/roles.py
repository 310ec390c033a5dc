"""Blocks of tensors whose roles the model's format tells. Names (`nncjit.reduce.names`) are for all others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nncjit.model import Role
from nncjit.reduce.blocks import PYTORCH_EPS, Block

_NORM = ("gamma", "beta", "mean", "var")


def blocks_of_roles(roles: Mapping[str, Role | None], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Block]:
    """The blocks that roles tell: a weight with the vectors of its layer that fit its outputs.

    A layer with two weights (an LSTM) forms none. A batch norm of which a part is shared with others stays outside.

    Parameters
    ----------
    roles : mapping of str to Role
        Of the tensors that may go into a block.
    shapes : mapping of str to tuple
        Of at least these tensors.
    """
    layers: dict[str, list[tuple[str, Role]]] = {}
    for name, role in roles.items():
        if role is not None and role.layer:
            layers.setdefault(role.layer, []).append((name, role))
    for members in layers.values():
        kinds = [role.kind for _, role in members]
        if kinds.count("weight") == 1 and len(set(kinds)) == len(kinds):
            block = _block({role.kind: (name, role) for name, role in members}, shapes)
            if block is not None:
                yield block


def _block(members: Mapping[str, tuple[str, Role]], shapes: Mapping[str, tuple[int, ...]]) -> Block | None:
    weight, role = members["weight"]
    shape = shapes[weight]
    if len(shape) < 2 or not 0 <= role.axis < len(shape):
        return None
    outputs = (shape[role.axis],)
    vectors = {kind: name for kind, (name, _) in members.items() if shapes[name] == outputs}
    norm = {kind: vectors[kind] for kind in _NORM if kind in vectors}
    whole = len(norm) == len(_NORM)
    eps = max((members[kind][1].eps for kind in norm), default=0.0) or PYTORCH_EPS
    bias = vectors.get("bias")
    if bias is None and not whole:
        return None
    return Block(weight=weight, bias=bias, axis=role.axis, eps=eps, **(norm if whole else {}))
