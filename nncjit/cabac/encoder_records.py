"""The record that the encoder's kernels work on, and the codes between their two passes.

A *run* is one piece of work: int64 slots with parameters, addresses of arrays and the state, so that a kernel takes one
address and can be called again where it stopped. `encode_run.py` fills it and keeps the arrays alive.

A code is 16 bits: ``model << 1 | bin``, or ``BYPASS | n << 11 | value`` for 1 <= n <= 11 bypass bins. ``BYPASS |
state`` and a second word are a run of zeros after a zero, which starts in that state of the quantiser: that word is
their number, a multiple of GROUP. A list ends with a run of none.
"""

# Slots of a run: what is binarised, and how.
LEVELS, BASE, HISTORY, STEPS, HALVE, UNARY, PLAIN = range(7)
MOST_BELOW, MOST_ABOVE, FIXED_SIGN, ROWS, LINES, CAP, REM_ROW = range(7, 14)
SIG_TEMPORAL, SIG_HISTORY, SIGN, GTX, GTX_TEMPORAL, REM = range(14, 20)
# Which part of the layer, and where the work stands.
SPANS, SPAN, STOP_SPAN, INDEX, CHUNK, PREVIOUS, QUANTISER, MISMATCH = range(20, 28)
# The list of codes and the arithmetic coder.
CODES, COUNT, WORDS, STARTS, N_MODELS, TABLES = range(28, 34)
OUT, CAPACITY, POSITION, LOW, RANGE, PENDING, POINTS, N_POINTS, FIELDS = range(34, 43)

# Columns of a span: elements up to `STOP` that follow each other, after `ZERO_STEPS` zero-steps of the quantiser.
SPAN_STOP, ZERO_STEPS, RESTART, SPAN_FIELDS = range(4)

BYPASS = 1 << 15
BYPASS_BITS = 11
LIST_END = BYPASS
"""What stands behind a list of codes, in 32 bits: a run of length 0."""
GROUP = 8
"""Levels that are looked at together for a run of zeros; shorter runs are not worth the branch."""
ROW_CODES = 24
"""Codes that `binarise` copies at once."""
HEAD = ROW_CODES - 2
"""Unary codes that a row has room for, beside the sign and the row's shape."""
SHAPE_CLASS, SHAPE_NONZERO = 8, 10
"""Bits of a row's shape: where the class of its value stands (0, 1 negative, 2 positive) and whether it is not zero."""
SHIFTED_AT = 64
"""Where the widths of RANGE_LPS, shifted up to 256..511 and halved, stand in the table block, in 64-bit words."""
FAST_AT, SLOW_AT, BIAS_AT = 256, 768, 1280
"""Where FAST, SLOW and BIAS stand, in 32-bit words. A bias moves a word to its place in them: by bin, so that bit 8 of
the index is the bin."""
WINDOW = 9
"""Bits of the coder's low that no shift has pushed out."""
