"""Headers of data units that differ from an earlier one by the name alone.

A large model has thousands of tensors and a few shapes, so that nearly all headers repeat. Bits that were read and
found in order once need not be read again.
"""

from __future__ import annotations

from typing import NamedTuple

from nncjit.bits import BitReader
from nncjit.bits.bit_reader import MAX_TEXT
from nncjit.syntax.context import Context
from nncjit.syntax.input_parameters import NOTHING_KNOWN, InputParameters
from nncjit.syntax.ndu import NduHeader

_LONGEST = 48
"""Bytes after the name of a header that is kept; longer ones have entry points or codebooks, and do not repeat."""
_MOST = 256
"""Headers that are kept."""


class _Kept(NamedTuple):
    header: NduHeader
    inputs: InputParameters


class RepeatedHeaders:
    """The latest headers of a stream."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bytes], _Kept] = {}  # by the bytes before and after the name
        self._lengths: tuple[int, ...] = ()
        self._context: Context | None = None

    def find(self, bits: BitReader, context: Context) -> tuple[NduHeader, InputParameters] | None:
        """The header that starts here, and its unit's parameters, where an earlier one was the same but for the name.

        It is then read: `bits` stands behind it.
        """
        if context is not self._context:  # another unit came between, and may have changed what the bits mean
            return None
        data, n_bytes = bits.held
        first = bits.pos >> 3
        end = data.find(b"\0", first + 1, min(first + MAX_TEXT + 2, n_bytes)) + 1
        if not end:
            return None
        for length in self._lengths:
            kept = self._kept.get((data[first], data[end : end + length]))
            if kept is not None and end + length <= n_bytes:
                return self._named(bits, context, kept, (first + 1, end - 1, end + length))
        return None

    @staticmethod
    def _named(
        bits: BitReader, context: Context, kept: _Kept, place: tuple[int, int, int]
    ) -> tuple[NduHeader, InputParameters] | None:
        """A kept header with another name, which starts and ends at the place, as the header does."""
        first, last, end = place
        try:
            name = str(bits.held[0][first:last], "utf-8")
        except UnicodeDecodeError:
            return None
        if context.inputs_by_name(name) is not None:
            return None
        bits.pos = 8 * end
        return kept.header.with_name(name), kept.inputs

    def keep(self, bits: BitReader, start: int, header: NduHeader, context: Context) -> None:
        """Remember a header that was read from the bit `start` on, where it says all of its unit's parameters."""
        if context is not self._context or len(self._kept) >= _MOST:
            self._kept, self._lengths, self._context = {}, (), context
        name = header.topology_elem_id
        if name is None or header.tensor_dimensions is None or context.inputs_by_name(name) is not None:
            return
        data, _ = bits.held
        first = start >> 3
        end = data.find(b"\0", first + 1) + 1
        after_name = data[end : bits.pos >> 3]
        if len(after_name) > _LONGEST:
            return
        self._kept[data[first], after_name] = _Kept(header, InputParameters.of(header, NOTHING_KNOWN))
        self._lengths = tuple(dict.fromkeys((*self._lengths, len(after_name))))
