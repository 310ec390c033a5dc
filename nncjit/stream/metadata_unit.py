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

from nncjit.reduce import Block
from nncjit.syntax import TplHeader

STORAGE_FORMAT = 0xC0
"""Private topology_storage_format of the carrier."""

HEADER = TplHeader(topology_storage_format=STORAGE_FORMAT)


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
class Carried:
    """What stands in front of the tensors."""

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

    def to_bytes(self) -> bytes:
        """The body of the carrier unit."""
        content = {
            "closed": self.closed,
            "metadata": dict(self.metadata),
            "tied": dict(self.tied),
            "order": list(self.order),
            "shards": dict(self.shards),
            "folded": {weight: asdict(norm) for weight, norm in self.folded.items()},
            "full_shapes": [[name, list(shape)] for name, shape in self.full_shapes.items()],
        }
        return _dump({name: value for name, value in content.items() if value})

    @classmethod
    def from_bytes(cls, body: bytes) -> Carried:
        """The content of a carrier unit; what has the wrong form is left out."""
        content = _load(body)
        order = content.get("order")
        return cls(
            closed=content.get("closed") is True,
            metadata=_texts(content.get("metadata")),
            tied=_texts(content.get("tied")),
            order=tuple(x for x in order if isinstance(x, str)) if isinstance(order, list) else (),
            shards=_texts(content.get("shards")),
            folded=_norms(content.get("folded")),
            full_shapes=_shapes(content.get("full_shapes")),
        )


def checksum_body(crc32: int) -> bytes:
    """The body of the closing carrier unit."""
    return _dump({"crc32": crc32})


def checksum_in(body: bytes) -> int | None:
    """The checksum in a carrier unit, None where it has none."""
    value = _load(body).get("crc32")
    return value if isinstance(value, int) else None


def _dump(content: dict[str, Any]) -> bytes:
    # escaped to ASCII: the text ends at its one zero byte and has none inside
    return json.dumps({"nncjit": content}, separators=(",", ":")).encode("ascii") + b"\0"


def _load(body: bytes) -> dict[str, Any]:
    try:
        outer = json.loads(body.rstrip(b"\0"))
    except (ValueError, RecursionError):
        return {}
    content = outer.get("nncjit") if isinstance(outer, dict) else None
    return content if isinstance(content, dict) else {}


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
            case [str(name), [*dims]] if all(isinstance(d, int) and d >= 0 for d in dims):
                shapes[name] = tuple(dims)
    return shapes
