"""What a stream carries beside its tensors, for readers that know this project, and harmless to those that do not.

The standard has no place for a file's metadata, tied tensors or a checksum. Private unit types would be such a place,
but readers in use refuse streams that hold one; a topology unit with a private storage format is skipped by them. So a
stream has one such unit in front, with what is known before the tensors, and one at its end, with the checksum of all
bytes before it. Both hold JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nncjit.errors import BitstreamError, ModelError
from nncjit.reduce import Block
from nncjit.stream.update_metadata import UpdateMetadata
from nncjit.syntax import MAX_DIMENSIONS, MAX_ELEMENTS, TplHeader, Unit, UnitType

STORAGE_FORMAT = 0xC0
"""Private topology_storage_format of the metadata_unit."""

HEADER = TplHeader(topology_storage_format=STORAGE_FORMAT)

MAX_BYTES = 1 << 26
"""Most bytes of a metadata unit: names, files and shapes of 100,000 tensors take half of that."""

MAX_VALUES = 1 << 22
"""Most commas and brackets in a metadata unit: 100,000 tensors have fifteen each at the most."""

_START = b'{"nncjit":'
_STRUCTURE = (b",", b"[", b"{")


@dataclass(frozen=True, slots=True)
class FoldedNorm:
    """Names of a batch norm that was folded into the block of a weight, so that it can come back as an identity."""

    gamma: str | None
    beta: str | None
    mean: str
    var: str
    bias: str | None
    """The layer's own bias; without one the block's bias stands under the name of beta."""
    eps: float

    @classmethod
    def of(cls, block: Block) -> FoldedNorm:
        return cls(block.gamma, block.beta, str(block.mean), str(block.var), block.bias, block.eps)


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the metadata unit in front of the tensors says of the model."""

    closed: bool = False
    """Whether a closing unit follows; without it the stream was cut off."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    """Name of a tied tensor -> the tensor whose memory it shares."""
    order: tuple[str, ...] = ()
    """All names in the model's order; empty where that is the order of the stream."""
    shards: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> file that held it, for a model in several files."""
    folded: Mapping[str, FoldedNorm] = field(default_factory=dict)
    """Weight -> batch norm that was folded into its block."""
    full_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes before pruning, of the tensors that the pruning mask runs over, in its order."""
    update: UpdateMetadata | None = None
    """What makes the stream an update."""

    def to_bytes(self) -> bytes:
        """The body of the metadata unit in front."""
        content = {
            "closed": self.closed,
            "metadata": dict(self.metadata),
            "tied": dict(self.tied),
            "order": list(self.order),
            "shards": dict(self.shards),
            "folded": {weight: asdict(norm) for weight, norm in self.folded.items()},
            "full_shapes": [[name, list(shape)] for name, shape in self.full_shapes.items()],
            "update": self.update.plain() if self.update is not None else None,
        }
        return _dump({name: value for name, value in content.items() if value})

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> ModelMetadata:
        """From the content of that unit; what has the wrong form is left out."""
        order = content.get("order")
        return cls(
            closed=content.get("closed") is True,
            metadata=_texts(content.get("metadata")),
            tied=_texts(content.get("tied")),
            order=tuple(x for x in order if isinstance(x, str)) if isinstance(order, list) else (),
            shards=_texts(content.get("shards")),
            folded=_norms(content.get("folded")),
            full_shapes=_shapes(content.get("full_shapes")),
            update=UpdateMetadata.of(content.get("update")),
        )


def checksum_body(crc32: int) -> bytes:
    """The body of the closing metadata unit."""
    return _dump({"crc32": crc32})


def checksum_in(content: Mapping[str, Any]) -> int | None:
    """The checksum in a metadata unit, None where it has none."""
    value = content.get("crc32")
    return value if isinstance(value, int) else None


def content_of(unit: Unit) -> dict[str, Any] | None:
    """What a metadata unit says; None for a topology unit of someone else, of which no more is read than its start.

    Raises
    ------
    BitstreamError
        It is damaged, or beyond the limits.
    """
    if unit.type != UnitType.TPL or unit.header.topology_storage_format != STORAGE_FORMAT:
        return None
    if not unit.starts_with(_START):  # nor does DEFLATE data, which no metadata unit is made of
        return None
    try:
        _check_size(unit.payload_size)
        return _load(bytes(unit.payload()))
    except ModelError as error:
        raise BitstreamError(str(error), bit=8 * unit.payload_start, path="metadata unit") from None


def _dump(content: dict[str, Any]) -> bytes:
    # escaped to ASCII: the text ends at its one zero byte and has none inside
    body = json.dumps({"nncjit": content}, separators=(",", ":")).encode("ascii") + b"\0"
    _check_size(len(body))
    _check_values(body)
    return body


def _load(body: bytes) -> dict[str, Any]:
    _check_values(body)
    try:
        content = json.loads(body.rstrip(b"\0"))["nncjit"]
    except (ValueError, KeyError, RecursionError):
        raise ModelError("is not the JSON that it starts as") from None
    if not isinstance(content, dict):
        raise ModelError("has no content")
    return content


def _check_size(n_bytes: int) -> None:
    if n_bytes > MAX_BYTES:
        raise ModelError(f"metadata of {n_bytes} bytes, at most {MAX_BYTES} are allowed")


def _check_values(body: bytes) -> None:
    """Refuse what takes many times its size once it is parsed."""
    if sum(map(body.count, _STRUCTURE)) > MAX_VALUES:
        raise ModelError(f"metadata of more than {MAX_VALUES} values")


def _texts(value: Any) -> dict[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {k: v for k, v in items if isinstance(v, str)}


def _norms(value: Any) -> dict[str, FoldedNorm]:
    norms = {}
    for weight, names in value.items() if isinstance(value, dict) else ():
        if not isinstance(names, dict) or set(names) != {f.name for f in fields(FoldedNorm)}:
            continue
        texts = [names[key] for key in ("gamma", "beta", "mean", "var", "bias")]
        required = isinstance(names["mean"], str) and isinstance(names["var"], str)
        eps = names["eps"]
        if required and all(t is None or isinstance(t, str) for t in texts) and isinstance(eps, float) and 0 <= eps < 1:
            norms[weight] = FoldedNorm(**names)
    return norms


def _shapes(value: Any) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for row in value if isinstance(value, list) else ():
        match row:
            case [str(name), [*dims]] if len(dims) <= MAX_DIMENSIONS and all(
                isinstance(d, int) and 0 <= d <= MAX_ELEMENTS for d in dims
            ):
                shapes[name] = tuple(dims)
    return shapes
