"""The two entries to decoding: headers of layers, and a worker that shares a table of segments (spec, section 5).

`cabac/payload_decoder.py` fills the tables, whose records `stream_kernels.py` describes, and explains their faults.
"""

from nncjit.cabac.arithmetic_decoder_kernels import (
    BITS,
    DATA,
    MODEL,
    MODELS,
    STARTS,
    V_BIT,
    bits_read,
    bypass,
    decode_rare_bin,
    enter,
    set_model,
)
from nncjit.cabac.pair_decoder_kernels import ENTRIES, ORIGINAL, SPACE_SIZE, lone_chunk, pair_chunk
from nncjit.cabac.segment_decoder_kernels import (
    CHUNK,
    FAULT,
    FINE,
    FIRST_MODELS,
    HDSP,
    L_BIT,
    L_DATA,
    L_SPAN,
    L_VALUE,
    LAYER,
    LAYER_FIELDS,
    LISTED,
    LISTED_HDSP,
    MACHINE,
    N_LISTED,
    N_LISTED_HDSP,
    N_MACHINE,
    N_MODELS,
    NODE,
    PARENT,
    QP_BITS,
    QP_DELTA,
    ROW_FLAGS,
    ROWS,
    SEGMENT,
    SEGMENT_FIELDS,
    SKIPPED,
    SKIPS,
    STEPPED,
    TRUNCATED,
    open_segment,
    solo_chunk,
)
from nncjit.jit import atomic_add, copy_bytes, helper, kernel, load_i64, load_u32, store_8, store_64

SPACES, LAYERS, SEGMENTS, N_SINGLE, N_ALL, TAKEN_SINGLE, TAKEN_PAIRED, WORKERS, WORK_FIELDS = range(9)
"""Slots of the work that `decode_share` gets: addresses of two workspaces for each worker, of the table of layers and
of the table of segments; how many segments are to be decoded one at a time, they come first, and how many there are at
all; how many of the former and of all have been taken (at the start 0 and N_SINGLE); the number of workers."""


@kernel
def open_layers(space, layers, count):
    """Read what stands before the elements: qp_delta, flags, skipped rows, starts of models. Spec, section 5.

    space  : address of a workspace
    layers : address of the first of `count` records; L_SPAN, L_VALUE, L_BIT go in and out; FAULT, QP_DELTA, HDSP, SKIPS
             out; the array FIRST_MODELS gets the models as they start, SKIPPED a byte a row
    """
    for n in range(count):
        layer = layers + 8 * LAYER_FIELDS * n
        for k in range(4):
            store_64(space, DATA + k, load_i64(layer, L_DATA + k))
        span, window = load_i64(layer, L_SPAN), enter(space, load_i64(layer, L_VALUE), load_i64(layer, L_BIT))
        n_bits = load_i64(layer, QP_BITS)
        if n_bits > 0:
            number, window = bypass(space, n_bits, span, window)
            store_64(layer, QP_DELTA, number - ((number >> (n_bits - 1)) << n_bits))
        hdsp, skips = 0, 0
        if load_i64(layer, ROW_FLAGS):
            hdsp, window = bypass(space, load_i64(layer, PARENT), span, window)
            skips, window = bypass(space, 1, span, window)
        models, n_models = space + MODELS, load_i64(layer, N_MODELS)
        for k in range(n_models):
            set_model(space, models + MODEL * k, load_u32(space, STARTS))
        row_model = models + MODEL * (n_models - 1)
        select_model = row_model - MODEL
        if skips:
            skipped = load_i64(layer, SKIPPED)
            for row in range(load_i64(layer, ROWS)):
                bin, span, window = decode_rare_bin(space, row_model, span, window)
                store_8(skipped, row, bin)
        listed = load_i64(layer, LISTED_HDSP if hdsp else LISTED)
        for k in range(load_i64(layer, N_LISTED_HDSP if hdsp else N_LISTED)):
            bin, span, window = decode_rare_bin(space, select_model, span, window)
            if bin:
                start, window = bypass(space, 3, span, window)
                set_model(space, models + MODEL * load_i64(listed, k), load_u32(space, STARTS + 1 + start))
        copy_bytes(load_i64(layer, FIRST_MODELS), models, MODEL * n_models)
        bit = bits_read(space, window)
        store_64(layer, HDSP, hdsp)
        store_64(layer, SKIPS, skips)
        store_64(layer, L_SPAN, span)
        store_64(layer, L_VALUE, window >> V_BIT)
        store_64(layer, L_BIT, bit)
        store_64(layer, FAULT, TRUNCATED if bit > load_i64(space, BITS) else FINE)


@helper
def take(space, work, taken, stop):
    """Let an idle stream open the next segment below `stop` that nobody has taken; `taken` is the slot that counts."""
    while load_i64(space, SEGMENT) == 0:
        k = atomic_add(work + 8 * taken, 1)
        if k >= stop:
            break
        segment = load_i64(work, SEGMENTS) + 8 * SEGMENT_FIELDS * k
        layer = load_i64(work, LAYERS) + 8 * LAYER_FIELDS * load_i64(segment, LAYER)
        open_segment(space, layer, segment)
        machine = load_i64(layer, MACHINE)
        if machine != load_i64(space, ORIGINAL):
            copy_bytes(space + 8 * ENTRIES, machine, 8 * load_i64(layer, N_MACHINE))
            store_64(space, ORIGINAL, machine)


@kernel
def decode_share(work, worker):
    """Take segments and decode them until none is left.

    work   : address of int64[WORK_FIELDS]
    worker : which one this is
    """
    n_single, n_all, workers = load_i64(work, N_SINGLE), load_i64(work, N_ALL), load_i64(work, WORKERS)
    a = load_i64(work, SPACES) + 16 * SPACE_SIZE * worker
    b = a + 8 * SPACE_SIZE
    while True:
        take(a, work, TAKEN_SINGLE, n_single)
        if load_i64(a, SEGMENT) == 0:
            break
        while load_i64(a, SEGMENT):
            solo_chunk(a)
    while True:
        take(a, work, TAKEN_PAIRED, n_all)
        taken = load_i64(work, TAKEN_PAIRED)
        if taken >= n_single + workers or n_all - taken > workers:  # no second one before each worker has a first
            take(b, work, TAKEN_PAIRED, n_all)
        alone = a if load_i64(a, SEGMENT) else b
        if load_i64(alone, SEGMENT) == 0:
            break
        if load_i64(a, SEGMENT) and load_i64(b, SEGMENT):
            pair_chunk(a, b)
        elif load_i64(load_i64(alone, SEGMENT), STEPPED):
            lone_chunk(alone, CHUNK)
        elif load_i64(alone, NODE) >= 0:
            lone_chunk(alone, 1)
        else:
            solo_chunk(alone)
