"""Encoding layers: the kernels (spec, sections 3 to 6 and 12).

The wrappers are `cabac/payload_encoder.py` and `cabac/arithmetic_encoder.py`.

Two passes over chunks of some 2000 levels. `binarise` turns a chunk into a list of codes without branches that depend
on the data; `code` runs the arithmetic coder over the list, again without such branches. Together they cost some 12
cycles a level and 12 a bin, where one mispredicted branch costs 20.
"""

from nncjit.cabac.binarisation_kernels import binarise, zero_steps
from nncjit.cabac.encoder_records import (
    BIAS_AT,
    BYPASS,
    CAPACITY,
    CHUNK,
    CODES,
    COUNT,
    FAST_AT,
    INDEX,
    LOW,
    N_MODELS,
    N_POINTS,
    OUT,
    PENDING,
    POINTS,
    POSITION,
    PREVIOUS,
    QUANTISER,
    RANGE,
    RESTART,
    SHIFTED_AT,
    SLOW_AT,
    SPAN,
    SPAN_FIELDS,
    SPAN_STOP,
    SPANS,
    STARTS,
    STEPS,
    STOP_SPAN,
    TABLES,
    WINDOW,
    WORDS,
    ZERO_STEPS,
)
from nncjit.cabac.tables import ZERO_BIAS
from nncjit.jit import (
    byteswap32,
    helper,
    kernel,
    leading_zeros,
    load_i32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    store_8,
    store_32,
    store_64,
)


@helper
def _flush(low, pending, place):
    """Write the upper 32 bits of low, with their carry, at address `place`; returns low, pending, place. pending >= 32.

    A carry never runs off the front: low + range stays below 2^(bits so far), as it did at the start.
    """
    top = low >> (pending + WINDOW - 32)
    if top >> 32:
        before = place - 1
        while load_u8(before, 0) == 255:
            store_8(before, 0, 0)
            before -= 1
        store_8(before, 0, load_u8(before, 0) + 1)
    store_32(place, 0, byteswap32(top))
    pending -= 32
    return low & ((1 << (pending + WINDOW)) - 1), pending, place + 4


