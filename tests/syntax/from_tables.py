"""Hypothesis strategies made from the syntax tables themselves, and streams made of them."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import strategies as st

from nncjit.errors import OptionError
from nncjit.syntax import (
    AggregateType,
    CodebookSyntax,
    Context,
    InputParameters,
    LpsHeader,
    LpsPayload,
    MpsPayload,
    NduHeader,
    PayloadType,
    PruningContainer,
    QntHeader,
    ReferenceList,
    StrHeader,
    TopologyFormat,
    TplHeader,
    UnitType,
    aggregate_units,
    block_roles,
    codes,
    split_unit,
    write_unit,
)
from nncjit.syntax.codebook_syntax import CodebookCode
from nncjit.syntax.element_lists import IndexList, NameList
from nncjit.syntax.ndu import EntryPoints
from nncjit.syntax.syntax_tables import rows

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)
SMALL = st.integers(0, 5)


class OutOfBand(dict):
    """Shapes that a caller knows for every name."""

    def get(self, name, default=None):
        return InputParameters(tensor_dimensions=(12, 10))


def entry_points(above, context):
    n = context.count_entry_points(above)
    state = st.integers(0, 7) if above.dq_flag else st.just(0)
    return st.tuples(*[st.tuples(st.integers(0, 255), state, st.integers(0, 1 << 34)) for _ in range(n)])


@st.composite
def codebooks(draw):
    value = st.integers(-300, 300) | st.integers(-(1 << 31) + 1, (1 << 31) - 1)
    found = sorted(draw(st.sets(value, min_size=1, max_size=9)))
    return CodebookSyntax(tuple(found), draw(st.integers(0, len(found) - 1)), draw(st.integers(0, 15)))


def values(code, above, context):  # noqa: C901 - one case a code
    """What a code can hold."""
    match code:
        case codes.U(n):
            return st.integers(0, (1 << n) - 1) if n < 15 else st.integers(0, 9) | st.integers(0, (1 << n) - 1)
        case codes.I(n):
            return st.integers(-(1 << (n - 1)), (1 << (n - 1)) - 1)
        case codes.UE():
            return SMALL | st.integers(0, 1 << 40)
        case codes.Text():
            return TEXT
        case codes.Float():
            return SINGLES
        case codes.Packed(n):
            bits = n(above)
            return st.integers(0, (1 << bits) - 1).map(lambda x: (x << (-bits & 7)).to_bytes((bits + 7) // 8, "big"))
        case codes.Named(_, names):
            return st.sampled_from(names)
        case codes.Nested(cls):
            return tables(cls, context)
        case codes.Pair(first, second):
            return st.tuples(values(first, above, context), values(second, above, context))
        case codes.Counted(_, each):
            return st.lists(values(each, above, context), max_size=3).map(tuple)
        case NameList():
            n = above.count_topology_elements_minus2 + 2
            return st.lists(TEXT, min_size=n, max_size=n, unique=True).map(tuple)
        case IndexList():
            n = above.count_topology_elements_minus2 + 2
            return st.lists(st.integers(0, 300), min_size=n, max_size=n, unique=True).map(tuple)
        case CodebookCode():
            return codebooks()
        case EntryPoints():
            return entry_points(above, context)
    raise AssertionError(f"no strategy for {code}")


@st.composite
def tables(draw, cls, context, rules=None):
    """A table, drawn row by row; `rules` maps a row's name to a function (above, context) -> strategy."""
    above = SimpleNamespace(**dict.fromkeys(row.name for row in cls.ROWS))
    rules = {**COUNTS, **(rules or {})}
    for row in rows(cls, above, context):
        strategy = rules[row.name](above, context) if row.name in rules else values(row.code, above, context)
        if row.repeat is not None and row.name not in rules:
            strategy = st.tuples(*[strategy] * row.repeat(above, context))
        if row.check is not None:
            strategy = strategy.filter(lambda x, row=row: row.check(x, above, context) is None)
        setattr(above, row.name, draw(strategy))
    return cls(**vars(above))


def _small(above, context):
    return st.integers(0, 3)


def _zero(above, context):
    return st.just(0)


_COUNTED = (
    *("count_topology_elements_minus2", "num_of_nnr_units_minus2", "count_reshaped_tensor_dimension"),
    *("spm_count_thresholds", "spm_count_classes", "ppm_count_pruning_ratios", "ppm_count_classes"),
    *("upm_count_thresholds", "upm_count_classes", "dpm_count_thresholds", "dpm_count_classes"),
    *("count_super_block_dimension", "count_block_dimension"),
)
_RESERVED = ["1bit", "1bit_2", "2bits", "3bits", "7bits"]

COUNTS = {
    **dict.fromkeys(_COUNTED, _small),
    **dict.fromkeys([f"nnr_reserved_zero_{what}" for what in _RESERVED], _zero),
    "count": lambda above, context: st.integers(0, 40),
    "nnr_decompressed_data_format": lambda above, context: st.integers(0, 9) | st.integers(64, 127),
}


def all_mps(profile, **given_):
    rules = {name: (lambda above, context, value=value: st.just(value)) for name, value in given_.items()}
    return tables(MpsPayload, Context(profile=profile), rules)


