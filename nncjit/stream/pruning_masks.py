"""Pruned models in a stream: smaller tensors, and a container that says what was removed. Spec, section 11 (TPL format
5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from nncjit.errors import BitstreamError, ModelError
from nncjit.model import Model, Tensor
from nncjit.reduce import Pruning
from nncjit.reduce.prune import rebuild_from_mask
from nncjit.syntax import BitMask, PruningContainer, Unit

Array = np.ndarray[Any, Any]


def pruned_model(model: Model, pruning: Pruning) -> Model:
    """The model with what is removed left out of every tensor."""
    shapes = pruning.shapes

    def shrink(tensor: Tensor) -> Callable[[], Array]:
        return lambda: np.asarray(pruning.shrink(tensor.name, tensor.read()), order="C")

    return Model(
        (
            replace(t, shape=shapes[t.name], read=shrink(t), fresh=False, part=None)
            if t.name in pruning.positions
            else t
            for t in model
        ),
        model.metadata,
        graphs=model.graphs,
    )


def container_of(pruning: Pruning, names: Sequence[str]) -> PruningContainer:
    """The mask over the weights of these tensors, in this order, row by row; 1 = removed."""
    masks = [pruning.mask(name).reshape(-1) for name in names if name in pruning.full_shapes]
    mask = np.concatenate(masks) if masks else np.zeros(0, np.bool_)
    return PruningContainer(order_flag=1, prune_mask=BitMask(count=mask.size, bits=np.packbits(mask).tobytes()))


BYTES_PER_WEIGHT = 16
"""Bytes that a weight of full size takes at the most: its value, what the mask says of it, and their copies."""

CONTAINER_BYTES = 1 << 10
"""More than a pruning container has beside its mask."""


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
        self._shapes = shapes
        self._first: dict[str, int] = {}
        if container is None:
            return
        if container.prune_mask is None:
            raise BitstreamError("the pruning container has no mask", path="PruningContainer")
        sizes = [math.prod(shape) for shape in shapes.values()]
        if sum(sizes) != container.prune_mask.count:
            reason = f"the mask has {container.prune_mask.count} bits, "
            reason += f"the tensors before pruning have {sum(sizes)} weights"
            raise BitstreamError(reason, path="PruningContainer")
        self._mask = np.frombuffer(container.prune_mask.bits, np.uint8)
        self._first = dict(zip(shapes, accumulate(sizes, initial=0), strict=False))

    @classmethod
    def read(cls, unit: Unit, shapes: Mapping[str, tuple[int, ...]], max_bytes: int) -> Rebuilder:
        """From the unit that holds the mask; of a deflated one no more is inflated than these shapes ask for.

        Raises
        ------
        BitstreamError
            Mask and shapes do not fit each other, or the full tensors would take more than `max_bytes`.
        """
        size = sum(map(math.prod, shapes.values()))
        if size * BYTES_PER_WEIGHT > max_bytes:
            reason = f"pruned tensors of full size have {size} weights, for which {max_bytes} bytes are not enough"
            raise BitstreamError(f"{reason} (max_bytes)", bit=8 * unit.offset, path="PruningContainer")
        return cls(unit.read_body(size // 8 + CONTAINER_BYTES), shapes)

    def shape(self, name: str, pruned: tuple[int, ...]) -> tuple[int, ...]:
        """The full shape of a tensor that is stored with this one."""
        return self._shapes.get(name, pruned)

    def rebuild(self, name: str, array: Array) -> Array:
        """The full-size tensor; BitstreamError where the mask keeps another number of weights."""
        if name not in self._first:
            return array
        try:
            return rebuild_from_mask(array, self._mask_of(name), name=name)
        except ModelError as error:
            raise BitstreamError(str(error), path=name) from None

    def _mask_of(self, name: str) -> Array:
        shape, first = self._shapes[name], self._first[name]
        stop = first + math.prod(shape)
        bits = np.unpackbits(self._mask[first >> 3 : (stop + 7) >> 3])
        return bits[first & 7 : (first & 7) + stop - first].view(np.bool_).reshape(shape)