@helper
def _code_zeros(state, count, steps, words, tables, low, span, pending, place):
    """Code `count` zeros after a zero, from a quantiser state (times 8) on; returns low, span, pending, place.

    In a state that zeros do not leave there is one model. Once its word has reached its end, where a bin 0 does not
    change it, all bins that leave the range in the same eighth are one subtraction.
    """
    step = load_i64(steps, 0)
    while count > 0:
        model = 3 * (state >> 3)
        word = load_u32(words, model)
        p = ((word + (word >> 16)) >> 7) & 63
        lps = (load_i64(tables, p) >> ((span >> 2) & 0x38)) & 255
        changed = word + ZERO_BIAS
        after = word + load_i32(tables, FAST_AT + (changed >> 7 & 511)) + load_i32(tables, SLOW_AT + (changed >> 23))
        store_32(words, model, after)
        n, before = 1, state
        state = (step >> state) & 56
        if after == word and before == state and p < 32:
            n = min((span & 31) // lps + 1, count)
        count -= n
        mps = span - n * lps
        unlikely = p > 31
        low += mps if unlikely else 0
        span = lps if unlikely else mps
        n = leading_zeros(span) - 55
        span <<= n
        low <<= n
        pending += n
        if pending >= 32:
            low, pending, place = _flush(low, pending, place)
    return low, span, pending, place


@kernel
def code(run):
    """Code the list of COUNT codes at CODES; returns 1, or 0 where OUT is too small (then nothing is done). Spec,
    sections 3 and 12.

    A bypass code shifts low by 11 bits at most and a bin by 7, and runs have at most CHUNK bins together: no more is
    written than 2 * COUNT + CHUNK bytes, and 4 of what was pending. low has pending + 9 bits and a carry, below 2^54
    before a flush.

    The loop carries two chains of instructions from code to code, the range (about 9 cycles) and, where a model is used
    again at once, its word (about 15); the rest runs beside them. So the new range is not shifted by a count of leading
    zeros but chosen: for the less probable symbol from a table of shifted widths, else once or twice the range left.
    """
    count, position = load_i64(run, COUNT), load_i64(run, POSITION)
    if count == 0:
        return 1
    if position + 2 * count + load_i64(run, CHUNK) + 8 > load_i64(run, CAPACITY):
        return 0
    words, tables, place = load_i64(run, WORDS), load_i64(run, TABLES), load_i64(run, OUT) + position
    low, span, pending = load_i64(run, LOW), load_i64(run, RANGE), load_i64(run, PENDING)
    at = load_i64(run, CODES)
    while True:
        symbol = load_u16(at, 0)
        at += 2
        if symbol >= BYPASS:
            n = (symbol >> 11) & 15
            if n == 0:
                zeros = load_u16(at, 0)
                if zeros == 0:
                    break
                at += 2
                state, steps = 8 * (symbol & 7), load_i64(run, STEPS)
                low, span, pending, place = _code_zeros(state, zeros, steps, words, tables, low, span, pending, place)
            low = (low << n) + span * (symbol & ((1 << n) - 1))
            pending += n
        else:
            bit = symbol & 1
            word = load_u32(words, symbol >> 1)
            p = ((word + (word >> 16)) >> 7) & 63
            eighth = (span >> 2) & 0x38
            lps = (load_i64(tables, p) >> eighth) & 255
            shifted_lps = ((load_i64(tables, SHIFTED_AT + p) >> eighth) & 255) << 1
            mps = span - lps
            unlikely = (p >> 5) != bit
            low += mps if unlikely else 0
            n = leading_zeros(lps if unlikely else mps) - 55
            span = mps + mps if mps < 256 else mps
            span = shifted_lps if unlikely else span
            low <<= n
            pending += n
            changed = word + load_u32(tables, BIAS_AT + bit)
            word += load_i32(tables, FAST_AT + (changed >> 7 & 511)) + load_i32(tables, SLOW_AT + (changed >> 23))
            store_32(words, symbol >> 1, word)
        if pending >= 32:
            low, pending, place = _flush(low, pending, place)
    store_64(run, LOW, low)
    store_64(run, RANGE, span)
    store_64(run, PENDING, pending)
    store_64(run, POSITION, place - load_i64(run, OUT))
    store_64(run, COUNT, 0)
    return 1


@helper
def restart(run):
    """Start a block row: models as at the layer's start, previous value 0. Spec, section 5, step 4."""
    words, starts = load_i64(run, WORDS), load_i64(run, STARTS)
    for k in range(load_i64(run, N_MODELS)):
        store_32(words, k, load_u32(starts, k))
    store_64(run, PREVIOUS, 0)


@kernel
def encode(run):
    """Code the spans SPAN..STOP_SPAN-1 from element INDEX on; returns 1, or 0 where OUT is too small: grow it and call
    again.

    Where a span restarts, the place goes to POINTS, int64[at least the number of restarts, 3]: bits written, state, low
    modulo 512.
    """
    spans, stop_span = load_i64(run, SPANS), load_i64(run, STOP_SPAN)
    chunk, steps = load_i64(run, CHUNK), load_i64(run, STEPS)
    if not code(run):
        return 0
    while load_i64(run, SPAN) < stop_span:
        at = load_i64(run, SPAN)
        span = spans + 8 * SPAN_FIELDS * at
        index, stop = load_i64(run, INDEX), load_i64(span, SPAN_STOP)
        start = 0 if at == 0 else load_i64(span - 8 * SPAN_FIELDS, SPAN_STOP)
        if index == start:
            state = zero_steps(steps, load_i64(run, QUANTISER), load_i64(span, ZERO_STEPS))
            store_64(run, QUANTISER, state)
            if load_i64(span, RESTART):
                restart(run)
                store_64(run, RANGE, 256)
                point = load_i64(run, POINTS) + 24 * load_i64(run, N_POINTS)
                store_64(point, 0, 8 * load_i64(run, POSITION) + load_i64(run, PENDING))
                store_64(point, 1, state >> 3)
                store_64(point, 2, load_i64(run, LOW) & 511)
                store_64(run, N_POINTS, load_i64(run, N_POINTS) + 1)
        if index + chunk < stop:
            stop = index + chunk
        else:
            store_64(run, SPAN, at + 1)
        store_64(run, COUNT, binarise(run, index, stop))
        store_64(run, INDEX, stop)
        if not code(run):
            return 0
    return 1


@kernel
def append(run, piece, size, tail, tail_bits):
    """Add a string that was coded from low = 0 to the one of this run, bits aligned with its window. Spec, section 12.

    piece     : address of uint8[size], the bytes written; size is a multiple of 4
    tail      : int  the piece's low, of tail_bits = pending + 9 bits
    The piece started with pending = 7, so that its first 16 bits (here: of piece, or of the tail) end where its first
    shift begins. OUT has room for size + 16 bytes more.
    """
    place = load_i64(run, OUT) + load_i64(run, POSITION)
    low, pending = load_i64(run, LOW), load_i64(run, PENDING)
    if size:
        low += load_u8(piece, 0) << 8 | load_u8(piece, 1)
    for i in range(2, size, 2):
        low = (low << 16) + (load_u8(piece, i) << 8 | load_u8(piece, i + 1))
        pending += 16
        if pending >= 32:
            low, pending, place = _flush(low, pending, place)
    if not size:
        tail_bits -= 16
    # the piece's low may hold a carry above its top bit
    low += tail >> tail_bits
    while tail_bits > 0:
        n = min(tail_bits, 16)
        tail_bits -= n
        low = (low << n) + ((tail >> tail_bits) & ((1 << n) - 1))
        pending += n
        if pending >= 32:
            low, pending, place = _flush(low, pending, place)
    store_64(run, LOW, low)
    store_64(run, PENDING, pending)
    store_64(run, POSITION, place - load_i64(run, OUT))