@st.composite
def ndu_headers(draw, context, name=None, **given_):
    """A data unit header that keeps the rules about blocks, factors and mappings."""
    kind = draw(st.sampled_from(PayloadType))
    block = kind == PayloadType.BLOCK
    types = draw(st.integers(0, 15))
    n = len(block_roles(types)) if block else draw(st.integers(1, 4))
    inputs = 1 if block and types else draw(st.integers(0, 1))

    def shape(above, context):
        side = st.integers(0, 60)
        if (above.compressed_parameter_types or 0) & 1:
            return st.tuples(st.integers(1, 9).map(lambda x: 6 * x), st.integers(1, 40))
        if n > 1 and not block:
            return st.lists(side, min_size=1, max_size=4).map(tuple)
        return st.lists(side, max_size=4).map(tuple) | st.just((1 << 39, 1, 2))

    def cuts(above, context):
        size = context.dimensions_of(above)[above.concatenation_axis_index]
        return st.lists(st.integers(0, size), min_size=n - 1, max_size=n - 1).map(lambda x: tuple(sorted(x)))

    def moves(above, context):
        axes = len(context.dimensions_of(above))
        each = st.integers(0, axes - 1).flatmap(lambda i: st.tuples(st.just(i), st.integers(0, i)))
        return st.tuples(*[st.lists(each, max_size=2).map(tuple)] * n)

    def exactly(value):
        return lambda above, context: st.just(value)

    rules = {
        "nnr_compressed_data_unit_payload_type": exactly(kind),
        "nnr_multiple_topology_elements_present_flag": exactly(int(n > 1)),
        "input_parameters_present_flag": exactly(inputs),
        "count_topology_elements_minus2": exactly(n - 2),
        "compressed_parameter_types": exactly(types),
        "decomposition_rank": lambda above, context: st.integers(1, 50),
        "g_number_of_rows": lambda above, context: st.sampled_from([1, 2, 3, 6]),
        "tensor_dimensions": shape,
        "concatenation_axis_index": lambda above, c: st.integers(0, len(c.dimensions_of(above)) - 1),
        "split_index": cuts,
        "shifts": moves,
        "first_tensor_dimension_shift": lambda above, c: st.integers(0, len(c.dimensions_of(above)) - 1),
        "scan_order": lambda above, c: st.integers(0, 4 if c.dimensions_of(above)[0] < 1000 else 0),
    }
    if name is not None:
        rules["topology_elem_id"] = exactly(name)
        rules["topology_elem_ids"] = exactly(tuple(f"{name}{i}" for i in range(n)))
    rules |= {key: exactly(value) for key, value in given_.items()}
    return draw(tables(NduHeader, context, rules))


def tpl_bodies(header, context):
    if header.topology_storage_format == TopologyFormat.REFLIST:
        return tables(ReferenceList, context)
    if header.topology_storage_format == TopologyFormat.PRUN:
        return tables(PruningContainer, context, {"pruning_rep_type": lambda a, c: st.integers(0, 1)})
    return st.binary(max_size=30).filter(lambda data: data != b"\0")


@st.composite
def units(draw, context, name):
    """(type, header, body) of a unit that may stand after this context."""
    kind = draw(st.sampled_from([UnitType.LPS, UnitType.QNT, *[UnitType.NDU] * 3]))
    if kind == UnitType.LPS:
        return kind, draw(tables(LpsHeader, context)), draw(tables(LpsPayload, context))
    if kind == UnitType.QNT:
        return kind, draw(tables(QntHeader, context)), draw(st.binary(max_size=30).filter(lambda data: data != b"\0"))
    return kind, draw(ndu_headers(context, name)), draw(st.binary(max_size=120))


def split(unit, context, max_bytes):
    """The unit in parts, or None where it is all header and hardly any payload."""
    try:
        return split_unit(*unit, context, max_bytes)
    except OptionError:
        return None


@st.composite
def streams(draw):
    """(bytes, [(type, header, body)]): a whole stream and the units that reading it must give, aggregates left out."""
    profile = draw(st.integers(0, 1))
    context, pieces, want = Context(known=OutOfBand()), [], []

    def put(kind, header, body):
        nonlocal context
        pieces.append(write_unit(kind, header, body, context))
        want.append((kind, header, body))
        context = context.after(kind, header, body)

    put(UnitType.STR, StrHeader(general_profile_idc=profile), None)
    put(UnitType.MPS, None, draw(all_mps(profile, mps_topology_indexed_reference_flag=0)))
    if context.mps.topology_carriage_flag:
        header = draw(tables(TplHeader, context))
        put(UnitType.TPL, header, draw(tpl_bodies(header, context)))
    for i in range(draw(st.integers(0, 3))):
        how = draw(st.sampled_from(["whole", "parts", "aggregate"]))
        if how == "aggregate":
            before, context = context, context.inside(draw(st.sampled_from(AggregateType)))
            mark = len(pieces)
            for j in range(2):
                put(*draw(units(context, f"{i}.{j}")))
            pieces[mark:] = [aggregate_units(pieces[mark:], aggregate_type=AggregateType(context.aggregate))]
            context = context.outside(before)
            continue
        unit = draw(units(context, f"{i}"))
        if how == "whole" or unit[0] == UnitType.LPS:
            put(*unit)
            continue
        whole = write_unit(*unit, context)
        pieces.extend(split(unit, context, len(whole) - draw(st.integers(0, 9))) or [whole])
        want.append(unit)
        context = context.after(*unit)
    return b"".join(pieces), want
