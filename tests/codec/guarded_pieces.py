"""Decode damaged pieces of floats beside pages that may not be touched: ``guarded_pieces.py SIDE COUNT``."""

import sys
from functools import partial
from unittest import mock

import numpy as np
from cabac.guard_pages import GuardPages

from nncjit.decoder import float_piece_decoder as module
from nncjit.encoder.float_piece_encoder import split_in_pieces
from nncjit.jit import processor
from nncjit.jit.teams import finish
from nncjit.stream.float_pieces import CODES, FORMATS, FloatPieces


def damaged(rng, pieces):
    """Some bytes changed, most of them where the tables are; or the end cut off."""
    data = pieces.data.copy()
    for _ in range(rng.integers(0, 4)):
        data[rng.integers(0, rng.choice([4, 130, data.size]))] = rng.integers(0, 256)
    if rng.random() < 0.4:
        data = data[: rng.integers(133, data.size + 1)]
    return FloatPieces(pieces.fields, data, np.array([data.size]))


def slice_of(tail, start, stop):
    return tail[start:stop]


def sound_pieces(rng):
    for dtype in ("bfloat16", "float32", "float8_e5m2"):
        fields = FORMATS[CODES[dtype]]
        for size in (1, 31, 2048, 9001):
            words = rng.integers(0, 1 << 8 * fields.words.itemsize, size).astype(fields.words)
            words[: size // 2] &= fields.words.type(3 << fields.mantissa_bits)
            tail = split_in_pieces(words, dtype, None).tail
            yield FloatPieces.read(partial(slice_of, tail), len(tail), fields, size), words


def main():
    side, count = sys.argv[1], int(sys.argv[2])
    rng, pages, faults = np.random.default_rng(0), GuardPages(side), 0
    module.aligned_zeros = lambda count, dtype: pages.copy(np.zeros(count, dtype))
    sound = list(sound_pieces(rng))
    for k in range(count):
        pieces, words = sound[rng.integers(0, len(sound))]
        made = damaged(rng, pieces) if k % 4 else pieces
        guarded = FloatPieces(made.fields, pages.copy(made.data, writes=False), made.lengths)
        out = pages.copy(np.zeros_like(words))
        wide = processor.has_wide_vectors() and rng.random() < 0.5
        with mock.patch.object(processor, "has_wide_vectors", lambda wide=wide: wide):
            (fault,) = finish(module.decode_float_pieces([module.PiecesJob(guarded, out)], 1))
        faults += fault is not None
        assert k % 4 or (fault is None and (out == words).all())
    print(faults)


main()
