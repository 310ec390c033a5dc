"""Coding layers into a payload."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.arithmetic_encoder import ArithmeticEncoder
from nncjit.cabac.block_row_pieces import Piece, pieces_of
from nncjit.cabac.context_initialisation import LayerPart, Selection, choose_initialisations
from nncjit.cabac.encoder_input import PreparedLayer, check_arrays, check_faults, prepare, wrong_states
from nncjit.cabac.encoder_records import RESTART, RUN
from nncjit.cabac.entry_points import EntryPoint
from nncjit.cabac.lane_encoder import QueuedLayer, RowQueue, can_code
from nncjit.cabac.layer import Contexts, Layer, contexts_of
from nncjit.cabac.layer_groups import LayerGroups, can_go_in_groups
from nncjit.cabac.layer_header import header_codes, listed_number
from nncjit.cabac.narrow_levels import Levels, NarrowLevels, whole
from nncjit.cabac.row_skipping import RowSkip, skipped_rows
from nncjit.cabac.short_layers import is_short, write_short_layer
from nncjit.cabac.tables import INITIAL_WORDS
from nncjit.errors import OptionError
from nncjit.jit import Table, address
from nncjit.jit.freed_memory import give_back
from nncjit.jit.threads import share
from nncjit.stages import staged

Array = NDArray[Any]

_SELECTIONS = get_args(Selection)
_NO_RESTARTS = np.zeros(0, RESTART)


class _Queued(NamedTuple):
    """A layer that waits in a queue, and who would code it otherwise."""

    layer: QueuedLayer
    workers: Executor | None


class PayloadEncoder:
    """One arithmetic-coded payload of a unit. Spec, sections 3 to 7 and 12.

    Code the numbers and layers in their order, then `finish`; after that `entry_points` has the points of each layer.
    An encoder that has raised must be thrown away.
    """

    def __init__(self) -> None:
        self._encoder = ArithmeticEncoder.spare()
        self._restarts: list[Array] = []
        self._queued: _Queued | None = None
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
        self._settle()
        codes, count = listed_number(value, n_bits)
        self._encoder.write_list(address(codes), count)

    @staged("code")
    def layer(
        self,
        levels: Levels,
        layer: Layer,
        *,
        base: Array | None = None,
        history: Array | None = None,
        hdsp: bool = False,
        selection: Selection = "fast",
        row_skip: RowSkip = "auto",
        workers: Executor | None = None,
        queue: RowQueue | None = None,
    ) -> None:
        """Code a layer. Spec, section 5.

        Parameters
        ----------
        levels : int32[layer.size] or NarrowLevels
            In coding order; at most `MAX_LEVEL` in magnitude, inside the codebook, and with `layer.dq` as a quantiser
            made them (odd only in odd states).
        layer : Layer
        base : int32[layer.size]
            The base levels in coding order, where `layer.temporal`.
        history : int8[layer.size] or uint8[layer.size]
            1 where an earlier update was not zero, in coding order, where `hdsp`.
        hdsp : bool
            Use the history; needs `layer.parent`. Without effect on layers that have no flag for it, such as vectors.
        selection : "none", "fast", "exact" or "reference"
            How the contexts' initialisations are chosen: all 0; from a sample of large layers; from all bins; as
            NNCodec does.
        row_skip : bool or "auto"
            Leave out rows that are all zero; "auto": where that makes the layer smaller.
        workers : Executor, optional
            Threads that share the block rows of a large layer. The bytes are the same as without.
        queue : RowQueue, optional
            Where the block rows may wait until more can be coded with them; at the latest `finish` codes them.

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
        if isinstance(levels, NarrowLevels):
            if can_go_in_groups(layer, selection) and not hdsp:
                self._settle()
                self._huge_layer(levels, layer, selection, row_skip, workers)
                return
            levels = whole(levels)
        check_arrays(levels, layer, base, history, hdsp)
        self._settle()
        skipped = skipped_rows(levels, layer, row_skip)
        if skipped is None and is_short(layer, selection):
            faults = write_short_layer(self._encoder, levels, layer, selection, base, history if hdsp else None)
            check_faults(faults, levels, layer)
            self._restarts.append(_NO_RESTARTS)
            return
        prepared = prepare(levels, layer, base, history, hdsp, skipped)
        pieces = pieces_of(prepared, workers)
        part = LayerPart(0, prepared, pieces)
        initialisations = choose_initialisations(prepared, prepared.levels, [lambda: part], hdsp, selection, workers)
        contexts = self._begin_layer(layer, hdsp, skipped, initialisations)
        if can_code(prepared):
            queued = (queue or RowQueue(workers)).add(prepared, contexts, self._encoder.range)
            self._queued = _Queued(queued, workers)
            if queue is None:
                self._settle()
        else:
            self._restarts.append(self._write_elements(prepared, pieces, contexts, workers)[0])

    def _begin_layer(self, layer: Layer, hdsp: bool, skipped: Array | None, initialisations: Array) -> Array:
        """Write what precedes the elements; returns the contexts at a restart, uint32[contexts]."""
        contexts = np.full(Contexts.for_unary_length(layer.unary_length).total, INITIAL_WORDS[0], np.uint32)
        self._encoder.use_contexts(np.copy(contexts))
        self._encoder.write(header_codes(layer, hdsp, skipped, initialisations))
        contexts[contexts_of(layer, hdsp)] = INITIAL_WORDS[initialisations]
        return contexts

    def _huge_layer(
        self, levels: NarrowLevels, layer: Layer, selection: Selection, row_skip: RowSkip, workers: Executor | None
    ) -> None:
        """Code a layer group by group of its block rows."""
        skipped = skipped_rows(levels, layer, row_skip)
        groups = LayerGroups(levels, layer, skipped)
        outline, parts = groups.outline, groups.parts(workers)
        initialisations = choose_initialisations(outline, groups.levels, parts, False, selection, workers)
        contexts = self._begin_layer(layer, False, skipped, initialisations)
        restarts, state = [], 0
        give_back()
        for first, last in groups.bounds:
            found, state = self._write_group(groups.prepared(first, last, state), contexts, workers)
            restarts.append(found)
            give_back()
        self._restarts.append(np.concatenate(restarts))

    def _write_group(self, group: PreparedLayer, contexts: Array, workers: Executor | None) -> tuple[Array, int]:
        """Code some block rows. Returns their restarts, RESTART[k], and the quantiser's state after them."""
        if can_code(group):
            queued = RowQueue(workers).add(group, contexts, self._encoder.range)
            restarts = queued.append_to(self._encoder)
            if restarts is not None and queued.rows is not None:
                return restarts, int(queued.rows["end_state"][-1])
        return self._write_elements(group, pieces_of(group, workers), contexts, workers)

    def _settle(self) -> None:
        """Append the layer that waits in a queue, if one does."""
        queued, self._queued = self._queued, None
        if queued is None:
            return
        restarts = queued.layer.append_to(self._encoder)
        if restarts is None:
            prepared, contexts = queued.layer.prepared, queued.layer.contexts
            pieces = pieces_of(prepared, queued.workers)
            restarts, _ = self._write_elements(prepared, pieces, contexts, queued.workers)
        self._restarts.append(restarts)

    @staged("code")
    def finish(self) -> bytes:
        """End the payload with the terminating bin and the stop bit, and return it. Spec, sections 3 and 12."""
        self._settle()
        self._payload = self._encoder.finish()
        self._encoder.give_back()
        del self._encoder
        return self._payload

    @property
    def bits(self) -> int:
        """Bits written so far."""
        self._settle()
        return self._encoder.bits

    @property
    def entry_points(self) -> list[list[EntryPoint]]:
        """The entry points of each layer but for its first block row; known once the payload is finished. Spec, section
        3.
        """
        assert self._payload is not None, "finish first"
        return [_entry_points(self._payload, restarts) for restarts in self._restarts]

    def _write_elements(
        self, prepared: PreparedLayer, pieces: list[Piece], contexts: Array, workers: Executor | None
    ) -> tuple[Array, int]:
        """Code the elements; `contexts`, uint32[contexts], are the contexts at a restart. Returns the restarts,
        RESTART[k], and the quantiser's state after them.
        """
        if len(pieces) == 1:
            return _write_piece(self._encoder, prepared, pieces[0], contexts)

        def task(piece: Piece) -> Callable[[], tuple[ArithmeticEncoder, Array, int]]:
            def code() -> tuple[ArithmeticEncoder, Array, int]:
                encoder = ArithmeticEncoder(piece=True)
                return encoder, *_write_piece(encoder, prepared, piece, contexts)

            return code

        joined: list[Array] = []
        state = prepared.state
        coded = share([task(piece) for piece in pieces], workers)
        for piece, (encoder, restarts, after) in zip(pieces, coded, strict=True):
            if piece.state != state:
                raise wrong_states()
            state = after
            # a piece counts its bits from 7, and its low from 0
            restarts["bits"] -= 7
            restarts["low"] += self._encoder.low << np.minimum(restarts["bits"], 9)
            restarts["bits"] += self._encoder.bits
            self._encoder.append(encoder)
            joined.append(restarts)
        return np.concatenate(joined), state


