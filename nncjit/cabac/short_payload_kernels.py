"""Many payloads in one call, each of a number and a short layer: those of a model's vectors.

The wrapper is `cabac/short_layers.py`. For each payload this does what `PayloadEncoder` does, in the same memory.
"""

import numpy as np

from nncjit.cabac.arithmetic_encoder_kernels import LAST_BYTES, encode_intervals, finish, write_codes
from nncjit.cabac.context_initialisation_kernels import simulate
from nncjit.cabac.encoder_records import INITIAL_RANGE, view_encoder, view_short_layer
from nncjit.cabac.short_layer_kernels import begin, choose
from nncjit.cabac.vector_simulation_kernels import simulate_in_vectors
from nncjit.jit import helper, kernel, record_view

FIRST_OF_ALL, SIMULATED, IN_VECTORS = range(3)
"""How the contexts' initialisations are chosen: the first one for all, or by a simulation, with vectors or without."""

SHORT_PAYLOAD = np.dtype([("levels", "i8"), ("n_levels", "i8"), ("number", "i8"), ("stop", "i8")])
"""A payload: a signed number and the levels, int32[n_levels]; `stop` is written, where it ends in the output."""

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
def _encode_payload(batch, payload):
    """Code one payload to the output of the encoder; returns its size, 0 where the output is too small."""
    coder, layer = view_encoder(batch.encoder), view_short_layer(batch.layer)
    coder.position, coder.range, coder.pending = 0, INITIAL_RANGE, batch.number_bits
    coder.low = INITIAL_RANGE * (payload.number & ((1 << batch.number_bits) - 1))  # as many bypass bins
    begin(batch.layer, payload.levels, payload.n_levels, batch.limit)
    if batch.selection == IN_VECTORS:
        simulate_in_vectors(layer.simulation, layer.binariser)
    elif batch.selection == SIMULATED:
        simulate(layer.simulation, layer.binariser)
    count = choose(batch.layer, 0 if batch.selection == FIRST_OF_ALL else 1)
    if not write_codes(batch.encoder, layer.codes, count, np.int64(0)):
        return 0
    if not encode_intervals(layer.run, layer.binariser, batch.encoder):
        return 0
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
        size = _encode_payload(work, payload)
        if size == 0:
            return k
        written += size
        payload.stop = written
    return work.count
