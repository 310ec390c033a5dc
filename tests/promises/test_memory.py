"""Memory is earned before it is allocated: what a few bytes may ask for, and what they get."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from codec.builder import Builder, string

import nncjit
from nncjit.bits import as_source
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.decoder import memory_budget
from nncjit.decoder.memory_budget import UNEARNED_BYTES, usable_memory
from nncjit.stream.data_units import StreamReader
from nncjit.syntax import CodebookSyntax, ParameterTypes, PayloadType


def number(qp: int = 0) -> PayloadEncoder:
    encoder = PayloadEncoder()
    encoder.number(qp, 8)
    return encoder


def one_value(n: int) -> bytes:
    """A codebook of one value: nothing is coded, whatever the dimensions."""
    encoder = number()
    encoder.layer(np.zeros(9, np.int32), Layer.of((9,), codebook_size=1))
    b = Builder()
    b.tensor(
        encoder.finish(),
        nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
        topology_elem_id="w",
        cabac_unary_length_minus1=9,
        codebook=CodebookSyntax((3,), 0),
        nnr_decompressed_data_format=1,
        tensor_dimensions=(n,),
    )
    return b.data


def skipped_rows(rows: int, width: int) -> bytes:
    """All rows skipped: a flag a row is coded."""
    encoder = number()
    encoder.layer(np.zeros(rows * 8, np.int32), Layer.of((rows, 8)), row_skip=True)
    b = Builder()
    b.tensor(
        encoder.finish(),
        nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
        topology_elem_id="w",
        cabac_unary_length_minus1=9,
        tensor_dimensions=(rows, width),
    )
    return b.data


def product(side: int) -> bytes:
    """Two factors of rank 1: their product has side * side elements."""
    factors = np.ones((side, 1), np.float32), np.ones((1, side), np.float32)
    b = Builder()
    b.tensor(
        string(*factors),
        nnr_compressed_data_unit_payload_type=PayloadType.BLOCK,
        topology_elem_ids=("w_G", "w_H"),
        compressed_parameter_types=ParameterTypes.DC,
        decomposition_rank=1,
        g_number_of_rows=side,
        cabac_unary_length_minus1=9,
        tensor_dimensions=(side, side),
    )
    return b.data


HUNGRY = {
    "one value": one_value(2**32),
    "one value, 4 TiB": one_value(2**40),
    "skipped rows": skipped_rows(200, 2_000_000),
    "product": product(60_000),
}
WAYS = {
    "decode": nncjit.decode,
    "verify": nncjit.verify,
    "get_tensor": lambda data: nncjit.open(data).get_tensor("w"),
    "get_slice": lambda data: nncjit.open(data).get_slice("w")[:],
}


@pytest.mark.parametrize("case", HUNGRY)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_earned_is_refused_before_it_is_allocated(case: str, way: str) -> None:
    data = HUNGRY[case]
    tracemalloc.start()
    try:
        with pytest.raises(nncjit.BitstreamError, match="asks for"):
            WAYS[way](data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("data", "n_bytes"), [(one_value(10**6), 4 * 10**6), (product(1000), 4 * 10**6)])
def test_in_moderation_it_is_allowed_and_max_bytes_counts_every_array(data: bytes, n_bytes: int) -> None:
    assert nncjit.decode(data)["w"].nbytes == n_bytes
    assert nncjit.decode(data, max_bytes=6 * n_bytes)["w"].nbytes == n_bytes
    with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
        nncjit.decode(data, max_bytes=n_bytes - 1)


def test_a_caller_who_says_so_gets_what_is_not_earned() -> None:
    n = UNEARNED_BYTES // 3
    with pytest.raises(nncjit.BitstreamError, match="do not earn"):
        nncjit.decode(one_value(n))
    assert nncjit.decode(one_value(n), max_bytes=1 << 32)["w"].size == n


def test_many_small_constants_count_together() -> None:
    b = Builder()
    encoder = number()
    encoder.layer(np.zeros(9, np.int32), Layer.of((9,), codebook_size=1))
    payload = encoder.finish()
    for k in range(40):
        b.tensor(
            payload,
            nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
            topology_elem_id=f"w{k}",
            cabac_unary_length_minus1=9,
            codebook=CodebookSyntax((3,), 0),
            nnr_decompressed_data_format=1,
            tensor_dimensions=(UNEARNED_BYTES // 120,),
        )
    with pytest.raises(nncjit.BitstreamError, match="do not earn"):
        nncjit.verify(b.data)


def test_what_our_encoder_writes_is_within_the_default() -> None:
    arrays = {"zeros": np.zeros((4096, 4096), np.float32), "ones": np.ones((2000, 3000), np.int8)}
    back = nncjit.decode(nncjit.encode(arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_the_default_is_a_share_of_what_this_process_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < usable_memory() < 1 << 46
    monkeypatch.setattr(memory_budget, "_physical_memory", lambda: 1 << 20)
    with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
        nncjit.decode(nncjit.encode({"w": np.random.default_rng(0).normal(0, 1, (500, 500)).astype(np.float32)}))


def test_units_of_one_element_take_little_memory_together() -> None:
    arrays = {f"t{k}": np.float32(k) for k in range(6000)}
    data = nncjit.encode(arrays, unary_length=256, compatible="nncodec")
    tracemalloc.start()
    try:
        back = nncjit.decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(back) == 6000
    assert peak < 64 << 20, "a context for each unit of a batch, not of the stream"


@pytest.mark.parametrize("where", ["prepare_unit", "PayloadDecoding", "compose_unit"])
def test_no_memory_is_our_error(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nncjit.decoder import stream_decoder

    def starve(*args: object, **options: object) -> None:
        raise MemoryError

    data = nncjit.encode({"w": np.ones((30, 40), np.float32)})
    monkeypatch.setattr(stream_decoder, where, starve)
    with pytest.raises(nncjit.ModelError, match="w: no memory"):
        nncjit.decode(data)


def test_what_is_kept_counts_once_and_the_peak_of_one_unit_beside_it() -> None:
    arrays = {f"w{k}": np.random.default_rng(k).normal(0, 1, (200, 300)).astype(np.float16) for k in range(20)}
    data, own = nncjit.encode(arrays), sum(a.nbytes for a in arrays.values())
    assert len(nncjit.decode(data, max_bytes=own + own // 2)) == 20
    with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
        nncjit.decode(data, max_bytes=own - 1)


@pytest.mark.parametrize(("kept", "threads", "most"), [(True, 1, 2), (True, 5, 5), (False, 1, 3), (False, 5, 3)])
def test_batches_have_work_for_all_threads_where_arrays_are_kept_anyway(
    kept: bool, threads: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"KEPT_BATCH_WEIGHTS": 2, "KEPT_WEIGHTS_PER_THREAD": 1, "BATCH_WEIGHTS": 3}
    for name, units in weights.items():
        monkeypatch.setattr(memory_budget, name, units * 60)
    data = nncjit.encode({f"w{k}": np.random.default_rng(k).normal(0, 1, (6, 10)) for k in range(11)})
    with as_source(data) as source:
        budget = memory_budget.MemoryBudget(None, source.size, kept=kept)
        batches = list(budget.batches(StreamReader(source).data_units(), threads))
    assert sum(map(len, batches)) == 11
    assert {len(batch) for batch in batches[:-1]} == {most}
