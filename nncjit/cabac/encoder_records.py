"""The records that the encoder's kernels work on, and the codes between their two passes.

A layer is coded in *intervals*, elements that follow each other. `BINARISER` turns its levels into lists of codes,
`RUN` says which intervals are coded and how far the work is, and `ENCODER` is the arithmetic coder with its output.
`SIMULATION` sums what the bins would cost under each context initialisation. The wrappers fill the records; fields of
int64 named after an array hold its address.

A code is 16 bits: ``context << 1 | bin``, or ``BYPASS | n << 11 | value`` for 1 <= n <= 11 bypass bins. ``BYPASS |
state`` and a second word are a run of zeros after a zero, which starts in that state of the quantiser: that word is
their number, a multiple of GROUP. A list ends with a run of none, LIST_END.
"""

import numpy as np

from nncjit.cabac.tables import INITIALISATION_COUNT
from nncjit.jit import record_view

BYPASS = 1 << 15
BYPASS_BITS = 11
LIST_END = BYPASS
"""What follows a list of codes, in 32 bits: a run of length 0."""
GROUP = 8
"""Levels that are looked at together for a run of zeros; shorter runs are not worth the branch."""
MAX_CHUNK = 2048
"""Levels binarised at once, at most: their codes stay in the second-level cache."""
ROW_CODES = 24
"""Codes that `binarise` copies at once."""
HEAD = ROW_CODES - 2
"""Unary codes that a row has room for, beside the sign and the row's shape."""
SHAPE_CLASS, SHAPE_NONZERO = 8, 10
"""Bits of a row's shape: where the class of its value begins (0, 1 negative, 2 positive), and whether it is not
zero."""
WRONG_STATE, TOO_LARGE = 1, 2
"""Bits of a binariser's `faults`: a level does not fit the quantiser's state; one is beyond MAX_LEVEL or the bounds."""
UNBOUNDED = 1 << 40
"""A bound beyond all levels and counts."""
WINDOW = 9
"""Bits of the coder's low that no shift has pushed out."""
INITIAL_RANGE = 510
"""The coder's range at the start of a payload."""

CODER_TABLES = np.dtype(
    [
        ("lps_ranges", "i8", 64),  # RANGE_LPS
        ("shifted_lps_ranges", "i8", 64),  # the same, each byte shifted until its bit 7 is set
        ("fast", "i4", 512),  # FAST
        ("slow", "i4", 512),  # SLOW
        ("bias", "u4", 2),  # by bin: moves a context's word to its place in both, so that bit 8 of the index is the bin
    ]
)
"""The tables of the arithmetic coder, see `cabac.tables`."""

INTERVAL = np.dtype([("stop", "i8"), ("zero_steps", "i8"), ("restart", "i8")])
"""Coded elements that follow each other: they end before element `stop` and begin where the interval before ends, after
`zero_steps` zero-steps of the quantiser. With `restart` 1 a block row begins with them."""

RESTART = np.dtype([("bits", "i8"), ("state", "i8"), ("low", "i8")])
"""Where a block row begins: bits written, state of the quantiser, the coder's low modulo 512."""

BINARISER = np.dtype(
    [
        ("levels", "i8"),  # int32[elements], in coding order
        ("base_levels", "i8"),  # int32[elements], 0 without temporal contexts
        ("history", "i8"),  # int8[elements], 0 without history
        ("transitions", "i8"),  # int64[4]: byte s of word |level| & 3 is 8 * the state after such a level in state s
        ("codes", "i8"),  # uint16, the list that is written; its size: see `binarise`
        ("chunk", "i8"),  # levels for which the list has room
        ("halve", "i8"),  # 1: levels q become values (|q| + (state & 1)) / 2
        ("unary_length", "i8"),
        ("most_below", "i8"),  # greatest magnitude of a negative value
        ("most_above", "i8"),  # greatest positive value
        ("fixed_sign", "i8"),  # 1: all values have one sign, which is not coded
        ("n_contexts", "i8"),  # the layout of the contexts, see `layer.Contexts`
        ("sig_temporal", "i8"),
        ("sig_history", "i8"),
        ("sign", "i8"),
        ("gtx", "i8"),
        ("gtx_temporal", "i8"),
        ("rem", "i8"),
        ("tabled", "i8"),  # 1: no temporal contexts, history and codebook, so that values can be looked up
        ("most_tabled", "i8"),  # greatest value with a row of its own, at least min(unary_length, HEAD)
        ("value_rows", "i8"),  # uint16[2 * most_tabled + 3, ROW_CODES], by value + most_tabled + 1
        ("unary_rows", "i8"),  # uint16[2, unary_length + ROW_CODES]: the unary codes of both signs, all bins 1
        ("prefix_row", "i8"),  # uint16[2 * ROW_CODES]: the codes of the Exp-Golomb prefix, all bins 1
        ("previous", "i8"),  # from here on what moves: the previous value's class, 0, 1 negative, 2 positive
        ("state", "i8"),  # 8 * the quantiser's state
        ("faults", "i8"),
    ]
)
"""How the levels of a layer become codes."""

ENCODER = np.dtype(
    [
        ("output", "i8"),  # uint8[capacity]
        ("capacity", "i8"),
        ("contexts", "i8"),  # uint32, the words of the layer's contexts
        ("tables", "i8"),  # CODER_TABLES
        ("position", "i8"),  # bytes written
        ("low", "i8"),  # pending + WINDOW bits, and a carry
        ("range", "i8"),
        ("pending", "i8"),  # bits that have left the window of low and are not written
    ]
)
"""The arithmetic encoder. Spec, section 12."""

