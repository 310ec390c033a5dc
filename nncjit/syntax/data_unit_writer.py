"""Writing the data units of a stream one after another. Spec, section 2.

A large model has thousands of tensors and a few shapes, so that nearly all headers differ by the name alone. Such a
header is checked and written once; the next ones are its bits with another name.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NamedTuple

from nncjit.bits import BitWriter
from nncjit.errors import OptionError
from nncjit.syntax import syntax_tables
from nncjit.syntax.constants import UnitType
from nncjit.syntax.context import Context
from nncjit.syntax.input_parameters import NOTHING_KNOWN, InputParameters
from nncjit.syntax.ndu import NduHeader
from nncjit.syntax.syntax_tables import UnknownError
from nncjit.syntax.unit_writer import unit_start

_MOST = 256
"""Headers that are kept."""
_FIRST_BITS = 8
"""What stands before the element of a header that has one."""

_names = attrgetter("topology_elem_id", "topology_elem_id_index")
_rest = attrgetter(*(r.name for r in NduHeader.ROWS if not r.name.startswith("topology_elem_id")))


class _Kept(NamedTuple):
    """A header without its element."""

    first: int
    rest: int
    n_rest: int
    """Bits of the rest, without alignment."""
    inputs: InputParameters


class DataUnitWriter:
    """Writes data units, fast those that have one element, say all parameters of their tensor and have no lists."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], _Kept] = {}
        self._context: Context | None = None

    def head(self, header: NduHeader, payload_size: int, context: Context) -> tuple[bytes, Context]:
        """The bytes of a unit before its payload, and the context after it.

        Parameters
        ----------
        header : NduHeader
        payload_size : int
            Bytes of the payload.
        context : Context
            As `Context.growing` gives it: the unit is added to it. What is kept lasts as long as it is the same.

        Raises
        ------
        OptionError
            As `write_unit`.
        """
        name, index = _names(header)
        try:
            inputs = context.inputs_by_name(context.names_of(header)[0])
            own = inputs is None and header.tensor_dimensions is not None
            short = not header.entry_points and header.codebook is None
            key = (name is None, *_rest(header)) if own and short and (name is None) != (index is None) else None
            kept = self._find(key, context)
            entry = context.entry_of(header, None if kept is None else kept.inputs)
            reason = context.problem(UnitType.NDU) or context.repeated(entry)
        except UnknownError as error:
            reason = str(error)
        if reason:
            raise OptionError(f"{UnitType.NDU.name}: {reason}")
        bits = BitWriter()
        if kept is None:
            syntax_tables.write(header, bits, context)
        else:
            bits.path = "NduHeader.topology_elem_id"
            bits.u(_FIRST_BITS, kept.first)
            _write_element(bits, name, index)
            bits.u(kept.n_rest, kept.rest)
            bits.align()
        written = bits.getvalue()
        if kept is None and key is not None:
            self._keep(key, header, written)
        return unit_start(UnitType.NDU, len(written) + payload_size) + written, context.with_entry(entry)

    def _find(self, key: tuple[Any, ...] | None, context: Context) -> _Kept | None:
        """What is kept of a header like this one."""
        if context is not self._context or len(self._kept) >= _MOST:
            self._kept, self._context = {}, context
        try:
            return None if key is None else self._kept.get(key)
        except TypeError:  # a value that is no value of a header: writing says which
            return None

    def _keep(self, key: tuple[Any, ...], header: NduHeader, written: bytes) -> None:
        before = BitWriter()
        before.u(_FIRST_BITS, written[0])
        _write_element(before, *_names(header))
        bits = int.from_bytes(written, "big")
        closing = (bits & -bits).bit_length()  # alignment: a one, then zeros
        n_rest = 8 * len(written) - before.pos - closing
        rest = bits >> closing & (1 << n_rest) - 1
        self._kept[key] = _Kept(written[0], rest, n_rest, InputParameters.of(header, NOTHING_KNOWN))


def _write_element(bits: BitWriter, name: str | None, index: int | None) -> None:
    """The element of a header, as `NduHeader` has it."""
    if name is not None:
        bits.st(name)
    else:
        assert index is not None
        bits.ue(7, index)
