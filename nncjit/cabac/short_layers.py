"""Coding short layers without codebook: with few objects, in memory that is kept.

A model can have thousands of tiny tensors. To prepare a layer of some hundred levels as `encoder_input` does takes
longer than to code it, so a thread keeps what does not depend on the levels, and three calls of kernels do the rest.
Payloads that hold nothing but such a layer are coded by one call, however many there are. The bytes are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import lane_encoder
from nncjit.cabac import short_layer_kernels as kernels
from nncjit.cabac import short_payload_kernels as payload_kernels
from nncjit.cabac.arithmetic_encoder import ArithmeticEncoder
from nncjit.cabac.context_initialisation import (
    BY_INITIALISATION,
    CHOICE_COST,
    LIMIT,
    SAMPLED_BINS,
    Selection,
    blank_simulation,
)
from nncjit.cabac.context_initialisation_kernels import simulate
from nncjit.cabac.encoder_input import check_faults, with_codes
from nncjit.cabac.encoder_records import (
    BYPASS,
    CANDIDATES,
    ENCODER,
    INTERVAL,
    RUN,
    SAMPLE,
    SHORT_LAYER,
    TOTAL,
    UNBOUNDED,
    VECTOR_CANDIDATES,
)
from nncjit.cabac.encoder_tables import TABLES, blank_binariser
from nncjit.cabac.layer import Contexts, Layer, contexts_of
from nncjit.cabac.tables import INITIAL_WORDS
from nncjit.cabac.vector_simulation_kernels import simulate_in_vectors
from nncjit.jit import CompiledLater, Table, address
from nncjit.stages import staged

Array = NDArray[Any]

MOST_LEVELS = 1 << 13
"""Of a short layer."""
MOST_KEPT = 16
"""Kinds of layers for which a thread keeps memory."""
LEVEL_BYTES, SPARE_BYTES = 4, 1 << 17
"""Output for many payloads: what a level hardly ever takes, and what `write_codes` wants to be free beside it."""
WORTH_COMPILING = 1 << 15
"""Payloads whose coding in one call saves as much time as it takes to compile it."""

_kept = threading.local()
PAYLOADS_KERNEL = CompiledLater(payload_kernels.encode_payloads, WORTH_COMPILING)


class ShortUnit(NamedTuple):
    """A payload that consists of a number and a short layer."""

    levels: Array
    """int32[layer.size], in coding order."""
    layer: Layer
    """One that `fits_together` takes."""
    number: int = 0
    """In the range of so many bits as there are for it."""
    base: Array | None = None
    """int32[layer.size], the base levels in coding order, where `layer.temporal`."""
    history: Array | None = None
    """int8[layer.size] or uint8[layer.size], 1 where an earlier update was not zero: hdsp_flag is then 1. Without
    effect on layers that have no flag for it.
    """


class CodedShortUnit(NamedTuple):
    """What came of a `ShortUnit`."""

    payload: bytes
    bits: int
    """Of the layer alone."""


def is_short(layer: Layer, selection: Selection) -> bool:
    """Whether a layer whose rows are all coded is coded here, without a sample."""
    few = 0 < layer.size <= MOST_LEVELS and layer.size * (1 + layer.unary_length) <= SAMPLED_BINS
    return few and selection != "reference" and not (layer.restarts or layer.codebook_size)


def fits_together(layer: Layer, selection: Selection) -> bool:
    """Whether a layer can be part of a `ShortUnit`: a short one whose levels lie row by row where rows matter."""
    by_rows = not (layer.scan and layer.has_row_flags) or layer.width <= layer.block_side
    return by_rows and is_short(layer, selection)


def write_short_layer(
    encoder: ArithmeticEncoder,
    levels: Array,
    layer: Layer,
    selection: Selection,
    base: Array | None = None,
    history: Array | None = None,
) -> int:
    """Code a layer with an encoder; arrays as those of a `ShortUnit`. Returns the `faults` of the binariser."""
    memory = _memory_for(layer, hdsp=history is not None)
    return memory.write(encoder, levels, base if layer.temporal else None, history, selection)


@staged("code")
def code_short_units(units: Sequence[ShortUnit], number_bits: int, selection: Selection) -> list[CodedShortUnit | None]:
    """Code payloads that consist of a number and a short layer each, as `PayloadEncoder` does.

    Parameters
    ----------
    units : sequence of ShortUnit
        Of any kinds; each kind is one call of a kernel.
    number_bits : int
        Of the numbers: 6 to 13, as qp_delta has, or 0 for none.
    selection : "none", "fast" or "exact"

    Returns
    -------
    list of CodedShortUnit or None
        None where rows of zeros might be left out of a layer, which `PayloadEncoder` decides.

    Raises
    ------
    OptionError
        A level is beyond `MAX_LEVEL`, or does not fit the quantiser's state.
    """
    kinds: dict[_Kind, list[int]] = {}
    for k, unit in enumerate(units):
        kinds.setdefault(_kind(unit.layer, hdsp=unit.history is not None), []).append(k)
    found: list[CodedShortUnit | None] = [None] * len(units)
    for places in kinds.values():
        alike = [units[k] for k in places]
        memory = _memory_for(alike[0].layer, hdsp=alike[0].history is not None)
        for k, coded in zip(places, memory.payloads(alike, number_bits, selection), strict=True):
            found[k] = coded
    return found


_Kind = tuple[int, ...]


def _kind(layer: Layer, *, hdsp: bool) -> _Kind:
    """What short layers must have in common to be coded in the same memory."""
    flags, temporal = layer.has_row_flags, layer.temporal
    return layer.unary_length, layer.dq, layer.profile, flags, temporal, flags and layer.parent, flags and hdsp


def _memory_for(layer: Layer, *, hdsp: bool) -> _ShortLayers:
    """The calling thread's memory for layers like this one."""
    key = _kind(layer, hdsp=hdsp)
    kinds: dict[_Kind, _ShortLayers] = _kept.__dict__.setdefault("kinds", {})
    found = kinds.pop(key, None)
    if found is None:
        found = _ShortLayers(layer, hdsp=hdsp and layer.has_row_flags)
        while len(kinds) >= MOST_KEPT:
            del kinds[next(iter(kinds))]  # the one not used for longest
    kinds[key] = found
    return found


