"""Coding layers into a payload: the wrapper of the encoder's kernels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import arithmetic_encoder_kernels as kernels
from nncjit.cabac import encoder_records as er
from nncjit.cabac.arithmetic_encoder import Coder
from nncjit.cabac.block_row_pieces import Piece, cut
from nncjit.cabac.context_initialisation import select
from nncjit.cabac.encoder_input import Source, check_arrays, check_levels, prepare, wrong_states, zero_rows
from nncjit.cabac.entry_points import EntryPoint
from nncjit.cabac.layer import Layer, contexts_of
from nncjit.cabac.layer_header import bypass_codes, header_codes, row_flags_pay
from nncjit.cabac.tables import INITIAL_WORDS
from nncjit.errors import OptionError
from nncjit.jit.threads import share
from nncjit.stages import staged

Array = NDArray[Any]
Selection = Literal["none", "fast", "exact", "reference"]
RowSkip = bool | Literal["auto"]

_SELECTIONS = ("none", "fast", "exact", "reference")
_NO_MODELS = np.zeros(1, np.uint32)


class PayloadEncoder:
    """One arithmetic-coded string, the payload of a unit. Spec, sections 3 to 7 and 12.

    Code the numbers and layers in their order, then `finish`; after that `entry_points` has the points of each layer.
    An encoder that has raised must be thrown away.
    """

    def __init__(self) -> None:
        self._coder = Coder()
        self._marks: list[Array] = []
        self._payload: bytes | None = None

    def number(self, value: int, n_bits: int) -> None:
        """Code a signed number in two's complement, iae(n). Spec, section 6.

        Raises
        ------
        OptionError
            The value does not fit.
        """
        if not -(1 << (n_bits - 1)) <= value < 1 << (n_bits - 1):
            raise OptionError(f"{value} does not fit into {n_bits} bits")
        self._coder.code(bypass_codes(value & ((1 << n_bits) - 1), n_bits), _NO_MODELS)

    @staged("code")
    def layer(
        self,
        levels: Array,
        layer: Layer,
        *,
        base: Array | None = None,
        history: Array | None = None,
        hdsp: bool = False,
        selection: Selection = "fast",
        row_skip: RowSkip = "auto",
        workers: Executor | None = None,
    ) -> None:
        """Code a layer. Spec, section 5.

        Parameters
        ----------
        levels : int32[layer.size]
            In scan order; at most `MAX_LEVEL` in magnitude, inside the codebook, and with `layer.dq` as a quantiser
            made them (odd only in odd states).
        layer : Layer
        base : int32[layer.size]
            The base levels in scan order, where `layer.temporal`.
        history : int8[layer.size] or uint8[layer.size]
            1 where an earlier update was not zero, in scan order, where `hdsp`.
        hdsp : bool
            Use the history; needs `layer.parent`. Without effect on layers that have no flag for it, such as vectors.
        selection : "none", "fast", "exact" or "reference"
            How the starts of the probability models are chosen: all 0; from a sample of large layers; from all bins; as
            NNCodec does.
        row_skip : bool or "auto"
            Leave out rows that are all zero; "auto": where that makes the layer smaller.
        workers : Executor, optional
            Threads that share the block rows of a large layer. The bytes are the same as without.

        Raises
        ------
        OptionError
            An array or option is not as above; the message has the value.
        """
        if selection not in _SELECTIONS:
            raise OptionError(f"selection is {selection!r}, must be one of {', '.join(_SELECTIONS)}")
        if hdsp and not layer.parent:
            raise OptionError("hdsp needs a layer with a parent")
        hdsp = hdsp and layer.has_row_flags
        check_arrays(levels, layer, base, history, hdsp)
        skipped = skipped_rows(levels, layer, row_skip)
        source = prepare(levels, layer, base, history, hdsp, skipped)
        pieces = cut(source, workers)
        starts = select(source, hdsp, selection, pieces, workers)
        words = np.full(int(source.record[er.N_MODELS]), INITIAL_WORDS[0], np.uint32)
        self._coder.code(header_codes(layer, hdsp, skipped, starts), words)
        words[:] = INITIAL_WORDS[0]
        words[contexts_of(layer, hdsp)] = INITIAL_WORDS[starts]
        self._marks.append(self._code_spans(source, pieces, words, workers))

    @staged("code")
    def finish(self) -> bytes:
        """End the string with the terminating bin and the stop bit; the payload. Spec, sections 3 and 12."""
        self._payload = self._coder.finish()
        return self._payload

    @property
    def bits(self) -> int:
        """Bits written so far."""
        return self._coder.bits

    @property
    def entry_points(self) -> list[list[EntryPoint]]:
        """The entry points of each layer but for its first block row; known once the payload is finished. Spec, section
        3.
        """
        assert self._payload is not None, "finish first"
        return [_points(self._payload, marks) for marks in self._marks]

    def _code_spans(self, source: Source, pieces: list[Piece], starts: Array, workers: Executor | None) -> Array:
        """Code the elements; `starts`, uint32[models], are the models at a restart. The restarts: int64[k, 3], see
        `encode_kernels`.
        """
        if len(pieces) == 1:
            return _code_piece(self._coder, source, pieces[0], starts)[0]

        def task(piece: Piece) -> Callable[[], tuple[Coder, Array, int]]:
            def code() -> tuple[Coder, Array, int]:
                coder = Coder(256, 7)
                return coder, *_code_piece(coder, source, piece, starts)

            return code

        joined: list[Array] = []
        state = 0
        for piece, (coder, marks, after) in zip(pieces, share([task(p) for p in pieces], workers), strict=True):
            if piece.state != state:
                raise wrong_states()
            state = after
            # a piece counts its bits from 7, and its low from 0
            marks[:, 0] -= 7
            marks[:, 2] += self._coder.low << np.minimum(marks[:, 0], 9)
            marks[:, 0] += self._coder.bits
            self._coder.append(coder)
            joined.append(marks)
        return np.concatenate(joined)


def _code_piece(coder: Coder, source: Source, piece: Piece, starts: Array) -> tuple[Array, int]:
    """Code some spans. Returns the marks of their restarts, int64[k, 3], and the quantiser's state after them."""
    run, codes = source.run()
    words, spans = starts.copy(), source.spans[piece.first : piece.stop]
    marks = np.zeros((int(spans[:, er.RESTART].sum()), 3), np.int64)
    run[er.WORDS], run[er.STARTS], run[er.POINTS] = words.ctypes.data, starts.ctypes.data, marks.ctypes.data
    run[er.SPAN], run[er.STOP_SPAN], run[er.QUANTISER] = piece.first, piece.stop, 8 * piece.state
    run[er.INDEX] = source.spans[piece.first - 1, er.SPAN_STOP] if piece.first else 0
    coder.drive(kernels.encode, run)
    del codes  # the record has only its address
    check_levels(int(run[er.MISMATCH]), source)
    return marks, int(run[er.QUANTISER]) >> 3


def _points(payload: bytes, marks: Array) -> list[EntryPoint]:
    """The entry points from the finished string: the decoder's offset is the string less the coder's low."""
    points = []
    for before, (bits, state, low) in zip(marks[:-1].tolist(), marks[1:].tolist(), strict=True):
        window = int.from_bytes(payload[bits // 8 : bits // 8 + 3], "big") << 8 * max(0, bits // 8 + 3 - len(payload))
        value = ((window >> (15 - bits % 8)) - low) & 511
        points.append(EntryPoint(value, state, bits - before[0]))
    return points


def skipped_rows(levels: Array, layer: Layer, row_skip: RowSkip) -> Array | None:
    """bool[rows], the rows to leave out; None: code them all. Spec, section 5."""
    if row_skip is False or not layer.has_row_flags:
        return None
    zero, nonzero = zero_rows(levels, layer)
    if row_skip is True:
        return zero
    if not zero.any() or (layer.dq and layer.scan and layer.width % 4):
        return None
    return zero if row_flags_pay(zero, layer.width, nonzero) else None
