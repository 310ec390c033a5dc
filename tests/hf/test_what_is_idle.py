"""What a folder with streams inside has no use for is refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save_file

import nncjit
from nncjit.convert.hf_layout import compress_folder


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("idle")
    (folder / "plain").mkdir()
    (folder / "plain" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    rng = np.random.default_rng(0)
    tensors = {f"layer.{k}.weight": rng.standard_normal((64, 64), dtype=np.float32) for k in range(3)}
    save_file(tensors, folder / "plain" / "model.safetensors", {"format": "pt"})
    compress_folder(folder / "plain", folder / "encoded")
    return folder / "encoded"


def test_arguments_without_a_use_are_refused(encoded, tmp_path):
    idle = (
        ({"full_size": True}, "full_size cannot be used"),
        ({"executor": ThreadPoolExecutor(1)}, "an executor decodes"),
    )
    for arguments, said in idle:
        with pytest.raises(nncjit.OptionError, match=said):
            nncjit.decompress(encoded, tmp_path / "back", **arguments)


def test_shards_are_made_where_they_are_asked_for(encoded, tmp_path):
    nncjit.decompress(encoded, tmp_path / "back", shard_size="20KB")
    assert len(list((tmp_path / "back").glob("*.safetensors"))) == 3
    assert nncjit.diff(tmp_path / "back", encoded.with_name("plain")).snr > 20
