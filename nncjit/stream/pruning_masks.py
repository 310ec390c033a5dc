"""Pruned models in a stream: smaller tensors, and a container that says what was removed. Spec, section 11 (TPL format
5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nncjit.errors import BitstreamError, ModelError
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


class Rebuilder:
    """Gives pruned tensors the size they had before, zeros where something was removed.

    Parameters
    ----------
    container : PruningContainer or None
        With a mask over the full-size tensors; None: nothing was pruned.
    shapes : mapping of str to tuple
        Full shapes of the tensors that the mask runs over, in its order.

    Raises
    ------
    BitstreamError
        Mask and shapes do not fit each other.
    """

    def __init__(self, container: PruningContainer | None, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes if container is not None else {}
        self._masks: dict[str, Array] = {}
        if container is None:
            return
        if container.prune_mask is None:
            raise BitstreamError("the pruning container has no mask", path="PruningContainer")
        mask = container.prune_mask
        sizes = [math.prod(shape) for shape in shapes.values()]
        if sum(sizes) != mask.count:
            reason = f"the mask has {mask.count} bits, the tensors before pruning have {sum(sizes)} weights"
            raise BitstreamError(reason, path="PruningContainer")
        bits = np.unpackbits(np.frombuffer(mask.bits, np.uint8), count=mask.count).astype(np.bool_)
        pieces = np.split(bits, np.cumsum(sizes)[:-1]) if sizes else []
        self._masks = {name: own.reshape(shapes[name]) for name, own in zip(shapes, pieces, strict=True)}

    def shape(self, name: str, pruned: tuple[int, ...]) -> tuple[int, ...]:
        """The full shape of a tensor that is stored with this one."""
        return self._shapes.get(name, pruned)

    def rebuild(self, name: str, array: Array) -> Array:
        """The full-size tensor; BitstreamError where the mask keeps another number of weights."""
        if name not in self._masks:
            return array
        try:
            return rebuild_from_mask(array, self._masks[name], name=name)
        except ModelError as error:
            raise BitstreamError(str(error), path=name) from None
