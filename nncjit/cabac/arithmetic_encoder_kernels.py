"""The second pass of the encoder: the arithmetic coder, and the loop over both passes (spec, sections 3, 5 and 12).

The wrappers are `cabac/payload_encoder.py` and `cabac/arithmetic_encoder.py`.

The passes go over chunks of some 2000 levels. `binarise` turns a chunk into a list of codes without branches that
depend on the data; `write_codes` runs the arithmetic coder over the list, again without such branches. Together they
cost some 12 cycles a level and 12 a bin, where one mispredicted branch costs 20.
"""

from nncjit.cabac.binarisation_kernels import binarise
from nncjit.cabac.encoder_records import (
    BYPASS,
    CODER_TABLES,
    INTERVAL,
    MAX_CHUNK,
    RESTART,
    WINDOW,
    view_binariser,
    view_encoder,
    view_interval,
    view_restart,
    view_run,
)
from nncjit.cabac.quantiser_state_kernels import zero_steps
from nncjit.cabac.tables import ZERO_BIAS
from nncjit.jit import (
    byteswap32,
    field_offset,
    helper,
    kernel,
    leading_zeros,
    load_i32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    smaller,
    store_8,
    store_32,
)

LPS_RANGES, SHIFTED = field_offset(CODER_TABLES, "lps_ranges"), field_offset(CODER_TABLES, "shifted_lps_ranges")
FAST, SLOW = field_offset(CODER_TABLES, "fast"), field_offset(CODER_TABLES, "slow")
BIAS = field_offset(CODER_TABLES, "bias")
LAST_BYTES = 8
"""At least as many as `finish` writes: at most 31 pending bits and those of the window."""
INTERVAL_BYTES, RESTART_BYTES = INTERVAL.itemsize, RESTART.itemsize


@helper
def _carry(place):
    """Add one to the bytes before address `place`."""
    before = place - 1
    while load_u8(before, 0) == 255:
        store_8(before, 0, 0)
        before -= 1
    store_8(before, 0, load_u8(before, 0) + 1)


@helper
def _flush(low, pending, place):
    """Write the upper 32 bits of low, with their carry, at address `place`; returns low, pending, place. pending >= 32.

    A carry never runs off the front: low + range stays below 2^(bits so far), as it did at the start.
    """
    top = low >> (pending + WINDOW - 32)
    if top >> 32:
        _carry(place)
    store_32(place, 0, byteswap32(top))
    pending -= 32
    return low & ((1 << (pending + WINDOW)) - 1), pending, place + 4


