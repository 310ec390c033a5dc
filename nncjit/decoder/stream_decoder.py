"""A stream to arrays. Units are opened in order, decoded in batches by all threads, and handed on in order.

All layers of a batch go into one table of segments, so that many small tensors keep as many threads busy as one large
one does. A batch bounds what is in memory at a time where results are handed on one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.bits import as_source
from nncjit.cabac import lane_choice
from nncjit.cabac.payload_decoder import PayloadDecoding
from nncjit.cabac.segment_supply import compile_contexts
from nncjit.decoder.composition import compose_unit
from nncjit.decoder.float_piece_decoder import compile_pieces, decode_float_pieces
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.unit_decoder import UnitDecoding, decoded_with, prepare_elements, prepare_unit
from nncjit.decoder.update_state import Key, LevelStore, UpdateState, part_key
from nncjit.errors import ModelError, NncError, OptionError, did_you_mean
from nncjit.jit import threads as thread_counts
from nncjit.jit.teams import KernelCalls, finish
from nncjit.option_values import Bytes, check_flags, optional, shown
from nncjit.stages import stage, staged
from nncjit.stream.data_units import DataUnit, StreamReader
from nncjit.stream.reports import source_name
from nncjit.stream.stream_index import AnyPath, is_index, read_index, streams_of
from nncjit.stream.unit_parts import Part

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A tensor out of a stream."""

    part: Part
    storage: Array
    """Its storage array (see `nncjit.dtypes`)."""
    opened: DataUnit
    start: int | None = None
    """Of a piece of a tensor: which of its elements is the first."""


def decode(
    data: Any,
    *,
    names: str | Iterable[str] | None = None,
    threads: int | None = None,
    max_bytes: int | str | None = None,
    parts: bool = False,
    state: UpdateState | None = None,
    full_size: bool = False,
    lenient: bool = False,
) -> dict[str, Array]:
    """Decompress an NNC bitstream.

    Parameters
    ----------
    data : bytes-like, path or binary file
        The stream, or the path of the index of several (``.nnc.index.json``).
    names : str or iterable of str, optional
        Decode only this tensor or these; the payloads of others are not read.
    threads : int, optional
        Threads at work; default: all cores that the process may use. Values never depend on it.
    max_bytes : int or str, optional
        Most memory that the arrays may take, for example 10**9 or "1GB"; a stream that asks for more is refused before
        anything is allocated. Default: three quarters of the machine's memory, of which 256 MiB (for long streams 1024
        times their size) may go to what the stream's bytes do not earn, such as constants.
    parts : bool
        Hand out the tensors of a block as they were coded: local scaling and the factors of a decomposition apart.
    state : UpdateState, optional
        What earlier streams of a series of updates left; grows by this one, unless it is refused.
    full_size : bool
        Give pruned tensors the size they had before, with zeros where something was removed.
    lenient : bool
        Pass over reserved unit types and values instead of refusing them.

    Returns
    -------
    dict of str to ndarray
        In the order of the model. Original shapes and dtypes; bfloat16 and float8 as `ml_dtypes` where that is
        installed, else widened to float32. Tied tensors are one and the same array.

    Raises
    ------
    BitstreamError
        The bytes break the standard; says what, at which bit, in which element.
    ModelError
        A name in `names` is not in the stream, or memory does not suffice.
    """
    check_flags(parts=parts, full_size=full_size, lenient=lenient)
    if not isinstance(state, UpdateState | None):
        raise OptionError(f"state is {shown(state)}, must be an nncjit.UpdateState")
    chosen = None if names is None else _chosen(names)
    if is_index(data):
        if state is not None:
            raise OptionError("state is of a series of updates, and a model in several streams has none")
        more: dict[str, Any] = {"threads": threads, "parts": parts, "full_size": full_size, "lenient": lenient}
        return _decode_all(data, chosen, max_bytes, more)
    after = None if state is None else state.copy()
    with as_source(data) as source:
        reader, budget = StreamReader(source, lenient=lenient), MemoryBudget(max_bytes, source.size)
        units: Iterable[DataUnit] = reader.data_units()
        if chosen is not None:
            units = _select(reader, chosen, parts)
        found = {
            item.part.name: item for item in decode_units(units, budget, threads=threads, parts=parts, state=after)
        }
    if state is None:
        reader.warn_of_update(source_name(data))
    rebuilder = reader.rebuilder(full_size, budget.left)
    storages = {name: rebuilder.rebuild(name, item.storage) for name, item in found.items()}
    arrays = reader.with_ties({name: dtypes.as_array(s, found[name].part.dtype) for name, s in storages.items()})
    if state is not None and after is not None:
        state.replace(after)
    return arrays if chosen is None else {name: arrays[name] for name in arrays if name in chosen}


