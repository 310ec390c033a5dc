"""Which tensors form a BLOCK: a weight, its bias, its local scaling, the batch norm that follows it. Spec, sections 2
and 9.

Blocks are found by name, and with care: a wrong match would damage a network. A bias and a scaling are matched by name
and length. A batch norm must

* be named after the layer (``conv1`` and ``bn1``, ``convolution`` and ``normalization``, ``block_1_expand`` and
  ``block_1_expand_BN``), or be its neighbour in a numbered sequence (``features.0`` and ``features.1``);
* have as many channels as the layer has outputs, as must *all* pairs that the same rule of names makes in the model
  (in a numbered sequence: all pairs of that sequence). One misfit and the rule is not used: the network may normalise
  before the layer;
* come after the layer where the order of the names is that of the network. Where they are sorted, at least one pair
  of the rule must have an input that the batch norm could not be for;
* be the only one for this layer, and the layer the only one for it;
* not follow what may be a transposed convolution: by name, or square with an even kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nncjit.errors import ModelError
from nncjit.option_values import Blocks, Label, Number, Whole, checked, optional
from nncjit.reduce.graph import checked_shapes
from nncjit.reduce.matching import NetworkLayer, Shapes, layers_of, match_batchnorms
from nncjit.reduce.names import Module, modules_of

PYTORCH_EPS, KERAS_EPS = 1e-5, 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Names of the tensors of one block; None for what it does not have."""

    weight: str
    scale: str | None = None
    """LS."""
    bias: str | None = None
    """BI."""
    gamma: str | None = None
    beta: str | None = None
    mean: str | None = None
    var: str | None = None
    axis: int = 0
    """The weight's axis of outputs: the one that is coded as rows, so first_tensor_dimension_shift is this axis."""
    eps: float = PYTORCH_EPS
    """Of the batch norm: not stored in models, so this is the framework's default unless given."""

    def __post_init__(self) -> None:
        checked("weight of a block", Label(), self.weight)
        for what in ("scale", "bias", "gamma", "beta", "mean", "var"):
            optional(f"{what} of the block of {self.weight}", Label(), getattr(self, what))
        checked(f"axis of the block of {self.weight}", Whole(-(1 << 31), 1 << 31), self.axis)
        checked(f"eps of the block of {self.weight}", Number(-1e300, 1e300), self.eps)

    @property
    def vectors(self) -> tuple[str, ...]:
        """All names but the weight's, in the order of names in a BLOCK unit: LS, BN (beta, gamma, mean, var), BI."""
        names = (self.scale, self.beta, self.gamma, self.mean, self.var, self.bias)
        return tuple(name for name in names if name is not None)

    @property
    def has_batchnorm(self) -> bool:
        return self.mean is not None


def check_blocks(blocks: Iterable[Block], shapes: Shapes) -> None:
    """Check that blocks fit their tensors.

    Raises
    ------
    ModelError
        A tensor that does not exist or is in two blocks, an axis that the weight does not have, a vector that is not
        as long as that axis, half a batch norm. The message names the tensor.
    """
    blocks, shapes = checked("blocks", Blocks(), blocks), checked_shapes(shapes)
    owner: dict[str, str] = {}
    for block in blocks:
        for name in (block.weight, *block.vectors):
            if name not in shapes:
                raise ModelError(f"{name}: no such tensor for the block of {block.weight}")
            if name in owner:
                raise ModelError(f"{name}: is in the blocks of {owner[name]} and {block.weight}")
            owner[name] = block.weight
        shape = tuple(shapes[block.weight])
        if not 0 <= block.axis < len(shape):
            raise ModelError(f"{block.weight}: shape {shape} has no axis {block.axis} for the outputs of its block")
        for name in block.vectors:
            if tuple(shapes[name]) != (shape[block.axis],):
                raise ModelError(
                    f"{name}: has shape {tuple(shapes[name])}, the block of {block.weight} needs ({shape[block.axis]},)"
                )
        if (block.mean is None) != (block.var is None) or (block.mean is None and (block.gamma or block.beta)):
            raise ModelError(f"{block.weight}: a batch norm needs both mean and variance")


def find_blocks(shapes: Shapes, given: Iterable[Block] = ()) -> tuple[Block, ...]:
    """The blocks of a model, in the order of their weights.

    Parameters
    ----------
    shapes : mapping of name to shape
        In the order of the model: it counts as evidence.
    given : iterable of Block
        Blocks that are known; they are checked, kept as they are, and their tensors looked at no more.

    Raises
    ------
    ModelError
        A given block does not fit (`check_blocks`). Names alone never raise.
    """
    given, shapes = checked("given", Blocks(), given), checked_shapes(shapes)
    check_blocks(given, shapes)
    taken = {name for block in given for name in (block.weight, *block.vectors)}
    free = {name: tuple(shape) for name, shape in shapes.items() if name not in taken}
    modules = modules_of(free)
    layers = layers_of(modules, free)
    norms = match_batchnorms(layers, modules, free)
    found = [_block(layer, norms.get(path), free) for path, layer in layers.items()]
    place = {name: at for at, name in enumerate(shapes)}
    return tuple(sorted((*given, *filter(lambda block: block.vectors, found)), key=lambda block: place[block.weight]))


def _block(layer: NetworkLayer, norm: Module | None, shapes: Shapes) -> Block:
    """The block of a layer: what is there and long enough."""
    scale, bias = f"{layer.weight}_scaling", layer.module.tensors.get("bias")
    vectors = norm.tensors if norm else {}
    return Block(
        weight=layer.weight,
        scale=scale if shapes.get(scale) == (layer.outputs,) else None,
        bias=bias if bias and shapes[bias] == (layer.outputs,) else None,
        axis=layer.axis,
        eps=KERAS_EPS if layer.module.keras else PYTORCH_EPS,
        **{role: vectors.get(role) for role in ("gamma", "beta", "mean", "var")},
    )
