"""The steps of coding a short layer that no other kernel does: setting its records to the start, and what precedes its
elements, the choices and their codes (spec, sections 5 and 12).

The wrapper is `cabac/short_layers.py`. For layers that are simulated whole, this does what
`context_initialisation.cheapest` and `layer_header.header_codes` do.
"""

from nncjit.cabac.encoder_records import (
    BYPASS,
    LIST_END,
    TOTAL,
    view_binariser,
    view_interval,
    view_run,
    view_sample,
    view_short_layer,
    view_simulation,
)
from nncjit.cabac.tables import INITIALISATION_COUNT
from nncjit.jit import helper, kernel, load_i64, load_u32, store_16, store_32, zero_bytes

TOTAL_BYTES = TOTAL.itemsize


@helper
def _cheapest(costs, places, choice_cost):
    """The cheapest initialisation, the first of equals. `costs` is int64[9], that of initialisation i at places[i]."""
    best, least = 0, load_i64(costs, load_i64(places, 0))
    for i in range(1, INITIALISATION_COUNT):
        cost = load_i64(costs, load_i64(places, i)) + choice_cost
        if cost < least:
            best, least = i, cost
    return best


@helper
def _to_start(binariser):
    """Set what moves in a BINARISER to the start of a layer."""
    binariser.previous = binariser.state = binariser.faults = 0


@kernel
def begin(layer, levels, base, history, size, limit):
    """Set the records of a short layer to its start.

    layer   : address of a SHORT_LAYER
    levels  : address of int32[size]
    base    : address of int32[size], the base levels, or 0
    history : address of int8[size], or 0
    size    : int
    limit   : int     that of the simulation
    """
    work = view_short_layer(layer)
    binariser, simulation, run = view_binariser(work.binariser), view_simulation(work.simulation), view_run(work.run)
    binariser.levels, binariser.base_levels, binariser.history = levels, base, history
    _to_start(binariser)
    zero_bytes(work.totals, TOTAL_BYTES * work.n_contexts)
    simulation.limit, simulation.index = limit, 0
    view_sample(simulation.samples).stop = size
    run.interval = run.index = run.waiting = 0
    view_interval(run.intervals).stop = size


@kernel
def choose(layer, simulated):
    """Choose the context initialisations of a layer; returns the number of codes that say them.

    layer     : address of a SHORT_LAYER
    simulated : 1: the cheapest by the totals of the simulation; 0: all are 0

    Fills the list of codes, and the contexts as they are at the first element; the binariser is there, too.
    """
    work = view_short_layer(layer)
    _to_start(view_binariser(work.binariser))
    totals, contexts = work.totals, work.contexts
    signalled, places, words = work.signalled, work.places, work.initial_words
    for k in range(work.n_contexts):
        store_32(contexts, k, load_u32(words, 0))
    codes = work.codes
    if work.flag_code:
        store_16(codes, 0, work.flag_code)
        codes += 2
    for k in range(work.n_signalled):
        context = load_i64(signalled, k)
        best = _cheapest(totals + TOTAL_BYTES * context, places, work.choice_cost) if simulated else 0
        store_32(contexts, context, load_u32(words, best))
        store_16(codes, 0, 2 * work.select + (1 if best else 0))
        codes += 2
        if best:
            store_16(codes, 0, BYPASS | 3 << 11 | best - 1)
            codes += 2
    store_32(codes, 0, LIST_END)
    return (codes - work.codes) >> 1