def _write_piece(
    encoder: ArithmeticEncoder, prepared: PreparedLayer, piece: Piece, contexts: Array
) -> tuple[Array, int]:
    """Code the intervals of a piece. Returns their restarts, RESTART[k], and the quantiser's state after them."""
    binariser = prepared.binariser()
    levels = binariser.records[0]
    levels["state"] = 8 * piece.state
    intervals = prepared.intervals
    restarts = np.zeros(int(intervals["restart"][piece.first : piece.stop].sum()), RESTART)
    run = Table(np.zeros(1, RUN))
    record = run.records[0]
    record["intervals"], record["interval"], record["stop_interval"] = run.keep(intervals), piece.first, piece.stop
    record["index"] = prepared.starts[piece.first]
    record["initial_contexts"] = run.keep(contexts)
    record["restarts"] = run.keep(restarts, writes=True)
    encoder.use_contexts(np.copy(contexts))
    encoder.write_intervals(run, binariser)
    check_faults(int(levels["faults"]), prepared.levels, prepared.layer)
    return restarts, int(levels["state"]) >> 3


def _entry_points(payload: bytes, restarts: Array) -> list[EntryPoint]:
    """The entry points from the finished payload: the decoder's offset is the payload less the coder's low."""
    points = []
    for before, (bits, state, low) in zip(restarts["bits"][:-1].tolist(), restarts[1:].tolist(), strict=True):
        window = int.from_bytes(payload[bits // 8 : bits // 8 + 3], "big") << 8 * max(0, bits // 8 + 3 - len(payload))
        value = ((window >> (15 - bits % 8)) - low) & 511
        points.append(EntryPoint(value, state, bits - before))
    return points
