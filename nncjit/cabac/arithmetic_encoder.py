"""The arithmetic encoder's state and its output: the wrapper of the kernels that write a payload."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import arithmetic_encoder_kernels as kernels
from nncjit.cabac.encoder_records import ENCODER, INITIAL_RANGE, LIST_END, MAX_CHUNK
from nncjit.cabac.encoder_tables import TABLES
from nncjit.cabac.lane_encoder_kernels import join_rows
from nncjit.jit import Table, address

Array = NDArray[Any]

FIRST_CAPACITY = 1 << 12
MOST_SPARE = 64
"""Encoders that a thread keeps for the next payloads, with their output: to make one takes 10 us, as long as to
code a vector, and a bundle of tensors has so many in use."""
MOST_CAPACITY = 1 << 15
"""Bytes of the output of an encoder that is kept, at most."""
LARGE_OUTPUT = 1 << 25
"""Bytes from which an output grows where it is: the system moves its pages, and there are never two of it. Smaller ones
are not of pages of their own, and new room is not filled with zeros."""
_spare = threading.local()
_LIST_END = np.array([LIST_END, 0], np.uint16)


class ArithmeticEncoder:
    """A payload that is being written, or a piece of one. Spec, section 12.

    Parameters
    ----------
    piece : bool
        What is written will be appended to another encoder's output. It then starts with range 256, as a block row
        does, and 7 pending bits, see the kernel `append`.
    """

    def __init__(self, *, piece: bool = False) -> None:
        self._table = Table(np.zeros(1, ENCODER))
        self._state = self._table.records[0]
        self._state["tables"] = self._table.keep(TABLES)
        self._contexts: Array
        self._output: Array
        self._use_output(np.empty(FIRST_CAPACITY, np.uint8))
        self.start(piece=piece)

    def start(self, *, piece: bool = False) -> None:
        """Set the state to that of a new encoder; see there."""
        self._state["position"] = self._state["low"] = 0
        self._state["range"], self._state["pending"] = (256, 7) if piece else (INITIAL_RANGE, 0)

    @classmethod
    def spare(cls) -> ArithmeticEncoder:
        """An encoder at its start, of those that were given back if there is one."""
        spares: list[ArithmeticEncoder] = _spare.__dict__.setdefault("encoders", [])
        if not spares:
            return cls()
        encoder = spares.pop()
        encoder.start()
        return encoder

    def give_back(self) -> None:
        """Let the calling thread use this encoder for another payload; nobody else may hold it."""
        spares: list[ArithmeticEncoder] = _spare.__dict__.setdefault("encoders", [])
        if len(spares) < MOST_SPARE and len(self._output) <= MOST_CAPACITY:
            spares.append(self)

    def use_contexts(self, contexts: Array) -> None:
        """Code with these contexts from now on, uint32[n]; they adapt."""
        self._contexts = contexts
        self._state["contexts"] = address(contexts, writes=True)

    def write(self, codes: Array) -> None:
        """Write a list of codes, uint16[n], without the list's end."""
        listed = np.concatenate([codes, _LIST_END])
        self.write_list(address(listed), len(codes))

    def write_list(self, listed: int, count: int) -> None:
        """Write the codes at an address: uint16[count], and the list's end behind them."""
        self._make_room(count)
        done = kernels.write_codes(self._table.address, listed, count, 0)
        assert done, "there was room"

    def write_intervals(self, run: Table, binariser: Table) -> None:
        """Write the intervals of a RUN with a BINARISER, which both move on."""
        while not kernels.encode_intervals(run.address, binariser.address, self._table.address):
            self._make_room(int(run.records[0]["waiting"]))

    @property
    def bits(self) -> int:
        """Bits that no shift can change any more, but for a carry: p - 9 of the decoder. Spec, section 3."""
        return 8 * int(self._state["position"]) + int(self._state["pending"])

    @property
    def low(self) -> int:
        """The lower end of the interval, modulo 512."""
        return int(self._state["low"]) & 511

    @property
    def range(self) -> int:
        """The width of the interval, 256 to 510."""
        return int(self._state["range"])

    def append(self, piece: ArithmeticEncoder) -> None:
        """Add what a `piece` has coded, as if it had been written here."""
        self._make_room(int(piece._state["position"]))
        kernels.append(self._table.address, piece._table.address)

    def append_rows(self, rows: Table, pieces: Table, restarts: Array) -> None:
        """Add the block rows LANE_ROW[n] of a layer, coded to `pieces`, ENCODER[n], and fill RESTART[n]."""
        self._make_room(int(pieces.records["position"].sum()))
        join_rows(self._table.address, rows.address, len(restarts), address(restarts, writes=True))

    def finish(self) -> bytes:
        """The payload with the terminating bin and the stop bit, in whole bytes. Spec, sections 3 and 12."""
        self._make_room(kernels.LAST_BYTES)
        return self._output[: kernels.finish(self._table.address)].tobytes()

    def _make_room(self, n: int) -> None:
        """Make room for n codes, as `write_codes` wants it, or for n bytes to append."""
        room, size = 2 * n + MAX_CHUNK + 8, int(self._state["position"])
        if len(self._output) - size >= room:
            return
        if size >= LARGE_OUTPUT:
            self._output.resize(size + room + size // 8, refcheck=False)
            self._use_output(self._output)
        else:
            output = np.empty(size + room + size // 2, np.uint8)
            output[:size] = self._output[:size]
            self._use_output(output)

    def _use_output(self, output: Array) -> None:
        # not kept by the table, which would keep those that were too small as well
        self._output = output
        self._state["output"], self._state["capacity"] = address(output, writes=True), len(output)
