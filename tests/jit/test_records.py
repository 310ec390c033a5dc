"""A record is the same for the wrapper that fills it, for kernels, and in plain mode."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.jit import JIT, StrayAddressError, Table, address, field_offset, helper, kernel, load_i64, record_view

pytestmark = pytest.mark.kernel
plain = pytest.mark.skipif(JIT, reason="compiled code is not checked")

RUN = np.dtype(
    [("count", "i8"), ("scale", "f4"), ("kind", "u1"), ("words", "u4", (5,)), ("grid", "i8", (2, 3)), ("input", "i8")],
    align=True,
)
"""Every kind of field that records have: numbers of several sizes, arrays, an address."""

run_at = record_view(RUN)


@kernel
def read(table, k, out):
    """What record k holds, as int64[15] at the address `out`."""
    run, result = run_at(table + k * RUN_BYTES), results_at(out)
    result.values[0] = run.count
    result.values[1] = np.int64(run.scale * 4)
    result.values[2] = run.kind
    for i in range(5):
        result.values[3 + i] = run.words[i]
    for i in range(6):
        result.values[8 + i] = run.grid[i // 3, i % 3]
    result.values[14] = load_i64(run.input, 1)


@kernel
def write(table, k):
    """Change every field of record k."""
    run = run_at(table + k * RUN_BYTES)
    run.count += 1
    run.scale = np.float32(2.5)
    run.kind = 250
    fill(run)


@helper
def fill(run):
    """A record can be handed on to helpers."""
    for i in range(5):
        run.words[i] = 4294967290 + i
    for i in range(6):
        run.grid[i // 3, i % 3] = -i


RUN_BYTES = RUN.itemsize
RESULTS = np.dtype([("values", "i8", (15,))])
results_at = record_view(RESULTS)


def table_of(n):
    """Records with values of their own in each field; the records are kept by the table, and so are their inputs."""
    table = Table(np.zeros(n, RUN))
    for k, record in enumerate(table.records):
        record["count"], record["scale"], record["kind"] = (1 << 62) - k, k + 0.25, 200 + k
        record["words"], record["grid"] = 4294967295 - k, np.arange(6).reshape(2, 3) - (1 << 40) * k
        record["input"] = table.keep(np.array([k, 7 * k, 0]))
    return table


def test_a_kernel_reads_what_the_wrapper_wrote():
    table, out = table_of(4), np.zeros(1, RESULTS)
    for k in range(4):
        read(table.address, k, address(out, writes=True))
        grid = [n - (1 << 40) * k for n in range(6)]
        want = [(1 << 62) - k, 4 * k + 1, 200 + k, *[4294967295 - k] * 5, *grid, 7 * k]
        assert out["values"][0].tolist() == want


def test_the_wrapper_reads_what_a_kernel_wrote():
    table = table_of(3)
    before = table.records.copy()
    write(table.address, 1)
    for name in RUN.names:
        np.testing.assert_array_equal(table.records[name][[0, 2]], before[name][[0, 2]])
    changed = table.records[1]
    assert (changed["count"], changed["scale"], changed["kind"]) == (before[1]["count"] + 1, 2.5, 250)
    assert changed["words"].tolist() == [4294967290 + i for i in range(5)]
    assert changed["grid"].tolist() == [[0, -1, -2], [-3, -4, -5]]
    assert changed["input"] == before[1]["input"]


@pytest.mark.parametrize("name", RUN.names)
def test_the_offset_of_a_field_leads_to_its_first_byte(name):
    record = np.zeros(1, RUN)
    value = b"\x5a" + bytes(RUN[name].itemsize - 1)
    record[name] = np.frombuffer(value, RUN[name])
    assert record.tobytes().index(b"\x5a") == field_offset(RUN, name)


@plain
@pytest.mark.parametrize(
    "store",
    [
        lambda run: setattr(run, "count", 1),
        lambda run: setattr(run, "words", 1),
        lambda run: run.words.__setitem__(0, 1),
        lambda run: run.grid.__setitem__((1, 1), 1),
    ],
    ids=["number", "array", "element", "element of a matrix"],
)
def test_a_record_given_for_loads_only_cannot_be_changed(store):
    records = np.zeros(2, RUN)
    run = run_at(address(records))
    with pytest.raises(ValueError, match="read-only"):
        store(run)
    assert not any(records.tobytes())
    store(run_at(address(records, writes=True)))


@plain
def test_a_record_lies_inside_memory_that_somebody_keeps():
    records = np.zeros(2, RUN)
    start = address(records[:1])
    run_at(start)
    for outside in (-1, 1, RUN_BYTES):
        with pytest.raises(StrayAddressError):
            run_at(start + outside)
    del records
    with pytest.raises(StrayAddressError, match="nobody keeps"):
        run_at(start)


@plain
def test_a_table_keeps_its_arrays_and_nothing_keeps_them_after_it():
    table, out = table_of(2), np.zeros(1, RESULTS)
    start, data = table.address, int(table.records["input"][1])
    read(start, 1, address(out, writes=True))
    del table
    for at in (start, data):
        with pytest.raises(StrayAddressError, match="nobody keeps"):
            load_i64(at, 0)
