"""NNR_AGG: whole units wrapped in one. Spec, section 11."""

from __future__ import annotations

from nncjit.syntax.codes import FLAG, Named, Pair, U, known, zero
from nncjit.syntax.constants import AggregateType, UnitType
from nncjit.syntax.syntax_tables import Table, row, table


@table
class AggHeader(Table):
    """Aggregate unit header. Spec, section 11.

    An entry point is (unit type, byte offset from the aggregate's first byte).
    """

    nnr_aggregate_unit_type: int = row(
        Named(8, AggregateType), check=known(AggregateType), derive=lambda t: AggregateType.GENERIC
    )
    entry_points_present_flag: int = row(FLAG, derive=lambda t: int(t.entry_points is not None))
    nnr_reserved_zero_7bits: int = row(U(7), check=zero, derive=lambda t: 0)
    num_of_nnr_units_minus2: int = row(U(16))
    entry_points: tuple[tuple[int, int], ...] | None = row(
        Pair(Named(6, UnitType), U(34)),
        when=lambda t, c: t.entry_points_present_flag,
        count=lambda t, c: t.num_of_nnr_units_minus2 + 2,
    )
