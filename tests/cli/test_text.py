"""What people read: units, aligned columns, nothing that moves the cursor."""

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncjit.cli import text


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 KB"),
        (95_149, "95.1 KB"),
        (1_013_824, "1.01 MB"),
        (90_868_376, "90.9 MB"),
        (2_000_000_000, "2.00 GB"),
        (3e15, "3000 TB"),
    ],
)
def test_sizes_have_three_digits_and_a_unit(n_bytes, words):
    assert text.size(n_bytes) == words


@pytest.mark.parametrize(
    ("n", "words"), [(0, "0"), (252_846, "252,846"), (22_713_216, "22.7 million"), (7e9, "7.00 billion")]
)
def test_counts_are_readable(n, words):
    assert text.count(n) == words


@pytest.mark.parametrize(("s", "words"), [(0.0434, "43 ms"), (2.314, "2.31 s"), (99.9, "99.9 s"), (239.7, "4 min 0 s")])
def test_durations_are_readable(s, words):
    assert text.seconds(s) == words


@pytest.mark.parametrize(("snr", "words"), [(None, "-"), (math.inf, "exact"), (32.14, "32.1 dB"), (math.nan, "-")])
def test_exactness_is_in_decibels(snr, words):
    assert text.decibels(snr) == words


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=5))
def test_a_row_is_a_line(rows):
    assert len(text.table(rows, head=False).split("\n")) == len(rows)


def test_columns_are_aligned():
    assert text.table([("name", "size"), ("a", "1"), ("long name", "1000")]) == (
        "name       size\n---------  ----\na             1\nlong name  1000"
    )


def test_wide_characters_and_accents_are_aligned(monkeypatch):
    rows = [("tensor", "size"), ("层.权重", "12"), ("e\u0301", "3"), ("plain", "456")]
    assert text.table(rows).splitlines() == [
        "tensor   size",
        "-------  ----",
        "层.权重    12",
        "e\u0301           3",
        "plain     456",
    ]
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert text.table(rows).splitlines()[2] == r"\u5c42.\u6743\u91cd    12"


def test_on_a_narrow_terminal_names_lose_their_middles(monkeypatch):
    rows = [("tensor", "size"), ("model.layers.0." + "x" * 500 + ".weight", "12 KB"), ("b", "1 KB")]
    whole = text.table(rows)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    lines = text.table(rows).splitlines()
    assert {len(line) for line in lines[1:]} == {60}
    assert "…" in lines[2]
    assert lines[2].startswith("model.layers.0.")
    assert "xxx.weight  12 KB" in lines[2]
    monkeypatch.setenv("COLUMNS", "10")
    assert max(map(len, text.table(rows).splitlines())) == text.NAME_WIDTH + len("  12 KB")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert text.table(rows) == whole
