"""What an update says of the model that it builds on, and of changes for which the standard has no syntax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from nncjit.syntax import MAX_DIMENSIONS, MAX_ELEMENTS

DIGEST_BYTES = 16
"""Of the SHA-256 of a model that an update states."""
TAG_BYTES = 2
"""Of the SHA-256 of each tensor of that model: they tell which one is another, where the model is."""
MAX_NUMBER = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateMetadata:
    """The part of a metadata unit that makes its stream an update."""

    number: int
    """1 for an update to a model of which only the values are known; else that of the update before, plus 1."""
    base: bytes
    """The first `DIGEST_BYTES` of the digest of the model that it builds on."""
    tags: bytes = b""
    """`TAG_BYTES` of a hash of each tensor of that model, by name in Unicode's order; or nothing."""
    types: tuple[tuple[str, int], ...] = ()
    """The dtypes of these tensors in runs: (dtype, tensors in a row); nothing where all are float32."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New name -> name in that model."""
    gone: tuple[str, ...] = ()
    """Tensors of that model that have no successor."""
    reshaped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """New name -> new shape, of the tensors that have grown or shrunk."""
    texts: Mapping[str, str] | None = None
    """The metadata of the model; None where it has not changed."""

    @staticmethod
    def runs_of(dtypes: Iterable[str]) -> tuple[tuple[str, int], ...]:
        """`types` of these dtypes."""
        runs = tuple((dtype, len(list(same))) for dtype, same in groupby(dtypes))
        return () if all(dtype == "float32" for dtype, _ in runs) else runs

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        content = {
            "number": self.number,
            "base": self.base.hex(),
            "tags": self.tags.hex(),
            "types": [list(run) for run in self.types],
            "renamed": dict(self.renamed),
            "gone": list(self.gone),
            "reshaped": {name: list(shape) for name, shape in self.reshaped.items()},
        }
        content = {name: value for name, value in content.items() if value}
        return content if self.texts is None else content | {"texts": dict(self.texts)}

    @classmethod
    def of(cls, content: Any) -> UpdateMetadata | None:
        """From JSON; None where it has not the form that `plain` gives it."""
        match content:
            case {"number": int(number), "base": str(base)} if not isinstance(number, bool):
                pass
            case _:
                return None
        try:
            digest, tags = bytes.fromhex(base), bytes.fromhex(content.get("tags", ""))
        except (ValueError, TypeError):
            return None
        renamed, reshaped = content.get("renamed", {}), content.get("reshaped", {})
        gone, texts, types = content.get("gone", []), content.get("texts"), content.get("types", [])
        fine = (
            1 <= number <= MAX_NUMBER
            and len(digest) == DIGEST_BYTES
            and len(tags) % TAG_BYTES == 0
            and _is_text_mapping(renamed)
            and isinstance(gone, list)
            and all(isinstance(name, str) for name in gone)
            and isinstance(reshaped, dict)
            and all(map(_is_shape, reshaped.values()))
            and isinstance(types, list)
            and all(map(_is_run, types))
            and (texts is None or _is_text_mapping(texts))
        )
        if not fine:
            return None
        shapes = {name: tuple(shape) for name, shape in reshaped.items()}
        return cls(
            number=number,
            base=digest,
            tags=tags,
            types=tuple((dtype, count) for dtype, count in types),
            renamed=renamed,
            gone=tuple(gone),
            reshaped=shapes,
            texts=texts,
        )

    def dtype_of(self, number: int) -> str | None:
        """The dtype of a tensor of that model, counted in the order of the names; None where it is not known."""
        if not self.types:
            return "float32"
        for dtype, count in self.types:
            if number < count:
                return dtype
            number -= count
        return None


def _is_text_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_run(value: Any) -> bool:
    match value:
        case [str(_), int(count)]:
            return not isinstance(count, bool) and 0 < count <= MAX_ELEMENTS
    return False


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_DIMENSIONS
        and all(isinstance(dim, int) and not isinstance(dim, bool) and 0 <= dim <= MAX_ELEMENTS for dim in value)
    )
