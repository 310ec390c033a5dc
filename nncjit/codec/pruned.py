"""Pruned models in a stream: smaller tensors, and a container that says what was removed. Spec, section 11 (TPL format
5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nncjit.errors import BitstreamError
from nncjit.model import Model, Tensor
from nncjit.reduce import Pruning
from nncjit.reduce.prune import rebuild_from_mask
from nncjit.syntax import BitMask, PruningContainer

Array = np.ndarray[Any, Any]


def pruned_model(model: Model, pruning: Pruning) -> Model:
    """The model with what is removed left out of every tensor."""
    shapes = pruning.shapes

    def shrink(tensor: Tensor) -> Callable[[], Array]:
        return lambda: np.asarray(pruning.shrink(tensor.name, tensor.read()), order="C")

    return Model(
        (
            Tensor(t.name, shapes[t.name], t.dtype, shrink(t), t.same_as, t.shard) if t.name in pruning.positions else t
            for t in model
        ),
        model.metadata,
    )


def container_of(pruning: Pruning, names: Sequence[str]) -> PruningContainer:
    """The mask over the weights of these tensors, in this order, row by row; 1 = removed."""
    masks = [pruning.mask(name).reshape(-1) for name in names if name in pruning.full_shapes]
    mask = np.concatenate(masks) if masks else np.zeros(0, np.bool_)
    return PruningContainer(order_flag=1, prune_mask=BitMask(count=mask.size, bits=np.packbits(mask).tobytes()))


def full_size(
    arrays: Mapping[str, Array], container: PruningContainer, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Array]]:
    """The tensors at the size they had before pruning, zeros where something was removed.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        As they were decoded.
    container : PruningContainer
        With a mask over the full-size tensors.
    shapes : mapping of str to tuple
        Full shapes of the tensors that the mask runs over, in its order.

    Raises
    ------
    BitstreamError
        Mask, shapes and tensors do not fit each other.
    """
    mask = container.prune_mask
    if mask is None:
        raise BitstreamError("the pruning container has no mask", path="PruningContainer")
    bits = np.unpackbits(np.frombuffer(mask.bits, np.uint8), count=mask.count).astype(np.bool_)
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()]
    if sum(sizes) != bits.size:
        reason = f"the mask has {bits.size} bits, the tensors before pruning have {sum(sizes)} weights"
        raise BitstreamError(reason, path="PruningContainer")
    starts = dict(zip(shapes, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    for name, array in arrays.items():
        if name not in shapes:
            yield name, array
            continue
        start, shape = starts[name], shapes[name]
        own = bits[start : start + int(np.prod(shape, dtype=np.int64))].reshape(shape)
        if array.size != own.size - int(np.count_nonzero(own)):
            raise BitstreamError(f"has {array.size} weights, its mask keeps another number", path=name)
        yield name, rebuild_from_mask(array, own, name=name)
