"""Large float tensors without loss to pieces: see `stream.float_pieces`."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np

from nncjit.encoder import float_piece_encoder_kernels as kernels
from nncjit.jit import Table, address, aligned_zeros, processor
from nncjit.jit.threads import share
from nncjit.stages import stage
from nncjit.stream.float_pieces import CODES, FORMATS, PIECE, SMALLEST, packed_lengths
from nncjit.stream.float_planes import FloatFields, Split

Array = np.ndarray[Any, Any]

ROOM = 1024
"""Bytes that the header of a piece has room for."""
AT_ONCE = 16 * PIECE
"""Values that are read at a time."""


def takes_pieces(dtype: str, size: int) -> bool:
    """Whether a float tensor goes in pieces."""
    return dtype in CODES and size >= SMALLEST


def split_in_pieces(storage: Array, dtype: str, workers: Executor | None) -> Split:
    """Levels that are all zero, and the pieces."""
    flat = np.ascontiguousarray(storage).reshape(-1)
    return split_parts(lambda start, stop: flat[start:stop], storage.shape, dtype, workers)


def split_parts(
    part: Callable[[int, int], Array], shape: tuple[int, ...], dtype: str, workers: Executor | None
) -> Split:
    """The same for a tensor of which a function gives some elements, so that it need not be in memory."""
    tail = code_pieces(part, math.prod(shape), FORMATS[CODES[dtype]], workers)
    return Split(np.zeros(shape, np.int32), tail, CODES[dtype])


def code_pieces(
    part: Callable[[int, int], Array], size: int, fields: FloatFields, workers: Executor | None
) -> bytearray:
    """The pieces of so many values, of which a function gives some, and their lengths."""
    found, lengths = bytearray(), []
    for start in range(0, size, AT_ONCE):
        with stage("read"):
            words = np.ascontiguousarray(part(start, min(start + AT_ONCE, size))).reshape(-1).view(fields.words)
        tasks = [partial(_encode, words[at : at + PIECE], fields) for at in range(0, words.size, PIECE)]
        for piece in share(tasks, workers):
            found += piece
            lengths.append(len(piece))
    found += packed_lengths(lengths)
    return found


def _encode(words: Array, fields: FloatFields) -> bytes:
    work, space = Table(np.zeros(1, kernels.WORK)), aligned_zeros(1, kernels.SPACE)
    out = np.empty(words.size * (2 + fields.words.itemsize) + ROOM, np.uint8)
    work.records["words"], work.records["n_values"] = work.keep(words), words.size
    work.records["word_bytes"], work.records["mantissa_bits"] = words.itemsize, fields.mantissa_bits
    work.records["symbol_bits"], work.records["out"] = fields.exponent_bits, work.keep(out, writes=True)
    encode = kernels.encode_piece_in_vectors if processor.has_wide_vectors() else kernels.encode_piece
    n_bytes = encode(work.address, address(space, writes=True))
    return out[:n_bytes].tobytes()
