"""Many payloads in one call, each of a number and a short layer: those of a model's tiny tensors.

The wrapper is `cabac/short_layers.py`. For each payload this does what `PayloadEncoder` does, in the same memory.
"""

import numpy as np

from nncjit.cabac.arithmetic_encoder_kernels import LAST_BYTES, encode_intervals, finish, write_codes
from nncjit.cabac.context_initialisation_kernels import simulate
from nncjit.cabac.encoder_records import INITIAL_RANGE, view_binariser, view_encoder, view_short_layer
from nncjit.cabac.short_layer_kernels import begin, choose
from nncjit.cabac.vector_simulation_kernels import simulate_in_vectors
from nncjit.jit import helper, kernel, load_i32, record_view

FIRST_OF_ALL, SIMULATED, IN_VECTORS = range(3)
"""How the contexts' initialisations are chosen: the first one for all, or by a simulation, with vectors or without."""

SHORT_PAYLOAD = np.dtype(
    [
        ("levels", "i8"),  # int32[n_levels]
        ("base_levels", "i8"),  # int32[n_levels], or 0
        ("history", "i8"),  # int8[n_levels], or 0
        ("n_levels", "i8"),
        ("row", "i8"),  # levels of a row, a payload with a row of zeros being left out; 0: rows do not matter
        ("number", "i8"),  # signed
        ("stop", "i8"),  # written: where it ends in the output
        ("bits", "i8"),  # written: those of the layer, 0 where it is left out
        ("faults", "i8"),  # written: those of the binariser
    ]
)
"""A payload: a number and the levels of a layer."""

SHORT_PAYLOADS = np.dtype(
    [
        ("payloads", "i8"),  # SHORT_PAYLOAD[count]
        ("count", "i8"),
        ("number_bits", "i8"),  # of each number, at most 22
        ("layer", "i8"),  # SHORT_LAYER
        ("selection", "i8"),
        ("limit", "i8"),  # that of the simulation
        ("encoder", "i8"),  # ENCODER, with the contexts of the layer
        ("output", "i8"),  # uint8[capacity], the payloads one behind the other
        ("capacity", "i8"),
    ]
)

PAYLOAD_BYTES = SHORT_PAYLOAD.itemsize
_payload_at, _payloads_at = record_view(SHORT_PAYLOAD), record_view(SHORT_PAYLOADS)


@helper
def _has_zero_row(levels, n_levels, row):
    """Whether all levels of a row are zero; rows follow each other."""
    for start in range(0, n_levels - row + 1, row):
        seen = 0
        for i in range(start, start + row):
            seen |= load_i32(levels, i)
        if seen == 0:
            return True
    return False


@helper
def _encode_payload(batch, payload):
    """Code one payload to the output of the encoder; returns its size, 0 where the output is too small."""
    coder, layer = view_encoder(batch.encoder), view_short_layer(batch.layer)
    coder.position, coder.range, coder.pending = 0, INITIAL_RANGE, batch.number_bits
    coder.low = INITIAL_RANGE * (payload.number & ((1 << batch.number_bits) - 1))  # as many bypass bins
    begin(batch.layer, payload.levels, payload.base_levels, payload.history, payload.n_levels, batch.limit)
    if batch.selection == IN_VECTORS:
        simulate_in_vectors(layer.simulation, layer.binariser)
    elif batch.selection == SIMULATED:
        simulate(layer.simulation, layer.binariser)
    count = choose(batch.layer, 0 if batch.selection == FIRST_OF_ALL else 1)
    if not write_codes(batch.encoder, layer.codes, count, np.int64(0)):
        return 0
    if not encode_intervals(layer.run, layer.binariser, batch.encoder):
        return 0
    payload.bits = 8 * coder.position + coder.pending - batch.number_bits
    payload.faults = view_binariser(layer.binariser).faults
    if coder.position + LAST_BYTES > coder.capacity:
        return 0
    return finish(batch.encoder)


@kernel
def encode_payloads(batch, first):
    """Code payloads from number `first` on; returns the number of the one that the output is too small for, or `count`.

    batch : address of SHORT_PAYLOADS
    first : int
    """
    work = _payloads_at(batch)
    coder, written = view_encoder(work.encoder), 0
    for k in range(first, work.count):
        coder.output, coder.capacity = work.output + written, work.capacity - written
        payload = _payload_at(work.payloads + PAYLOAD_BYTES * k)
        if payload.row == 0 or not _has_zero_row(payload.levels, payload.n_levels, payload.row):
            size = _encode_payload(work, payload)
            if size == 0:
                return k
            written += size
        payload.stop = written
    return work.count
