"""How much disk a stream may ask for when it becomes a model file, told from headers before anything is written.

Values that the payload earns may be written. What is made from a few bytes is bounded like memory that is not earned:
constants, ties (a name more and a tensor more in the file), zeros where something was pruned, and metadata, which each
file of a sharded model repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nncjit.decoder.memory_budget import unearned_allowed, unearned_share
from nncjit.errors import BitstreamError
from nncjit.model import TensorInfo
from nncjit.stream.data_units import DataUnit


def check_disk(
    units: Iterable[DataUnit],
    infos: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    stream_size: int,
    max_bytes: int | None,
) -> None:
    """Refuse a stream whose files would take more than `max_bytes`, or far more than the stream earns.

    Parameters
    ----------
    units : iterable of DataUnit
    infos : sequence of TensorInfo
        What is to be written, as `formats.create` takes it.
    metadata : mapping of str to str
    stream_size : int
        Bytes of the stream.
    max_bytes : int or None
        What the caller allows. None: whatever is earned, and of the rest as much as of memory.

    Raises
    ------
    BitstreamError
        Before any file is made.
    """
    text = sum(len(name) + len(value) for name, value in metadata.items())
    repeated = text * max(len({info.shard for info in infos}) - 1, 0)
    total = sum(info.nbytes for info in infos) + repeated
    if max_bytes is not None:
        if total > max_bytes:
            raise BitstreamError(f"asks for {total} bytes of disk, {max_bytes} are allowed (max_bytes)")
        return
    sizes = {info.name: info.nbytes for info in infos if info.same_as is None}
    earned = sum(_earned(opened, sizes) for opened in units)
    allowed = unearned_allowed(stream_size)
    if total - earned > allowed:
        raise BitstreamError(
            f"asks for {total} bytes of disk, of which its {stream_size} bytes earn {int(earned)}; up to {allowed} "
            "more are allowed unless max_bytes says more"
        )


def _earned(opened: DataUnit, sizes: Mapping[str, int]) -> float:
    """Bytes of a unit's tensors that its payload stands for; what is pruned away does not count."""
    coded = sum(min(part.size_in_bytes, sizes.get(part.name, 0)) for part in opened.results())
    return coded * (1.0 - unearned_share(opened))
