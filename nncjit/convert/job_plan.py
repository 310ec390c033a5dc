"""The plan of a sharded job: which tensors go into which file, and what was decided of the whole model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nncjit import __version__
from nncjit.convert.journal import key_of
from nncjit.encoder.options import Options
from nncjit.encoder.shared_plan import Decisions
from nncjit.errors import ModelError, NncError, OptionError
from nncjit.files import MAX_INDEX, atomic_write, os_errors
from nncjit.model import TensorInfo
from nncjit.option_values import Texts, optional, shown

VERSION = 1
FIELDS = {"nncjit plan", "options", "decisions", "source", "metadata", "shards", "request"}
"""Of a file; a journal's plan has the request that it follows from."""
DEFAULT_SHARD_BYTES = 5_000_000_000
"""Bytes of the original tensors in one stream."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What a job will do, as it can be kept in a file, edited, and given again."""

    options: Options
    decisions: Decisions
    shards: tuple[tuple[str, ...], ...]
    """Names of the tensors of each stream."""
    fingerprint: list[list[Any]]
    """Of the source's files, and of the statistics where there are any."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Added to what the source has."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "nncjit plan": VERSION,
            "options": self.options.keywords(),
            "decisions": self.decisions.to_dict(),
            "source": self.fingerprint,
            **({"metadata": dict(self.metadata)} if self.metadata else {}),
            "shards": [list(names) for names in self.shards],
        }

    @classmethod
    def from_dict(cls, content: Any) -> JobPlan:
        """From what `to_dict` gave.

        Raises
        ------
        OptionError
            A field is missing or wrong.
        """
        try:
            if content["nncjit plan"] != VERSION:
                raise OptionError(f"is a plan of version {content['nncjit plan']}, this version reads {VERSION}")
            strange = content.keys() - FIELDS
            if strange:
                raise OptionError(f"is no plan of a job: it has {shown(min(strange))}")
            shards = tuple(tuple(map(str, names)) for names in content["shards"])
            options = Options(**content["options"])
            decisions = Decisions.from_dict(content["decisions"])
            metadata = optional("metadata", Texts(), content.get("metadata")) or {}
            return cls(options, decisions, shards, list(content["source"]), metadata)
        except (KeyError, TypeError, AttributeError) as error:
            raise OptionError(f"is no plan of a job ({error})") from None

    @classmethod
    def load(cls, path: Path) -> JobPlan:
        """Read a file."""
        with os_errors(path):
            if path.stat().st_size > MAX_INDEX:
                raise ModelError(f"{path}: is too large for a plan")
            text = path.read_bytes()
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError) as error:
            said = str(error) if isinstance(error, NncError) else f"is not JSON ({error})"
            raise OptionError(f"{path}: {said}") from None

    def save(self, path: Path) -> None:
        """Write a file that people can read."""
        with atomic_write(path) as file:
            file.write(json.dumps(self.to_dict(), indent=1, ensure_ascii=False).encode())

    def check(self, infos: Sequence[TensorInfo]) -> None:
        """Refuse a plan that is not of this model, or holds a tensor twice, not at all, or apart from its twin."""
        home: dict[str, int] = {}
        for number, names in enumerate(self.shards):
            for name in names:
                if name in home:
                    raise OptionError(f"the plan has {name!r} twice")
                home[name] = number
        for info in infos:
            if info.name not in home:
                raise OptionError(f"the plan lacks the tensor {info.name!r}")
            if info.same_as is not None and home[info.same_as] != home[info.name]:
                raise OptionError(f"the plan parts {info.name!r} from {info.same_as!r}, to which it is tied")
        decided = self.decisions
        named = home.keys() | decided.own_scales.keys() | decided.zero_counts.keys() | decided.ranks.keys()
        if len(named) > len(infos):
            strange = min(named - {info.name for info in infos})
            raise OptionError(f"the plan has {strange!r}, which is no tensor of the model")

    def keys(self) -> list[str]:
        """What the bytes of each stream follow from: a rule for one tensor changes the key of one stream."""
        choices = self.options.choices(name for names in self.shards for name in names)
        stream = repr(self.options.stream) + (json.dumps(dict(self.metadata)) if self.metadata else "")
        keys = []
        for number, names in enumerate(self.shards):
            chosen = [repr(choices[name]) for name in names]
            decided = self.decisions.of_tensors(names).to_dict()
            keys.append(
                key_of(VERSION, __version__, stream, chosen, decided, self.fingerprint, names, number, len(self.shards))
            )
        return keys


def shards_of(
    pieces: Sequence[Sequence[str]], infos: Sequence[TensorInfo], shard_bytes: int
) -> tuple[tuple[str, ...], ...]:
    """Pieces in their order, in shards of at most `shard_bytes`, but one piece at least."""
    size = {info.name: info.nbytes if info.same_as is None else 0 for info in infos}
    order = {info.name: at for at, info in enumerate(infos)}
    shards: list[list[str]] = [[]]
    filled = 0
    for piece in pieces:
        n_bytes = sum(size[name] for name in piece)
        if shards[-1] and filled + n_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1] += piece
        filled += n_bytes
    return tuple(tuple(sorted(names, key=order.__getitem__)) for names in shards)