def compile_kernels() -> None:
    """Compile what decoding compiles only after some use, to be on disk from now on."""
    compile_contexts()
    lane_choice.compile_lanes()
    compile_pieces()
    thread_counts.compile_driver()


def way_of_decoding() -> str:
    """How plain layers are decoded on this machine, in words: in lanes or in pairs, and why."""
    return lane_choice.describe()


def _decode_all(
    path: AnyPath, chosen: list[str] | None, max_bytes: int | str | None, more: Mapping[str, Any]
) -> dict[str, Array]:
    """The tensors of the streams of an index, which share the memory that is allowed."""
    weight_map: dict[str, str] = read_index(path)["weight_map"]
    if chosen is not None and more["parts"]:
        raise OptionError("names of parts: decode the stream that holds them, not the index of several")
    for name in chosen or ():
        if name not in weight_map:
            raise ModelError(f"no tensor {name!r} in the streams{did_you_mean(name, weight_map)}")
    found: dict[str, Array] = {}
    left = optional("max_bytes", Bytes(), max_bytes)
    for stream in streams_of(path):
        wanted = None if chosen is None else [name for name in chosen if weight_map[name] == stream.name]
        if wanted is None or wanted:
            arrays = decode(stream, names=wanted, max_bytes=left, **more)
            left = None if left is None else max(left - sum(array.nbytes for array in arrays.values()), 0)
            found |= arrays
    return {name: found[name] for name in (*(n for n in weight_map if n in found), *(found.keys() - weight_map.keys()))}


def _chosen(names: str | Iterable[str]) -> list[str]:
    """The names that are asked for."""
    try:
        chosen = [names] if isinstance(names, str) else list(names)
    except TypeError:
        raise OptionError(f"names is {shown(names)}, must be names of tensors") from None
    for name in chosen:
        if not isinstance(name, str):
            raise OptionError(f"names holds {shown(name)}, which is no name of a tensor")
    return chosen


def _select(reader: StreamReader, names: Collection[str], parts: bool) -> list[DataUnit]:
    """The data units that hold the named tensors."""
    holders: dict[str, DataUnit] = {}
    for opened in reader.data_units():
        holders |= {part.name: opened for part in opened.results(parts=parts)}
    holders = reader.with_ties(holders)
    for name in names:
        if name not in holders:
            raise ModelError(f"no tensor {name!r} in the stream{did_you_mean(name, holders)}")
    wanted = {holders[name].unit.offset: holders[name] for name in names}
    return [wanted[offset] for offset in sorted(wanted)]


def decode_units(
    units: Iterable[DataUnit],
    budget: MemoryBudget,
    *,
    threads: int | None = None,
    parts: bool = False,
    state: LevelStore | None = None,
) -> Iterator[Decoded]:
    """Decode data units, in order. Parameters as in `decode`."""
    for batch in budget.batches(units, thread_counts.count(threads)):
        for together in [batch] if state is None else _independent(batch):
            prepared = [prepare(opened, state) for opened in together]
            decode_batch(prepared, threads)
            if state is not None:
                for item in prepared:
                    item.leave_levels(state)
            for item in prepared:
                yield from compose(item, parts=parts)


