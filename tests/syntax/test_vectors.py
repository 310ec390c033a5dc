"""All streams of the reference software parse, say what its own parser said, and are written again byte for byte."""

import json
import pathlib

import pytest

from nncjit.errors import BitstreamError
from nncjit.syntax import PayloadType, UnitType, block_roles, describe, read_units, write_unit
from nncjit.syntax.syntax_tables import describe_table

MODELS = pathlib.Path(__file__).parents[1] / "vectors" / "models"
STREAMS = sorted(MODELS.glob("*.nnc"))


def recorded(path):
    """The high-level syntax that the reference parser showed; None for its first edition."""
    return json.loads(path.with_suffix(".json").read_text())["hls"]


all_streams = pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)


def test_all_streams_are_there():
    assert len(STREAMS) == 68


def stream(name):
    return (MODELS / f"{name}.nnc").read_bytes()


def header_of(name, element):
    return next(u for u in read_units(stream(name)) if element in u.names).header


@all_streams
def test_every_unit_is_written_again_byte_for_byte(path):
    data = path.read_bytes()
    again = b""
    for unit in read_units(data):
        body = unit.payload() if unit.type == UnitType.NDU else unit.body
        flag = unit.independently_decodable_flag
        again += write_unit(unit.type, unit.header, body, unit.context, independently_decodable_flag=flag)
    assert again == data


@all_streams
def test_units_hold_the_tensors_that_the_reference_decoded(path):
    facts = json.loads(path.with_suffix(".json").read_text())
    units = [u for u in read_units(path) if u.type == UnitType.NDU]
    shapes = {}
    for unit in units:
        assert unit.context.profile == facts["edition"] - 1
        roles = block_roles(unit.inputs.compressed_parameter_types)
        block = unit.header.nnr_compressed_data_unit_payload_type == PayloadType.BLOCK
        for name, role in zip(unit.names, roles if block else ["W"], strict=True):
            shapes[name] = list(shape_of(role, unit.inputs))
    applied = {name for name in shapes if name.endswith("_scaling")} - facts["tensors"].keys()
    assert {name: shape for name, shape in shapes.items() if name not in applied} == {
        name: shape for name, (_, shape) in facts["tensors"].items()
    }


def shape_of(role, inputs):
    dims = inputs.tensor_dimensions
    if role == "W":
        return dims
    if role == "G":
        return inputs.g_number_of_rows, inputs.decomposition_rank
    if role == "H":
        return inputs.decomposition_rank, dims[0] * dims[1] // inputs.g_number_of_rows
    return dims[:1]


@pytest.mark.parametrize("path", [p for p in STREAMS if recorded(p)], ids=lambda path: path.stem)
def test_parameter_sets_and_topology_are_what_the_reference_read(path):
    hls = recorded(path)
    units = {u.type: u for u in read_units(path) if u.type in (UnitType.MPS, UnitType.TPL)}
    for kind, table in ((UnitType.MPS, "mps"), (UnitType.TPL, "tpl")):
        unit = units[kind]
        ours = describe_table(unit.unit_header, unit.context)
        ours |= describe_table(unit.header if kind == UnitType.TPL else unit.body, unit.context)
        ours |= {"nnr_unit_type": int(kind), "general_profile_idc": unit.context.profile}
        if kind == UnitType.TPL:
            ours |= {key: int(getattr(unit.header, key)) for key in ours if key.startswith("topology_")}
            ours["mps_topology_indexed_reference_flag"] = unit.context.mps.mps_topology_indexed_reference_flag
            ours["topology_data"] = unit.body.decode()
            del ours["general_profile_idc"]
        assert ours == hls[table]


@all_streams
def test_every_prefix_that_cuts_a_unit_is_refused(path):
    data = path.read_bytes()
    ends = [u.offset + u.size for u in read_units(data)]
    cuts = {c for end in ends for c in (end - 1, end - 2, end + 1, end + 2, end + 3, end + 7)} | set(range(ends[2]))
    for cut in sorted(c for c in cuts if 0 <= c < len(data) and c not in ends[2:]):
        with pytest.raises(BitstreamError) as caught:
            list(read_units(data[:cut]))
        assert caught.value.bit <= 8 * cut


def test_files_and_memory_give_the_same_units():
    path = MODELS / "e2-block-scan1.nnc"
    with path.open("rb") as file:
        ways = [list(map(describe, read_units(way))) for way in (path, path.read_bytes(), file)]
    assert ways[0] == ways[1] == ways[2]


@pytest.mark.parametrize(
    ("name", "element", "points", "first"),
    [
        ("e2-lowrank-block-scan1", "fc.weight_G", 4, (103, 4, 195)),  # G: 40 rows, 5 block rows; H: 6 rows, 1 block row
        ("e2-block-scan1", "classifier.weight", 8, (81, 7, 4001)),
        ("e2-block-scan1", "features.0.weight", 1, (78, 1, 804)),
    ],
)
def test_entry_points_are_one_for_each_block_row_but_the_first(name, element, points, first):
    header = header_of(name, element)
    assert len(header.entry_points) == points
    assert header.entry_points[0] == first


def test_states_are_read_only_with_dependent_quantisation():
    assert {state for _, state, _ in header_of("e2-scan2-uniform", "classifier.weight").entry_points} == {0}


def test_names_are_read_as_utf8():
    assert [u.names[0] for u in read_units(stream("e2-unicode")) if u.names] == ["überschicht/重み:0", "s p a c e"]


def test_incremental_units_name_node_and_parent():
    unit = next(u for u in read_units(stream("e2-incremental-tca-2")) if u.names)
    assert unit.header.node == (0, 0, 3)  # the third update; 0 is the base
    assert unit.header.parent == (0, None, None)
    assert unit.header.temporal_context_modeling_flag == 1


def test_codebooks_grow_around_their_zero_offset():
    book = header_of("e2-codebook1", "classifier.weight").codebook
    assert book.values[:3] == (-17, -14, -13)
    assert (book.codebook_zero_offset, book.values[14], book.values[-1], book.codebook_egk) == (14, -1, 14, 0)
