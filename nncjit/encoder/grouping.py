"""Which tensors go into a unit together: the items that the encoder works on, in the order of the stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nncjit.encoder.plan import Plan
from nncjit.errors import OptionError
from nncjit.model import Model, Tensor
from nncjit.reduce.blocks import Block, check_blocks, find_blocks
from nncjit.reduce.roles import blocks_of_roles


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor, a block, or tensors of one shape joined; or several such items in an aggregate."""

    tensors: tuple[Tensor, ...]
    """The weight first."""
    block: Block | None = None
    members: tuple[Item, ...] = ()
    """Of an aggregate."""

    @property
    def joined(self) -> bool:
        return self.block is None and len(self.tensors) > 1

    @property
    def size(self) -> int:
        """Number of weights."""
        if len(self.tensors) == 1 and not self.members:
            return self.tensors[0].size
        return sum(t.size for t in self.tensors) + sum(item.size for item in self.members)

    @property
    def all_tensors(self) -> Iterator[Tensor]:
        yield from self.tensors
        for item in self.members:
            yield from item.all_tensors


def items_of(model: Model, plan: Plan) -> list[Item]:
    """The items of a model. Tied tensors are in none.

    Raises
    ------
    OptionError
        Tensors that are to be joined differ in dtype or shape.
    ModelError
        A given block does not fit its tensors.
    """
    stored = {tensor.name: tensor for tensor in model if tensor.same_as is None}
    single = _joined(_blocks(stored, plan), plan)
    groups: dict[str, list[Item]] = {}
    for item in single:
        groups.setdefault(plan.choices[item.tensors[0].name].layout.group, []).append(item)
    alone = {id(item) for item in groups.pop("", [])}
    firsts = {id(members[0]): tuple(members) for members in groups.values()}
    return [
        item if id(item) in alone else Item((), members=firsts[id(item)])
        for item in single
        if id(item) in alone or id(item) in firsts
    ]


def _blocks(stored: dict[str, Tensor], plan: Plan) -> list[Item]:
    """All tensors, those that belong to a block with its weight."""
    shapes = {name: t.shape for name, t in stored.items() if plan.is_lossy(t.info)}
    stream = plan.options.stream
    given = stream.given_blocks
    check_blocks(given, {name: t.shape for name, t in stored.items()})
    found = given
    if stream.blocks or stream.fold_batchnorm:
        taken = {name for block in given for name in (block.weight, *block.vectors)}
        told = blocks_of_roles({n: t.role for n, t in stored.items() if n in shapes and n not in taken}, shapes)
        named = {name: shape for name, shape in shapes.items() if stored[name].role is None or name in taken}
        # a format that tells roles tells all of them: names are for tensors without
        found = tuple(told) + find_blocks(named, given)
    blocks = {b.weight: b for b in found if b.vectors and _one_dtype(b, stored)}
    inside = {name for block in blocks.values() for name in block.vectors}
    return [
        Item((t, *(stored[v] for v in blocks[name].vectors)), blocks[name]) if name in blocks else Item((t,))
        for name, t in stored.items()
        if name not in inside
    ]


def _one_dtype(block: Block, stored: dict[str, Tensor]) -> bool:
    """A unit has one data format."""
    return len({stored[name].dtype for name in (block.weight, *block.vectors)}) == 1


def _joined(items: list[Item], plan: Plan) -> list[Item]:
    """Items with the tensors of one `join` label in one."""
    labelled: dict[str, list[Tensor]] = {}
    for item in items:
        label = plan.choices[item.tensors[0].name].layout.join
        if label and item.block is None:
            labelled.setdefault(label, []).append(item.tensors[0])
    for label, tensors in labelled.items():
        first = tensors[0]
        for t in tensors:
            if not t.shape or t.shape[1:] != first.shape[1:] or t.dtype != first.dtype or not plan.is_lossy(t.info):
                what = f"{t.dtype}{list(t.shape)}, {first.name} is {first.dtype}{list(first.shape)}"
                raise OptionError(f"{t.name}: cannot be joined in {label!r}: it is {what}")
    result: list[Item] = []
    for item in items:
        label = plan.choices[item.tensors[0].name].layout.join
        if not label or item.block is not None or len(labelled[label]) < 2:
            result.append(item)
        elif item.tensors[0] is labelled[label][0]:
            result.append(Item(tuple(labelled[label])))
    return result
