"""What the writer writes the reader reads; all else is refused with its place."""

import pickle
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncjit.bits import MAX_UE_SUFFIX, BitReader, BitWriter, EndOfDataError
from nncjit.errors import BitstreamError, NncError, OptionError

ORDERS = st.integers(0, 12)
SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)


def sized(signed):
    def values(n):
        low, high = (-(1 << (n - 1)), (1 << (n - 1)) - 1) if signed else (0, (1 << n) - 1)
        return st.tuples(st.just("i" if signed else "u"), st.just(n), st.integers(low, high))

    return st.integers(1, 70).flatmap(values)


VALUES = st.one_of(
    sized(signed=False),
    sized(signed=True),
    st.tuples(st.just("ue"), ORDERS, st.integers(0, (1 << MAX_UE_SUFFIX) - (1 << 12))),
    st.tuples(st.just("ue"), ORDERS, st.integers(0, 100)),
    st.tuples(st.just("ie"), ORDERS, st.integers(-(1 << 38), 1 << 38)),
    st.tuples(st.just("ie"), ORDERS, st.integers(-9, 9)),
    st.tuples(st.just("flt"), SINGLES),
    st.tuples(st.just("align")),
    st.tuples(st.just("st"), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    st.integers(0, 90).flatmap(
        lambda n: st.tuples(st.just("packed"), st.just(n), st.integers(0, (1 << n) - 1)).map(
            lambda t: (t[0], t[1], (t[2] << (-t[1] & 7)).to_bytes((t[1] + 7) // 8, "big"))
        )
    ),
)


def written(values):
    bits = BitWriter()
    for call, *arguments in values:
        if call == "st":
            bits.align()
        getattr(bits, call)(*arguments)
    bits.align()
    return bits.getvalue()


def read_back(data, values):
    bits = BitReader(data)
    back = []
    for call, *arguments in values:
        if call == "st":
            bits.align()
        back.append(getattr(bits, call)(*arguments[:-1]))
    bits.align()
    assert bits.left == 0
    return back


@given(st.lists(VALUES, max_size=30))
def test_what_is_written_reads_back(values):
    assert read_back(written(values), values) == [None if v[0] == "align" else v[-1] for v in values]


@given(st.lists(VALUES, min_size=1, max_size=6), st.data())
def test_every_proper_prefix_is_truncated(values, data):
    whole = written(values)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(EndOfDataError, match="left") as caught:
        read_back(whole[:cut], values)
    assert caught.value.bit <= 8 * cut


@given(
    st.binary(max_size=40), st.lists(st.tuples(st.sampled_from(["u", "i", "ue", "ie", "packed"]), st.integers(1, 30)))
)
def test_any_bits_give_a_value_or_our_error(data, calls):
    bits = BitReader(data, bit=80)
    for call, n in calls:
        before = bits.pos
        try:
            getattr(bits, call)(n)
        except BitstreamError as err:
            place = err.bit
            assert bits.pos == before, "an element that fails leaves the position at its start"
            assert place == 80 + before
            return
        assert before < bits.pos <= 8 * len(data)


@pytest.mark.parametrize(
    ("bits", "k", "value"),
    [("1", 0, 0), ("010", 0, 1), ("011", 0, 2), ("00100", 0, 3), ("100", 2, 0), ("01000", 2, 4), ("0011111", 0, 6)],
)
def test_exponential_golomb_as_in_the_standard(bits, k, value):
    data = int(bits.ljust(8, "0"), 2).to_bytes(1, "big")
    assert BitReader(data).ue(k) == value


@pytest.mark.parametrize(("y", "value"), [(0, 0), (1, 1), (2, -1), (3, 2), (4, -2), (5, 3)])
def test_signed_exponential_golomb_alternates(y, value):
    bits = BitWriter()
    bits.ue(3, y)
    bits.align()
    assert BitReader(bits.getvalue()).ie(3) == value


def test_float_has_its_low_byte_first():
    assert BitReader(struct.pack("<f", 1.5)).flt() == 1.5


def test_aligning_on_a_boundary_takes_a_whole_byte():
    bits = BitWriter()
    bits.align()
    assert bits.getvalue() == b"\x80"
    reader = BitReader(b"\x80\x80")
    reader.align()
    assert reader.pos == 8


@pytest.mark.parametrize("data", [b"\x00", b"\x81", b"\x40"])
def test_wrong_alignment_bits_are_refused(data):
    with pytest.raises(BitstreamError, match="alignment"):
        BitReader(data).align()


def test_error_names_element_and_place():
    bits = BitReader(b"\xff", bit=800, path="Table.row")
    bits.u(1)
    with pytest.raises(BitstreamError, match=r"Table\.row: needs 9 bits, 7 left \(bit 801 = byte 100 \+ 1\)"):
        bits.u(9)


def test_end_of_data_survives_pickling():
    error = EndOfDataError("needs 1 bits", bit=3, path="x")
    assert pickle.loads(pickle.dumps(error)).args == error.args


@pytest.mark.parametrize("k", [0, 7, 11])
def test_long_exponential_golomb_codes_are_refused_at_once(k):
    start = time.perf_counter()
    with pytest.raises(BitstreamError, match="more than 40 bits"):
        BitReader(bytes(1 << 20)).ue(k)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(("k", "zeros", "fits"), [(0, 40, True), (0, 41, False), (7, 33, True), (7, 34, False)])
@pytest.mark.parametrize("skip", range(8))
def test_exponential_golomb_codes_have_at_most_40_bits_after_their_prefix(k, zeros, fits, skip):
    bits = BitWriter()
    bits.u(zeros + skip, 0)
    bits.u(1, 1)
    bits.u(60, (1 << 60) - 1)
    bits.align()
    reader = BitReader(bits.getvalue())
    reader.u(skip) if skip else None
    if fits:
        assert reader.ue(k) == (2 << zeros + k) - (1 << k) - 1
    else:
        with pytest.raises(BitstreamError, match="more than 40 bits"):
            reader.ue(k)


@given(st.integers(1, 8), st.integers(0, 7), st.integers(0, 64))
def test_reading_stops_where_told(n_bytes, skip, n):
    bits = BitReader(b"\xff" * 12)
    bits.stop_at(n_bytes)
    bits.u(skip)
    if skip + n <= 8 * n_bytes:
        assert bits.u(n) == (1 << n) - 1
    else:
        with pytest.raises(EndOfDataError):
            bits.u(n)


def test_text_that_is_not_utf8_is_refused_at_its_bad_byte():
    with pytest.raises(BitstreamError, match="UTF-8") as caught:
        BitReader(b"ab\xff\0").st()
    assert caught.value.bit == 16


def test_very_long_text_is_refused():
    with pytest.raises(BitstreamError, match="more than 65535 bytes"):
        BitReader(b"a" * 70000 + b"\0").st()


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("u", (3, 8)),
        ("u", (3, -1)),
        ("u", (3, 1.0)),
        ("u", (3, "1")),
        ("i", (3, 4)),
        ("i", (3, -5)),
        ("ue", (0, -1)),
        ("ue", (0, 1 << 41)),
        ("ie", (0, 1 << 41)),
        ("flt", (float("nan"),)),
        ("flt", (float("inf"),)),
        ("flt", (1e39,)),
        ("flt", ("1",)),
        ("st", ("a\0b",)),
        ("st", ("\ud800",)),
        ("st", (b"a",)),
        ("st", ("a" * 70000,)),
        ("packed", (9, b"\xff")),
        ("packed", (9, b"\xff\xff")),
    ],
)
def test_values_that_do_not_fit_are_refused(call, arguments):
    bits = BitWriter()
    bits.path = "Table.row"
    with pytest.raises(OptionError, match=r"^Table\.row: "):
        getattr(bits, call)(*arguments)
    assert bits.pos == 0


def test_numpy_integers_are_written_as_integers():
    np = pytest.importorskip("numpy")
    bits = BitWriter()
    for _ in range(200):
        bits.u(40, np.int64((1 << 40) - 3))
    assert BitReader(bits.getvalue()).u(40) == (1 << 40) - 3


def test_reader_keeps_its_own_copy_of_what_can_change():
    data = bytearray(b"\x01")
    bits = BitReader(data)
    data[0] = 9
    assert bits.u(8) == 1


def test_all_errors_are_ours():
    assert issubclass(EndOfDataError, BitstreamError)
    assert issubclass(BitstreamError, NncError)
