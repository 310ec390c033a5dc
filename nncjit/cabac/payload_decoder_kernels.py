"""The two entries to decoding: headers of layers, and a worker that shares a table of segments (spec, section 5).

`cabac/payload_decoder.py` fills the records (`decoder_records.py`) and explains their faults.
"""

from nncjit.cabac.arithmetic_decoder_kernels import (
    CONTEXT_SIZE,
    CONTEXTS,
    INITIAL_WORDS,
    V_BIT,
    bits_read,
    bypass,
    decode_rare_bin,
    enter,
    set_context,
)
from nncjit.cabac.decoder_records import (
    CHUNK,
    FINE,
    LAYER,
    SEGMENT,
    STREAM,
    TRUNCATED,
    WORK,
    layer_at,
    segment_at,
    stream_at,
    work_at,
)
from nncjit.cabac.lane_handover_kernels import resume_segment
from nncjit.cabac.pair_decoder_kernels import ENTRIES, lone_chunk, pair_chunk
from nncjit.cabac.segment_decoder_kernels import open_segment, solo_chunk
from nncjit.jit import atomic_add, copy_bytes, field_offset, helper, kernel, load_i64, load_u32, store_8

LAYER_SIZE, SEGMENT_SIZE, STREAM_SIZE = LAYER.itemsize, SEGMENT.itemsize, STREAM.itemsize
TAKEN_SINGLE, TAKEN_PAIRED = field_offset(WORK, "taken_single"), field_offset(WORK, "taken_paired")


@kernel
def read_headers(space, layers, count):
    """Read the headers of layers: qp_delta, flags, skipped rows, context initialisation. Spec, section 5.

    space  : address of a stream
    layers : address of LAYER[count]; `range_`, `value`, `bit` go in and out; `fault`, `qp_delta`, `hdsp`, `n_skipped`,
             and the arrays `contexts` and `skipped` are filled
    """
    stream = stream_at(space)
    contexts = space + CONTEXTS
    for n in range(count):
        layer = layer_at(layers + LAYER_SIZE * n)
        stream.words, stream.n_words = layer.words, layer.n_words
        stream.last_word, stream.n_bits = layer.last_word, layer.n_bits
        range_, window = layer.range_, enter(space, layer.value, layer.bit)
        n_bits = layer.qp_bits
        if n_bits > 0:
            number, window = bypass(space, n_bits, range_, window)
            layer.qp_delta = number - ((number >> (n_bits - 1)) << n_bits)
        hdsp, has_skips, n_skipped = 0, 0, 0
        if layer.has_row_flags:
            hdsp, window = bypass(space, layer.parent, range_, window)
            has_skips, window = bypass(space, 1, range_, window)
        for k in range(layer.n_contexts):
            set_context(space, contexts + CONTEXT_SIZE * k, load_u32(space, INITIAL_WORDS))
        row_context = contexts + CONTEXT_SIZE * (layer.n_contexts - 1)
        select_context = row_context - CONTEXT_SIZE
        if has_skips:
            for row in range(layer.rows):
                bin, range_, window = decode_rare_bin(space, row_context, range_, window)
                store_8(layer.skipped, row, bin)
                n_skipped += bin
        signalled = layer.signalled_hdsp if hdsp else layer.signalled
        for k in range(layer.n_signalled_hdsp if hdsp else layer.n_signalled):
            bin, range_, window = decode_rare_bin(space, select_context, range_, window)
            if bin:
                choice, window = bypass(space, 3, range_, window)
                context = contexts + CONTEXT_SIZE * load_i64(signalled, k)
                set_context(space, context, load_u32(space, INITIAL_WORDS + 1 + choice))
        copy_bytes(layer.contexts, contexts, CONTEXT_SIZE * layer.n_contexts)
        layer.hdsp = hdsp
        layer.n_skipped = n_skipped
        layer.range_ = range_
        layer.value = window >> V_BIT
        layer.bit = bits_read(space, window)
        layer.fault = TRUNCATED if layer.bit > stream.n_bits else FINE


@helper
def take(space, work_address, taken, stop):
    """Let an idle stream open the next segment below `stop` that nobody has taken; `taken` is the offset of the field
    that counts.
    """
    stream, work = stream_at(space), work_at(work_address)
    while stream.segment == 0:
        k = atomic_add(work_address + taken, 1)
        if k >= stop:
            break
        segment_address = work.segments + SEGMENT_SIZE * k
        layer_address = work.layers + LAYER_SIZE * segment_at(segment_address).layer
        if segment_at(segment_address).rest:
            resume_segment(space, layer_address, segment_address)
        else:
            open_segment(space, layer_address, segment_address)
        layer = layer_at(layer_address)
        if layer.machine != stream.machine:
            copy_bytes(space + ENTRIES, layer.machine, layer.machine_bytes)
            stream.machine = layer.machine


@kernel
def decode_share(work_address, worker):
    """Take segments and decode them until none is left.

    work_address : address of WORK[1]
    worker       : which one this is
    """
    work = work_at(work_address)
    n_single, n_all, workers = work.n_single, work.n_all, work.workers
    a = work.streams + 2 * STREAM_SIZE * worker
    b = a + STREAM_SIZE
    first, second = stream_at(a), stream_at(b)
    while True:
        take(a, work_address, TAKEN_SINGLE, n_single)
        if first.segment == 0:
            break
        while first.segment:
            solo_chunk(a)
    while True:
        take(a, work_address, TAKEN_PAIRED, n_all)
        taken = work.taken_paired
        if taken >= n_single + workers or n_all - taken > workers:  # no second one before each worker has a first
            take(b, work_address, TAKEN_PAIRED, n_all)
        alone = a if first.segment else b
        stream = stream_at(alone)
        if stream.segment == 0:
            break
        if first.segment and second.segment:
            pair_chunk(a, b)
        elif segment_at(stream.segment).stepped:
            lone_chunk(alone, CHUNK)
        elif stream.node >= 0:
            lone_chunk(alone, 1)
        else:
            solo_chunk(alone)
