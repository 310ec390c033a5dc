"""Coding short layers without parent and codebook: with few objects, in memory that is kept.

A model can have thousands of vectors. To prepare a layer of some hundred levels as `encoder_input` does takes longer
than to code it, so a thread keeps what does not depend on the levels, and three calls of kernels do the rest. Payloads
that hold nothing but such a layer are coded by one call, however many there are. The bytes are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

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
from nncjit.cabac.encoder_input import with_codes
from nncjit.cabac.encoder_records import (
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


def is_short(layer: Layer, selection: Selection) -> bool:
    """Whether a layer whose rows are all coded is coded here, without a sample."""
    few = 0 < layer.size <= MOST_LEVELS and layer.size * (1 + layer.unary_length) <= SAMPLED_BINS
    return few and selection != "reference" and not (layer.restarts or layer.codebook_size or layer.parent)


def write_short_layer(encoder: ArithmeticEncoder, levels: Array, layer: Layer, selection: Selection) -> int:
    """Code a layer, int32[layer.size] in coding order, with an encoder. Returns the `faults` of the binariser."""
    return _memory_for(layer).write(encoder, levels, selection)


@staged("code")
def code_short_payloads(
    levels: Sequence[Array], layer: Layer, numbers: Sequence[int], number_bits: int, selection: Selection
) -> list[bytes]:
    """Payloads that consist of a number and a short layer each, as `PayloadEncoder` makes them.

    Parameters
    ----------
    levels : sequence of int32[n]
        Of layers that `is_short` takes; at most `MAX_LEVEL` in magnitude.
    layer : Layer
        One of them: they differ in the number of rows alone, and have no quantiser states.
    numbers : sequence of int
        In the range of so many bits.
    number_bits : int
        6 to 13, as qp_delta has.
    selection : "none", "fast" or "exact"
    """
    return _memory_for(layer).payloads(levels, numbers, number_bits, selection)


def _memory_for(layer: Layer) -> _ShortLayer:
    """The calling thread's memory for layers like this one."""
    key = layer.unary_length, layer.dq, layer.profile, layer.has_row_flags
    kinds: dict[tuple[int | bool, ...], _ShortLayer] = _kept.__dict__.setdefault("kinds", {})
    found = kinds.pop(key, None)
    if found is None:
        found = _ShortLayer(layer)
        while len(kinds) >= MOST_KEPT:
            del kinds[next(iter(kinds))]  # the one not used for longest
    kinds[key] = found
    return found


class _ShortLayer:
    """Records and arrays for short layers of one kind, one after another."""

    def __init__(self, layer: Layer) -> None:
        at = Contexts.for_unary_length(layer.unary_length)
        self._binariser = with_codes(blank_binariser(layer.unary_length, layer.dq).copy(), MOST_LEVELS)
        self._run = Table(np.zeros(1, RUN))
        self._simulation, self._layer = blank_simulation(reference=False).copy(), Table(np.zeros(1, SHORT_LAYER))
        self._contexts = np.zeros(at.total, np.uint32)
        totals, sample = np.zeros(at.total, TOTAL), np.zeros(1, SAMPLE)
        sample["weight"] = 256
        signalled = contexts_of(layer, hdsp=False)

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
        record["has_row_flags"] = layer.has_row_flags

        run = self._run.records[0]
        run["intervals"], run["stop_interval"] = self._run.keep(np.zeros(1, INTERVAL), writes=True), 1
        for name, table in (("binariser", self._binariser), ("simulation", simulation), ("run", self._run)):
            short.records[0][name] = table.address
        self._faults = self._binariser.records["faults"]

        self._encoder = Table(np.zeros(1, ENCODER))
        encoder = self._encoder.records[0]
        encoder["tables"], encoder["contexts"] = self._encoder.keep(TABLES), record["contexts"]

    def write(self, encoder: ArithmeticEncoder, levels: Array, selection: Selection) -> int:
        """See `write_short_layer`."""
        short = self._layer.address
        kernels.begin(short, address(levels), levels.size, _limit(selection))
        if selection != "none":
            run = simulate_in_vectors if lane_encoder.lanes_here() else simulate
            run(self._simulation.address, self._binariser.address)
        count = kernels.choose(short, int(selection != "none"))
        encoder.use_contexts(self._contexts)
        encoder.write_list(self._codes, count)
        encoder.write_intervals(self._run, self._binariser)
        return int(self._faults[0])

    def payloads(
        self, levels: Sequence[Array], numbers: Sequence[int], number_bits: int, selection: Selection
    ) -> list[bytes]:
        """See `code_short_payloads`."""
        batch = Table(np.zeros(1, payload_kernels.SHORT_PAYLOADS))
        payloads = np.zeros(len(levels), payload_kernels.SHORT_PAYLOAD)
        sizes = payloads["n_levels"]
        sizes[:], payloads["number"] = [len(part) for part in levels], numbers
        payloads["levels"] = batch.keep(np.concatenate(levels)) + 4 * (np.cumsum(sizes) - sizes)
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
            first = len(coded)
            done = payload_kernels.encode_payloads(batch.address, first)
            stops = [0, *payloads["stop"][first:done].tolist()]
            coded += [output[start:stop].tobytes() for start, stop in pairwise(stops)]
            room *= 2
        return coded


def _limit(selection: Selection) -> int:
    """Of the simulation."""
    return LIMIT if selection == "fast" else UNBOUNDED
