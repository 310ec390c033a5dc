"""Large float tensors without loss, all pieces of a batch at once and in parallel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nncjit.decoder import float_piece_kernels as kernels
from nncjit.errors import ModelError
from nncjit.jit import JIT, Table, aligned_zeros, numba_internals, processor
from nncjit.jit import threads as jit_threads
from nncjit.jit.teams import KernelCall, KernelCalls
from nncjit.stream.float_pieces import PIECE, FloatPieces

Array = np.ndarray[Any, Any]


class PiecesJob(NamedTuple):
    """A tensor in pieces, or some of its pieces."""

    pieces: FloatPieces
    words: Array
    """Of the size of these pieces, C-contiguous, of any shape: gets the values, as unsigned integers of their size."""


_FAULTS = {
    kernels.CUT_OFF: "is cut off",
    kernels.BAD_TABLE: "has frequencies that do not add up",
    kernels.BAD_ZEROS: "leaves out more bits than there are",
    kernels.BAD_END: "does not end where its states do",
}


def decode_float_pieces(jobs: Sequence[PiecesJob], threads: int | None = None) -> KernelCalls[list[ModelError | None]]:
    """Decode the values of tensors in pieces into their words.

    Returns
    -------
    list
        What is wrong with each; the values of one that has a fault mean nothing.
    """
    counts = [len(job.pieces.lengths) for job in jobs]
    items = Table(np.zeros(sum(counts), kernels.ITEM))
    stops = np.cumsum(counts, dtype=np.int64)
    for job, stop in zip(jobs, stops, strict=True):
        _fill(items, items.records[stop - len(job.pieces.lengths) : stop], job)
    if items.records.size:
        yield from _decode(items, threads)
    return [
        _first_fault(items.records["fault"][stop - len(job.pieces.lengths) : stop], job.pieces.first)
        for job, stop in zip(jobs, stops, strict=True)
    ]


def _fill(items: Table, records: Array, job: PiecesJob) -> None:
    pieces, words = job
    flat = words.reshape(-1)
    ends = np.cumsum(pieces.lengths)
    records["piece"] = items.keep(pieces.data) + ends - pieces.lengths
    records["n_bytes"] = pieces.lengths
    starts = PIECE * np.arange(len(records))
    records["out"] = items.keep(flat, writes=True) + words.itemsize * starts
    records["n_values"] = np.minimum(flat.size - starts, PIECE)
    records["word_bytes"] = words.itemsize
    records["mantissa_bits"], records["symbol_bits"] = pieces.fields.mantissa_bits, pieces.fields.exponent_bits


def _decode(items: Table, threads: int | None) -> KernelCalls[None]:
    workers = min(jit_threads.count(threads), items.records.size)
    work = Table(np.zeros(1, kernels.WORK))
    work.records["items"], work.records["n_items"] = items.address, items.records.size
    work.records["spaces"] = work.keep(aligned_zeros(workers, kernels.SPACE), writes=True)
    yield KernelCall(_worker(), work.address, workers)


def _worker() -> Any:
    """The kernel for this machine."""
    return kernels.decode_pieces_in_vectors if processor.has_wide_vectors() else kernels.decode_pieces


def compile_pieces() -> None:
    """Compile the kernel now."""
    if JIT:
        numba_internals.compile_worker(_worker())


def _first_fault(faults: Array, first: int) -> ModelError | None:
    wrong = np.flatnonzero(faults)
    if not wrong.size:
        return None
    return ModelError(f"piece {first + wrong[0]} {_FAULTS[int(faults[wrong[0]])]}")