def _independent(batch: list[DataUnit]) -> Iterator[list[DataUnit]]:
    """The batch in runs: no unit builds on another one of its run."""
    run: list[DataUnit] = []
    found: set[Key] = set()
    for opened in batch:
        keys = {part_key(opened.unit, part) for part in opened.parts}
        if found & keys:
            yield run
            run, found = [], set()
        run.append(opened)
        found |= keys
    yield run


def decode_rows(opened: DataUnit, rows: range, budget: MemoryBudget, *, threads: int | None = None) -> Array | None:
    """Decode some rows of a unit's tensor, and no more block rows or pieces than those that they are in.

    Parameters
    ----------
    opened : DataUnit
    rows : range
        Rows of the first dimension, not empty, step 1.
    budget : MemoryBudget
    threads : int, optional

    Returns
    -------
    ndarray
        The storage of the rows. None where the unit must be decoded whole: it has neither entry points nor pieces, or
        is more than one tensor coded as it is.
    """
    inner = opened.parts[0].shape[1:]
    elements = range(rows.start * prod(inner), rows.stop * prod(inner))
    here = decoded_with(opened, elements) if elements else None
    if here is None:
        return None
    budget.charge(opened, len(here) / opened.weights)
    with stage("read"), naming_unit(opened):
        decoding = prepare_elements(opened, here)
    decode_batch([decoding], threads)
    (decoded,) = compose(decoding, parts=True)
    wanted = decoded.storage.reshape(-1)[elements.start - here.start : elements.stop - here.start]
    return wanted.reshape(len(rows), *inner)


@staged("read")
def prepare(opened: DataUnit, state: LevelStore | None = None) -> UnitDecoding:
    """Read the payload of a unit and allocate its arrays."""
    with naming_unit(opened):
        return prepare_unit(opened, state)


@contextmanager
def naming_unit(opened: DataUnit) -> Iterator[None]:
    """Say which unit asked for memory that there is not."""
    try:
        yield
    except (MemoryError, ValueError) as error:  # NumPy refuses absurd sizes with a ValueError
        if isinstance(error, NncError):
            raise
        raise ModelError(f"{opened.path}: no memory for {opened.n_bytes} bytes ({error})") from None


def decode_batch(batch: list[UnitDecoding], threads: int | None) -> None:
    """Decode units together."""
    calls = decoding_of(batch, threads)
    with stage("decode"):
        finish(calls)


def decoding_of(
    batch: list[UnitDecoding], threads: int | None, finished: Array | None = None, *, shared: bool = False
) -> KernelCalls[None]:
    """What decodes units together, with all done before that can be. `finished`, `shared`: as in `PayloadDecoding`."""
    with stage("decode"), naming_unit(batch[0].opened):
        jobs = [item.job for item in batch if item.job is not None]
        payloads = PayloadDecoding(jobs, threads, finished=finished, shared=shared)

    def calls() -> KernelCalls[None]:
        with naming_unit(batch[0].opened):
            yield from payloads.calls()
            yield from _decode_float_pieces([item for item in batch if item.pieces is not None], threads)

    return calls()


def compose(item: UnitDecoding, *, parts: bool = False) -> list[Decoded]:
    """The tensors of a unit that is decoded."""
    with stage("compose", item.opened.path), naming_unit(item.opened):
        composed = compose_unit(item.opened, item.results(), parts=parts)
    return [Decoded(part, storage, item.opened) for part, storage in composed]


def _decode_float_pieces(batch: list[UnitDecoding], threads: int | None) -> KernelCalls[None]:
    """Decode the tensors of a batch that are in pieces."""
    faults = yield from decode_float_pieces([item.pieces for item in batch if item.pieces is not None], threads)
    for item, fault in zip(batch, faults, strict=True):
        if fault is not None:
            raise item.opened.error(str(fault))