class _ShortLayers:
    """Records and arrays for short layers of one kind, one after another."""

    def __init__(self, layer: Layer, *, hdsp: bool) -> None:
        at = Contexts.for_unary_length(layer.unary_length)
        self._temporal, self._hdsp = bool(layer.temporal), hdsp
        self._binariser = with_codes(blank_binariser(layer.unary_length, layer.dq).copy(), MOST_LEVELS)
        self._binariser.records["tabled"] = not (self._temporal or hdsp)
        self._run = Table(np.zeros(1, RUN))
        self._simulation, self._layer = blank_simulation(reference=False).copy(), Table(np.zeros(1, SHORT_LAYER))
        self._contexts = np.zeros(at.total, np.uint32)
        totals, sample = np.zeros(at.total, TOTAL), np.zeros(1, SAMPLE)
        sample["weight"] = 256
        signalled = contexts_of(layer, hdsp)

        simulation = self._simulation
        record = simulation.records[0]
        record["samples"], record["n_samples"] = simulation.keep(sample, writes=True), 1
        record["candidates"] = simulation.keep(np.zeros(at.total, CANDIDATES), writes=True)
        record["vectors"] = simulation.keep(np.zeros(at.total, VECTOR_CANDIDATES), writes=True)
        record["totals"] = simulation.keep(totals, writes=True)

        short = self._layer
        record = short.records[0]
        record["totals"], record["n_contexts"], record["select"] = short.keep(totals, writes=True), at.total, at.select
        record["contexts"] = short.keep(self._contexts, writes=True)
        record["signalled"], record["n_signalled"] = short.keep(signalled), len(signalled)
        record["places"], record["choice_cost"] = short.keep(BY_INITIALISATION), CHOICE_COST
        record["initial_words"] = short.keep(INITIAL_WORDS)
        record["codes"] = self._codes = short.keep(np.zeros(2 * len(signalled) + 3, np.uint16), writes=True)
        record["flag_code"] = _flag_code(layer, hdsp=hdsp)

        run = self._run.records[0]
        run["intervals"], run["stop_interval"] = self._run.keep(np.zeros(1, INTERVAL), writes=True), 1
        for name, table in (("binariser", self._binariser), ("simulation", simulation), ("run", self._run)):
            short.records[0][name] = table.address
        self._faults = self._binariser.records["faults"]

        self._encoder = Table(np.zeros(1, ENCODER))
        encoder = self._encoder.records[0]
        encoder["tables"], encoder["contexts"] = self._encoder.keep(TABLES), record["contexts"]

    def write(
        self,
        encoder: ArithmeticEncoder,
        levels: Array,
        base: Array | None,
        history: Array | None,
        selection: Selection,
    ) -> int:
        """See `write_short_layer`."""
        short = self._layer.address
        at_base = 0 if base is None else address(base)
        at_history = address(history) if self._hdsp and history is not None else 0
        kernels.begin(short, address(levels), at_base, at_history, levels.size, _limit(selection))
        if selection != "none":
            run = simulate_in_vectors if lane_encoder.lanes_here() else simulate
            run(self._simulation.address, self._binariser.address)
        count = kernels.choose(short, int(selection != "none"))
        encoder.use_contexts(self._contexts)
        encoder.write_list(self._codes, count)
        encoder.write_intervals(self._run, self._binariser)
        return int(self._faults[0])

    def payloads(self, units: list[ShortUnit], number_bits: int, selection: Selection) -> list[CodedShortUnit | None]:
        """See `code_short_units`."""
        batch = Table(np.zeros(1, payload_kernels.SHORT_PAYLOADS))
        payloads = np.zeros(len(units), payload_kernels.SHORT_PAYLOAD)
        sizes = payloads["n_levels"]
        sizes[:], payloads["number"] = [len(unit.levels) for unit in units], [unit.number for unit in units]
        first = np.cumsum(sizes) - sizes
        payloads["levels"] = batch.keep(np.concatenate([unit.levels for unit in units])) + 4 * first
        if self._temporal:
            payloads["base_levels"] = batch.keep(np.concatenate([_given(unit.base) for unit in units])) + 4 * first
        if self._hdsp:
            payloads["history"] = batch.keep(np.concatenate([_given(unit.history) for unit in units])) + first
        if units[0].layer.has_row_flags:
            payloads["row"] = [unit.layer.width for unit in units]
        record = batch.records[0]
        record["payloads"], record["count"] = batch.keep(payloads, writes=True), len(payloads)
        record["layer"], record["encoder"] = self._layer.address, self._encoder.address
        record["number_bits"], record["limit"] = number_bits, _limit(selection)
        simulated = payload_kernels.IN_VECTORS if lane_encoder.lanes_here() else payload_kernels.SIMULATED
        record["selection"] = payload_kernels.FIRST_OF_ALL if selection == "none" else simulated
        coded: list[bytes] = []
        room = LEVEL_BYTES * int(sizes.sum()) + SPARE_BYTES
        while len(coded) < len(payloads):
            output = np.empty(room, np.uint8)
            record["output"], record["capacity"] = address(output, writes=True), room
            begun = len(coded)
            done = payload_kernels.encode_payloads(batch.address, begun)
            stops = [0, *payloads["stop"][begun:done].tolist()]
            coded += [output[start:stop].tobytes() for start, stop in pairwise(stops)]
            room *= 2
        for k in np.flatnonzero(payloads["faults"]).tolist():
            check_faults(int(payloads["faults"][k]), units[k].levels, units[k].layer)
        bits = payloads["bits"].tolist()
        return [CodedShortUnit(found, n) if n else None for found, n in zip(coded, bits, strict=True)]


def _flag_code(layer: Layer, *, hdsp: bool) -> int:
    """The code of hdsp_flag and row_skip_flag 0; 0 for a layer without flags."""
    if not layer.has_row_flags:
        return 0
    return BYPASS | 2 << 11 | int(hdsp) << 1 if layer.parent else BYPASS | 1 << 11


def _given(array: Array | None) -> Array:
    """An array that must be there."""
    assert array is not None
    return array


def _limit(selection: Selection) -> int:
    """Of the simulation."""
    return LIMIT if selection == "fast" else UNBOUNDED
