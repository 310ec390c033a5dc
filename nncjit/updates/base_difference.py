"""Why a model is not the base of an update: the tensor that is missing, unexpected, or has another shape, dtype or
values, as far as the update tells.

An update states a digest of its base, and for each tensor of it, in the order of their names, a tag and a dtype. The
tags are aligned with those of the model at hand, as a comparison of texts aligns lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from nncjit.model import TensorInfo
from nncjit.stream.update_metadata import TAG_BYTES, UpdateMetadata
from nncjit.updates.chain_state import model_digest, tag_of


@dataclass(frozen=True, slots=True)
class KnownBase:
    """What an update says of its base beside the digest."""

    said: UpdateMetadata
    shapes: Mapping[str, tuple[int, ...] | None]
    """Of tensors that certainly are in the base; None where only that is known."""
    tied: Mapping[str, str]
    """Of the model after the update."""
    had: int = 0
    """Updates that the model at hand has had."""

    def difference(
        self, infos: Mapping[str, TensorInfo], digests: Mapping[str, bytes], tied: Mapping[str, str]
    ) -> str | None:
        """What is wrong with a model; None where it is the base.

        Parameters
        ----------
        infos, digests : mappings by name
            Of the tensors that are not tied; digests by `value_digest`.
        tied : mapping of str to str
        """
        found = model_digest(infos, digests, tied)
        if found == self.said.base:
            return None
        head = f"the update is for the model {self.said.base.hex()}, this is {found.hex()}"
        if self.had and self.said.number == 1:
            head += f" after update {self.had}, and this update is the first of a chain"
        return f"{self._reason(infos, digests, tied)}: {head}"

    def _reason(self, infos: Mapping[str, TensorInfo], digests: Mapping[str, bytes], tied: Mapping[str, str]) -> str:
        tags = [self.said.tags[i : i + TAG_BYTES] for i in range(0, len(self.said.tags), TAG_BYTES)]
        for name in sorted(self.shapes):
            if name not in infos:
                return self._missing(name, tied)
        if not tags:
            return self._by_shape(infos) or "this is another model"
        names = sorted(infos)
        have = [tag_of(infos[name], digests[name]) for name in names]
        for what, i, i_end, j, j_end in SequenceMatcher(None, tags, have, autojunk=False).get_opcodes():
            if what == "equal":
                continue
            here = names[j:j_end]
            spare = len(here) - (i_end - i)
            if spare < 0:
                return _between(names, j, j_end)
            if spare:
                return self._unexpected(next(name for name in (*self._unknown(here), *here)), len(tags), len(names))
            return self._changed(here, i, infos)
        return "other tensors share their memory than in the base of the update"

    def _unknown(self, names: Sequence[str]) -> Iterator[str]:
        """Those of which the update does not say that they are in the base."""
        return (name for name in names if name not in self.shapes)

    def _missing(self, name: str, tied: Mapping[str, str]) -> str:
        if name in tied:
            return f"{name}: is tied to {tied[name]}, in the base of the update it is a tensor of its own"
        return f"{name}: is missing, it is in the base of the update"

    def _unexpected(self, name: str, count: int, found: int) -> str:
        if name in self.tied:
            return f"{name}: is a tensor of its own, in the base of the update it is tied to {self.tied[name]}"
        return f"{name}: is unexpected, the base of the update has {count} tensors without it, this model {found}"

    def _by_shape(self, infos: Mapping[str, TensorInfo]) -> str | None:
        for name, shape in self.shapes.items():
            if shape is not None and infos[name].shape != shape:
                have = list(infos[name].shape)
                return f"{name}: has shape {have}, the update a difference of shape {list(shape)} to it: tensors differ"
        return None

    def _changed(self, names: Sequence[str], first: int, infos: Mapping[str, TensorInfo]) -> str:
        """What is wrong with tensors of which the first is number `first` in the base; what is certain comes first."""
        for k, name in enumerate(names, first):
            info, dtype, shape = infos[name], self.said.dtype_of(k), self.shapes.get(name)
            if shape is not None and info.shape != shape:
                return _other(name, "shape", list(info.shape), list(shape))
            if dtype is not None and info.dtype != dtype:
                return _other(name, "dtype", info.dtype, dtype)
        certain = [name for name in names if self.shapes.get(name) is not None]
        what = "other values" if certain else "other values, or another name or shape,"
        return f"{(certain or names)[0]}: has {what} than in the base of the update"


def _other(name: str, what: str, found: object, wanted: object) -> str:
    return f"{name}: has {what} {found}, in the base of the update {wanted}"


def _between(names: Sequence[str], start: int, stop: int) -> str:
    """A tensor is missing of which the update does not say the name."""
    before = f"after {names[start - 1]}" if start else "first in the order of names"
    after = f" and before {names[stop]}" if start and stop < len(names) else ""
    return f"a tensor is missing that the base of the update has {before}{after}"