RUN = np.dtype(
    [
        ("intervals", "i8"),  # INTERVAL[at least stop_interval]
        ("interval", "i8"),  # the one that is being coded
        ("stop_interval", "i8"),
        ("index", "i8"),  # the next element
        ("waiting", "i8"),  # codes in the binariser's list that are not coded yet
        ("initial_contexts", "i8"),  # uint32[n_contexts], the words at each restart
        ("restarts", "i8"),  # RESTART[number of restarts], written
        ("n_restarts", "i8"),
    ]
)
"""Some intervals of a layer, and how far they are coded."""

LEADERS = 5
"""How many initialisations of a context are followed to the end."""

SAMPLE = np.dtype([("start", "i8"), ("stop", "i8"), ("zero_steps", "i8"), ("restart", "i8"), ("weight", "i8")])
"""Elements start..stop-1 that are simulated, as in an INTERVAL; `weight` / 256 is how many elements one of them stands
for."""

CANDIDATES = np.dtype(
    [
        (
            "words",
            "u4",
            INITIALISATION_COUNT + 1,
        ),  # of the context under each initialisation, in the order of CANDIDATE_ORDER
        ("early", "i8", INITIALISATION_COUNT),  # costs of the first ONCE bins,
        ("later", "i8", INITIALISATION_COUNT),  # of those up to `limit`,
        ("leaders", "i8", LEADERS),  # and of the rest, leaders only
        ("bins", "i8"),  # bins since the restart
        ("added", "i8"),  # the same when the costs were last added to the totals
    ]
)
"""One context under all initialisations beside each other."""

VECTOR_CANDIDATES = np.dtype([("words", "u4", 16), ("recent", "u4", (3, 16)), ("spare", "u4", 16)])
"""The words of one context under all initialisations, as lanes have them, and the sums of the last list of codes: of
bins up to ONCE, up to `limit`, and behind it. With `spare`, contexts that follow each other in a level are not a
multiple of 4096 bytes apart, which costs time (docs/performance.md)."""

VECTOR_TABLES = np.dtype([("likely", "u4", 32), ("unlikely", "u4", 32), ("curve", "u2", 32)])
"""By the distance of a context's class from the even one: what the more and the less probable bin cost. And an
estimator's change, as in lane_tables.py."""

TOTAL = np.dtype([("costs", "i8", INITIALISATION_COUNT), ("unsampled", "i8")])
"""What the bins of a context cost, in units of 2^-15 bit: by initialisation, in the order of CANDIDATE_ORDER; and what
its few bins in the sample stand for besides."""

SIMULATION = np.dtype(
    [
        ("samples", "i8"),  # SAMPLE[n_samples], at least one, in the order of their elements
        ("n_samples", "i8"),
        ("index", "i8"),  # the element at which the binariser's `previous` and `state` hold
        ("limit", "i8"),  # bins of a context after which only the leaders are followed
        ("keep_previous", "i8"),  # 1: a restart leaves the previous value as it is
        ("initial_words", "i8"),  # uint32[INITIALISATION_COUNT]
        ("bin_costs", "i8"),  # int32[1024, 2], laid out as BIN_COST
        ("tables", "i8"),  # CODER_TABLES
        ("candidates", "i8"),  # CANDIDATES[n_contexts], all zero
        ("vectors", "i8"),  # VECTOR_CANDIDATES[n_contexts], all zero; 0 where candidates are no vectors
        ("vector_tables", "i8"),  # VECTOR_TABLES
        ("totals", "i8"),  # TOTAL[n_contexts], the result
        ("bypassed", "i8"),  # 256 * the number of bypass bins, the other result
    ]
)
"""What the bins of a layer cost under each initialisation."""

SHORT_LAYER = np.dtype(
    [
        ("totals", "i8"),  # TOTAL[n_contexts], those of a simulation of all of the layer
        ("contexts", "i8"),  # uint32[n_contexts], written
        ("n_contexts", "i8"),
        ("signalled", "i8"),  # int64[n_signalled], see `layer.signalled_contexts`
        ("n_signalled", "i8"),
        ("select", "i8"),  # the context of a choice's first bin
        ("flag_code", "i8"),  # that of hdsp_flag and row_skip_flag, 0 for none
        ("places", "i8"),  # int64[INITIALISATION_COUNT], where the cost of each initialisation stands in a TOTAL
        ("choice_cost", "i8"),  # what an initialisation other than 0 costs more, in units of 2^-15 bit
        ("initial_words", "i8"),  # uint32[INITIALISATION_COUNT]
        ("codes", "i8"),  # uint16[2 * n_signalled + 3], written: the codes of the choices, LIST_END
        ("binariser", "i8"),  # BINARISER
        ("simulation", "i8"),  # SIMULATION with one SAMPLE
        ("run", "i8"),  # RUN with one INTERVAL
    ]
)
"""A layer whose contexts' initialisations are chosen and written in one call."""

CELL = np.dtype([("start", "i8"), ("stop", "i8"), ("nonzeros", "i8"), ("log_sizes", "i8")])
"""Some elements, how many of them are not zero, and about 256 * the sum of 1 + log2 of the magnitude of these."""

view_interval = record_view(INTERVAL)
view_restart = record_view(RESTART)
view_binariser = record_view(BINARISER)
view_encoder = record_view(ENCODER)
view_run = record_view(RUN)
view_sample = record_view(SAMPLE)
view_simulation = record_view(SIMULATION)
view_short_layer = record_view(SHORT_LAYER)
view_cell = record_view(CELL)