@helper
def _write_zeros(state, count, zero_step, contexts, tables, low, range_, pending, place):
    """Code `count` zeros after a zero, from a quantiser state (times 8) on; returns low, range_, pending, place.

    In a state that zeros do not leave there is one context. Once its word has reached its end, where a bin 0 does not
    change it, all bins that leave the range in the same eighth are one subtraction.
    """
    while count > 0:
        context = 3 * (state >> 3)
        word = load_u32(contexts, context)
        p = ((word + (word >> 16)) >> 7) & 63
        lps = (load_i64(tables + LPS_RANGES, p) >> ((range_ >> 2) & 0x38)) & 255
        place_in_tables = word + ZERO_BIAS
        fast = load_i32(tables + FAST, place_in_tables >> 7 & 511)
        after = word + fast + load_i32(tables + SLOW, place_in_tables >> 23)
        store_32(contexts, context, after)
        n, before = 1, state
        state = (zero_step >> state) & 56
        if after == word and before == state and p < 32:
            n = smaller((range_ & 31) // lps + 1, count)
        count -= n
        mps = range_ - n * lps
        unlikely = p > 31
        low += mps if unlikely else 0
        range_ = lps if unlikely else mps
        n = leading_zeros(range_) - 55
        range_ <<= n
        low <<= n
        pending += n
        if pending >= 32:
            low, pending, place = _flush(low, pending, place)
    return low, range_, pending, place


@kernel
def write_codes(encoder, codes, count, zero_step):
    """Code a list; returns 1, or 0 where the output is too small (then nothing is done). Spec, sections 3 and 12.

    encoder   : address of an ENCODER, which moves on, and whose contexts adapt
    codes     : address of uint16[count] and LIST_END
    zero_step : int  byte s: 8 * the quantiser's state after a level 0 in state s

    A bypass code shifts low by 11 bits at most and a bin by 7, and runs have at most MAX_CHUNK bins together: no more
    is written than 2 * count + MAX_CHUNK bytes, and 4 of what was pending. low has pending + 9 bits and a carry, below
    2^54 before a flush.

    The loop carries two chains of instructions from code to code, the range (about 9 cycles) and, where a context is
    used again at once, its word (about 15); the rest runs beside them. So the new range is not shifted by a count of
    leading zeros but chosen: for the less probable symbol from a table of shifted ranges, else once or twice the range
    left.
    """
    coder = view_encoder(encoder)
    if coder.position + 2 * count + MAX_CHUNK + 8 > coder.capacity:
        return 0
    contexts, tables, place = coder.contexts, coder.tables, coder.output + coder.position
    low, range_, pending = coder.low, coder.range, coder.pending
    while True:
        code = load_u16(codes, 0)
        codes += 2
        if code >= BYPASS:
            n = (code >> 11) & 15
            if n == 0:
                zeros = load_u16(codes, 0)
                if zeros == 0:
                    break
                codes += 2
                low, range_, pending, place = _write_zeros(
                    8 * (code & 7), zeros, zero_step, contexts, tables, low, range_, pending, place
                )
            low = (low << n) + range_ * (code & ((1 << n) - 1))
            pending += n
        else:
            bit = code & 1
            word = load_u32(contexts, code >> 1)
            p = ((word + (word >> 16)) >> 7) & 63
            eighth = (range_ >> 2) & 0x38
            lps = (load_i64(tables + LPS_RANGES, p) >> eighth) & 255
            shifted_lps = ((load_i64(tables + SHIFTED, p) >> eighth) & 255) << 1
            mps = range_ - lps
            unlikely = (p >> 5) != bit
            low += mps if unlikely else 0
            n = leading_zeros(lps if unlikely else mps) - 55
            range_ = mps + mps if mps < 256 else mps
            range_ = shifted_lps if unlikely else range_
            low <<= n
            pending += n
            place_in_tables = word + load_u32(tables + BIAS, bit)
            word += load_i32(tables + FAST, place_in_tables >> 7 & 511) + load_i32(tables + SLOW, place_in_tables >> 23)
            store_32(contexts, code >> 1, word)
        if pending >= 32:
            low, pending, place = _flush(low, pending, place)
    coder.low = low
    coder.range = range_
    coder.pending = pending
    coder.position = place - coder.output
    return 1


@helper
def _restart(run, binariser, coder):
    """Begin a block row: note the place, set the range to 256, the contexts as at the layer's start and the previous
    value to 0. Spec, section 5, steps 3 and 4.
    """
    restart = view_restart(run.restarts + RESTART_BYTES * run.n_restarts)
    restart.bits = 8 * coder.position + coder.pending
    restart.state = binariser.state >> 3
    restart.low = coder.low & 511
    run.n_restarts += 1
    coder.range = 256
    contexts, initial_contexts = coder.contexts, run.initial_contexts
    for k in range(binariser.n_contexts):
        store_32(contexts, k, load_u32(initial_contexts, k))
    binariser.previous = 0


@kernel
def encode_intervals(run, binariser, encoder):
    """Code the intervals of a RUN with a BINARISER and an ENCODER; returns 1, or 0 where the output is too small: make
    room and call again. Spec, section 5.

    run, binariser, encoder : addresses of these records, which all move on
    """
    work, levels, coder = view_run(run), view_binariser(binariser), view_encoder(encoder)
    zero_step = load_i64(levels.transitions, 0)
    while True:
        if work.waiting:
            if not write_codes(encoder, levels.codes, work.waiting, zero_step):
                return 0
            work.waiting = 0
        at, index = work.interval, work.index
        if at == work.stop_interval:
            return 1
        interval = view_interval(work.intervals + INTERVAL_BYTES * at)
        start = view_interval(work.intervals + INTERVAL_BYTES * (at - 1)).stop if at else 0
        if index == start:
            levels.state = zero_steps(levels.transitions, levels.state, interval.zero_steps)
            if interval.restart:
                _restart(work, levels, coder)
        stop = smaller(index + levels.chunk, interval.stop)
        if stop == interval.stop:
            work.interval = at + 1
        work.waiting = binarise(binariser, index, stop)
        work.index = stop


@kernel
def finish(encoder):
    """Write the terminating bin and the stop bit, in whole bytes; returns the size of the payload. Spec, sections 3 and
    12.

    encoder : address of an ENCODER with room for LAST_BYTES
    """
    coder = view_encoder(encoder)
    n_bits = coder.pending + WINDOW
    tail = (coder.low + coder.range - 2) | 1
    place = coder.output + coder.position
    if tail >> n_bits:
        _carry(place)
    tail <<= -n_bits & 7
    for shift in range(n_bits - 1 & ~7, -8, -8):
        store_8(place, 0, tail >> shift & 255)
        place += 1
    coder.position = place - coder.output
    return coder.position


@helper
def _append_bits(low, pending, place, bits, n):
    """Add n bits, n <= 16, and perhaps a carry, behind low; returns low, pending, place."""
    low = (low << n) + bits
    pending += n
    if pending >= 32:
        low, pending, place = _flush(low, pending, place)
    return low, pending, place


@kernel
def append(encoder, piece):
    """Add what another encoder has coded from low = 0, bits aligned with the window of this one. Spec, section 12.

    encoder, piece : addresses of two ENCODER records

    The piece started with pending = 7, so that its first 16 bits, which are in its output or in its low, end where its
    first shift begins. The first encoder's output has room for all bytes of the piece and 16 more.
    """
    coder, other = view_encoder(encoder), view_encoder(piece)
    low, pending, place = coder.low, coder.pending, coder.output + coder.position
    source, size = other.output, other.position  # a multiple of 4
    tail, tail_bits = other.low, other.pending + WINDOW
    if size:
        low += load_u8(source, 0) << 8 | load_u8(source, 1)
    else:
        tail_bits -= 16
    for i in range(2, size, 2):
        bits = load_u8(source, i) << 8 | load_u8(source, i + 1)
        low, pending, place = _append_bits(low, pending, place, bits, 16)
    # the piece's low may hold a carry above its top bit
    low += tail >> tail_bits
    while tail_bits > 0:
        n = smaller(tail_bits, 16)
        tail_bits -= n
        low, pending, place = _append_bits(low, pending, place, (tail >> tail_bits) & ((1 << n) - 1), n)
    coder.low = low
    coder.pending = pending
    coder.position = place - coder.output
    coder.range = other.range
