"""Disk is earned before a file is made: ties, shards, constants and pruned channels that a few bytes announce."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from codec.builder import Builder, string

import nncjit
from nncjit.stream import metadata_unit
from nncjit.stream.metadata_unit import ModelMetadata
from nncjit.syntax import BitMask, PayloadType, PruningContainer, TplHeader, UnitType

SIDE = 1024
OUTPUTS = ("m.safetensors", "m.safetensors.index.json", "m.npz")


def stream(levels: np.ndarray, mask: PruningContainer | None = None, **metadata: object) -> bytes:
    b = Builder(topology_carriage_flag=1)
    b.put(UnitType.TPL, metadata_unit.HEADER, ModelMetadata(**metadata).to_bytes())
    if mask is not None:
        b.put(UnitType.TPL, TplHeader(topology_storage_format=5, topology_compression_format=1), mask)
    b.tensor(
        string(levels),
        nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
        topology_elem_id="w",
        cabac_unary_length_minus1=9,
        tensor_dimensions=levels.shape,
    )
    return b.data


def many_ties(n: int = 200) -> bytes:
    return stream(np.zeros((SIDE, SIDE), np.int32), tied={f"t{k}": "w" for k in range(n)})


def text_in_many_shards(n: int = 300) -> bytes:
    tied = {f"t{k}": "w" for k in range(n)}
    shards = {name: f"{name}.safetensors" for name in ("w", *tied)}
    return stream(np.zeros((2, 2), np.int32), tied=tied, shards=shards, metadata={"x": "y" * (1 << 20)})


def pruned_away(rows: int = 1 << 19) -> bytes:
    full = (rows, SIDE // 4)
    mask = np.ones(full, np.bool_)
    mask[:2, :2] = False
    container = PruningContainer(order_flag=1, prune_mask=BitMask(count=mask.size, bits=np.packbits(mask).tobytes()))
    return stream(np.ones((2, 2), np.int32), container, full_shapes={"w": full})


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("output", OUTPUTS)
def test_ties_beyond_what_is_earned_are_refused_before_a_file_is_made(output: str, tmp_path: Path) -> None:
    source = tmp_path / "s.nnc"
    source.write_bytes(many_ties())
    with pytest.raises(nncjit.BitstreamError, match="of disk"):
        nncjit.decompress(source, tmp_path / output)
    assert files_of(tmp_path) == ["s.nnc"]
    nncjit.verify(source)  # reads no more than one tensor
    assert len(nncjit.decode(source)) == 201


def test_metadata_that_each_shard_repeats_counts_each_time(tmp_path: Path) -> None:
    source = tmp_path / "s.nnc"
    source.write_bytes(text_in_many_shards())
    with pytest.raises(nncjit.BitstreamError, match="of disk"):
        nncjit.decompress(source, tmp_path / OUTPUTS[1], max_bytes=100 << 20)
    assert files_of(tmp_path) == ["s.nnc"]


def test_zeros_for_what_was_pruned_are_not_earned(tmp_path: Path) -> None:
    data = pruned_away()
    source = tmp_path / "s.nnc"
    source.write_bytes(data)
    with pytest.raises(nncjit.BitstreamError, match="full size"):
        nncjit.decompress(source, tmp_path / OUTPUTS[0], full_size=True, max_bytes=1 << 26)
    with pytest.raises(nncjit.BitstreamError, match="of disk"):
        nncjit.decompress(source, tmp_path / OUTPUTS[0], full_size=True, max_bytes=None)
    nncjit.decompress(source, tmp_path / OUTPUTS[0])
    assert files_of(tmp_path) == [OUTPUTS[0], "s.nnc"]


def test_in_moderation_and_where_the_caller_says_so_ties_are_written(tmp_path: Path) -> None:
    source, target = tmp_path / "s.nnc", tmp_path / OUTPUTS[0]
    source.write_bytes(many_ties(12))
    assert len(nncjit.decompress(source, target).tensors) == 13
    n_bytes = 13 * 4 * SIDE * SIDE
    nncjit.decompress(source, target, max_bytes=n_bytes)
    with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
        nncjit.decompress(source, target, max_bytes=n_bytes - 1)


def test_a_tied_model_of_ours_comes_back(tmp_path: Path) -> None:
    shared = np.random.default_rng(0).normal(0, 1, (300, 200)).astype(np.float32)
    model = {f"layer.{k}": shared for k in range(24)} | {"zeros": np.zeros((2000, 2000), np.float32)}
    source = tmp_path / "m.nnc"
    nncjit.compress(model, source)
    nncjit.decompress(source, tmp_path / OUTPUTS[0])
    assert (tmp_path / OUTPUTS[0]).stat().st_size > 24 * shared.nbytes
