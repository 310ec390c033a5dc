"""Keras files go to streams and come back, attribute by attribute; those of strangers are read with suspicion."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.formats import open_model

h5py = pytest.importorskip("h5py")
import keras_files as made  # noqa: E402


def there_and_back(folder, path, **options):
    target = folder / f"back{''.join(path.suffixes)}"
    report = nncjit.compress(path, folder / "m.nnc", **options)
    nncjit.decompress(folder / "m.nnc", target)
    return target, report


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_come_back_member_by_member(tmp_path, compression):
    made.keras_archive(tmp_path / "a.keras", compression=compression)
    back, _ = there_and_back(tmp_path, tmp_path / "a.keras", quantizer="raw")
    a, b = members_of(tmp_path / "a.keras"), members_of(back)
    assert list(a) == list(b)
    trees = [made.tree_of(h5py.File(io.BytesIO(m.pop("model.weights.h5")))) for m in (a, b)]
    assert trees[0] == trees[1]
    assert a == b


@pytest.mark.parametrize("model", [True, False])
def test_files_of_keras_2_come_back_attribute_by_attribute(tmp_path, model):
    made.keras_2_h5(tmp_path / "a.h5", model=model)
    back, _ = there_and_back(tmp_path, tmp_path / "a.h5", quantizer="raw")
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(back) as b:
        assert made.tree_of(a) == made.tree_of(b)
        assert not model or b["twice"] == b["model_weights/d1/d1/kernel:0"]  # one dataset with two names


def test_files_of_weights_alone_come_back(tmp_path):
    made.weights_h5(tmp_path / "a.weights.h5")
    back, _ = there_and_back(tmp_path, tmp_path / "a.weights.h5", quantizer="raw")
    with h5py.File(tmp_path / "a.weights.h5") as a, h5py.File(back) as b:
        assert made.tree_of(a) == made.tree_of(b)


def sharded(folder, stem="a"):
    """As ``save_weights(..., max_shard_size=...)`` writes it: a group of several variables has a list of files."""
    groups = {0: ["layers/conv2d/vars/0", "layers/dense/vars/0"], 1: ["layers/conv2d/vars/1", "optimizer/vars/1"]}
    weight_map = {"/layers/conv2d/vars": [f"{stem}_0000{k}.weights.h5" for k in range(2)]}
    for k, names in groups.items():
        shard = f"{stem}_{k:05}.weights.h5"
        with h5py.File(folder / shard, "w") as file:
            for name in names:
                file[name] = made.ARRAYS[name]
                weight_map.setdefault(f"/{name.rpartition('/')[0]}", shard)
            file["layers"].attrs["name"] = "x"
    index = {"metadata": {"total_size": 1234}, "weight_map": weight_map}
    (folder / f"{stem}.weights.json").write_text(json.dumps(index))
    return folder / f"{stem}.weights.json"


def test_weights_in_several_files_come_back_in_several_files(tmp_path):
    index = sharded(tmp_path)
    (tmp_path / "again").mkdir()
    nncjit.compress(index, tmp_path / "m.nnc", preset="lossless")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "again" / "b.weights.json")
    for k in range(2):
        files = tmp_path / f"a_{k:05}.weights.h5", tmp_path / "again" / f"b_{k:05}.weights.h5"
        with h5py.File(files[0]) as a, h5py.File(files[1]) as b:
            assert made.tree_of(a) == made.tree_of(b)
    said = [json.loads(path.read_text()) for path in (index, tmp_path / "again" / "b.weights.json")]
    assert said[1] == json.loads(json.dumps(said[0]).replace("a_0000", "b_0000"))
    assert "several files" in refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "b.h5"))
    (tmp_path / "c_00001.weights.h5").touch()
    assert "is no part of" in refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "c.weights.json"))
    made.weights_h5(tmp_path / "one.h5")
    nncjit.compress(tmp_path / "one.h5", tmp_path / "one.nnc")
    assert "was one file" in refusal(lambda: nncjit.decompress(tmp_path / "one.nnc", tmp_path / "d.weights.json"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"/layers/dense/vars": "a_00007.weights.h5"}, "a_00007.weights.h5"),
        ({"/layers/none/vars": "a_00000.weights.h5"}, "/layers/none/vars is not in a_00000"),
        ({"/layers/dense/vars": "../a_00000.weights.h5"}, "no .h5 file beside the index"),
        ({"/layers/dense/vars": 7}, "no .h5 file beside the index"),
        ({"/layers/dense/vars": ["a_00000.weights.h5", [8]]}, "in [8], which is no .h5 file beside the index"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path, change, words):
    index = sharded(tmp_path)
    said = json.loads(index.read_text())
    said["weight_map"] |= change
    index.write_text(json.dumps(said))
    assert words in refusal(lambda: open_model(index))
    for text in ("[]", "{", '{"weight_map": {}}'):
        index.write_text(text)
        assert str(index) in refusal(lambda: open_model(index))


def test_the_configuration_is_the_topology_and_the_optimizer_is_exact(tmp_path):
    made.keras_archive(tmp_path / "a.keras")
    back, report = there_and_back(tmp_path, tmp_path / "a.keras")
    with nncjit.open(tmp_path / "m.nnc") as f:
        (graph,) = f.graphs()
    assert (graph.format, json.loads(graph.data)) == ("tensorflow", made.CONFIG)
    snr = {row.name: row.snr for row in report.tensors}
    assert 20 < snr["layers/conv2d/vars/0"] < 60
    with h5py.File(io.BytesIO(members_of(back)["model.weights.h5"])) as b:
        assert np.array_equal(b["optimizer/vars/1"], made.ARRAYS["optimizer/vars/1"])


def test_layers_tell_the_roles_of_their_tensors(tmp_path):
    made.keras_archive(tmp_path / "a.keras")
    made.keras_2_h5(tmp_path / "a.h5")
    with open_model(tmp_path / "a.keras") as model:
        roles = {tensor.name: tensor.role for tensor in model}
    assert [roles[f"layers/batch_normalization/vars/{k}"].kind for k in range(4)] == ["gamma", "beta", "mean", "var"]
    conv = [roles[f"layers/conv2d/vars/{k}"] for k in (0, 1)]
    assert [(r.kind, r.layer) for r in conv] == [("weight", "layers/conv2d/vars"), ("bias", "layers/conv2d/vars")]
    assert conv[0].axis == 3
    with open_model(tmp_path / "a.h5") as model:
        assert model["model_weights/c1/c1/kernel:0"].role.axis == 3
    report = nncjit.compress(tmp_path / "a.keras", tmp_path / "m.nnc", blocks=True)
    assert {row.name for row in report.tensors} >= set(made.ARRAYS)


def test_bfloat16_is_what_keras_says_it_is(tmp_path):
    bits = np.arange(16, dtype=np.uint16).reshape(4, 4) + 0x3F00
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        item = file.create_dataset("vars/0", data=bits.view("V2"))
        item.attrs["dtype"] = "bfloat16"
    back, _ = there_and_back(tmp_path, tmp_path / "a.weights.h5", quantizer="raw")
    with open_model(tmp_path / "a.weights.h5") as model:
        assert model["vars/0"].dtype == "bfloat16"
    with h5py.File(tmp_path / "a.weights.h5") as a, h5py.File(back) as b:
        assert made.tree_of(a) == made.tree_of(b)


def test_a_file_becomes_one_of_its_own_kind_only(tmp_path):
    made.keras_archive(tmp_path / "a.keras")
    nncjit.compress(tmp_path / "a.keras", tmp_path / "m.nnc")
    assert "was a .keras archive" in refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "b.h5"))
    plain = nncjit.encode({"w": np.ones((4, 4), "f4")})
    assert "TENSORFLOW graph" in refusal(lambda: nncjit.decompress(plain, tmp_path / "b.keras"))
    foreign = nncjit.encode({"w": np.ones((4, 4), "f4")}, graphs=[nncjit.Graph("tensorflow", b"{}")])
    assert "made of a Keras file" in refusal(lambda: nncjit.decompress(foreign, tmp_path / "b.keras"))
    assert not (tmp_path / "b.keras").exists()


def test_a_saved_model_is_named_as_what_is_not_read(tmp_path):
    (tmp_path / "net" / "variables").mkdir(parents=True)
    (tmp_path / "net" / "saved_model.pb").write_bytes(b"x")
    for source in (tmp_path / "net", tmp_path / "net" / "saved_model.pb"):
        assert "SavedModel" in refusal(lambda at=source: nncjit.compress(at, tmp_path / "m.nnc"))


def h5_with(path, write):
    with h5py.File(path, "w") as file:
        write(file)


def linked_loop(file):
    file.create_group("a")["b"] = file


HOSTILE = {
    "link to another file": lambda f: f.__setitem__("w", h5py.ExternalLink("/etc/passwd", "x")),
    "soft link": lambda f: f.__setitem__("w", h5py.SoftLink("/w")),
    "is the group / again": linked_loop,
    "in other files": lambda f: f.create_dataset("w", (8,), "f4", external=[("/etc/passwd", 0, 32)]),
    "0 bytes are stored of float32[1099511627776]": lambda f: f.create_dataset("w", (1 << 40,), "f4"),
    "bytes are stored of float32": lambda f: f.create_dataset("w", (1 << 26, 64), "f4", chunks=(64, 64)),
    "nncjit does not hold": lambda f: f.create_dataset("w", (2,), np.dtype([("a", "f4"), ("b", "i4")])),
    "type |V3, which": lambda f: f.create_dataset("w", data=np.zeros(3, "V3")),
    "neither a group nor a dataset": lambda f: f.__setitem__("w", np.dtype("f4")),
    "groups within each other": lambda f: f.create_group("/".join("a" * 80)),
}


def test_opaque_bytes_and_datasets_without_values_come_back(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["bfloat16 of Keras 2"] = made.RNG.integers(0, 256, (64, 2), "u1").view("V2")
        file["none"] = h5py.Empty("f4")
    back, _ = there_and_back(tmp_path, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(back) as b:
        assert made.tree_of(a) == made.tree_of(b)


def test_layers_that_are_quantised_already_lose_nothing(tmp_path):
    kernel, scale = made.RNG.integers(-127, 128, (32, 16), "i1"), made.RNG.random(16, "f4")
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        for layer, first in (("dense", kernel), ("dense_1", kernel.astype("f4"))):
            for k, values in enumerate((first, scale * 0.1, scale)):  # kernel, bias, scale
                file[f"layers/{layer}/vars/{k}"] = values
    nncjit.compress(tmp_path / "a.weights.h5", tmp_path / "m.nnc")
    with nncjit.open(tmp_path / "m.nnc") as stream:
        for k, values in enumerate((kernel, scale * 0.1, scale)):
            assert np.array_equal(stream[f"layers/dense/vars/{k}"], values)
        assert not np.array_equal(stream["layers/dense_1/vars/0"], kernel)


@pytest.mark.parametrize("reason", HOSTILE)
def test_hdf5_leads_nowhere_else_and_earns_its_memory(tmp_path, reason):
    h5_with(tmp_path / "a.h5", HOSTILE[reason])
    message = refusal(lambda: nncjit.compress(tmp_path / "a.h5", tmp_path / "m.nnc"))
    assert reason in message
    assert "a.h5" in message


def test_members_lead_nowhere_else_and_earn_their_memory(tmp_path):
    path = tmp_path / "a.keras"
    for members, reason in (
        ({"../../evil": "x"}, "leads out"),
        ({"assets/bomb": bytes(1 << 25)}, "would become"),
        ({"config.json": None}, "no config.json"),
        ({"model.weights.h5": None}, "no weights in HDF5"),
        ({"model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(99)}, "damaged"),
    ):
        made.keras_archive(path, members=members, compression=zipfile.ZIP_DEFLATED)
        assert reason in refusal(lambda: nncjit.compress(path, tmp_path / "m.nnc"))


def test_files_cut_off_anywhere_are_refused_or_read(tmp_path):
    made.keras_archive(tmp_path / "a.keras")
    made.weights_h5(tmp_path / "a.h5")
    for name in ("a.keras", "a.h5"):
        data = (tmp_path / name).read_bytes()
        for size in range(8, len(data), len(data) // 25):
            (tmp_path / f"cut{name[1:]}").write_bytes(data[:size])
            refusal(lambda at=tmp_path / f"cut{name[1:]}": nncjit.compress(at, tmp_path / "m.nnc", quantizer="raw"))


def stream_with(parts, arrays=None):
    graphs = [nncjit.Graph("tensorflow", b"{}")]
    return nncjit.encode(arrays or {"w": np.ones(4, "f4")}, graphs=graphs, metadata={"keras parts": json.dumps(parts)})


DATASET = {"type": "<f4", "attrs": {}}
PARTS = {
    "leads out": {"form": "keras", "members": ["../evil.weights.h5"], "trees": {"../evil.weights.h5": {}}},
    "contradicts": {"form": "keras", "members": ["config.json"], "trees": {"x.weights.h5": {}}},
    "was something else": {"form": "x", "trees": {"": {}}},
    "is damaged": {"form": "hdf5"},
    "no name": {"form": "hdf5", "trees": {"": {"attrs": {}, "items": {"/w": DATASET}}}},
    "not in the stream": {"form": "hdf5", "trees": {"": {"attrs": {}, "items": {"v": DATASET}}}},
    "no place": {"form": "hdf5", "trees": {"": {"attrs": {}, "items": {}}}},
    "wants int32": {"form": "hdf5", "trees": {"": {"attrs": {}, "items": {"w": DATASET | {"type": "<i4"}}}}},
    "attrs": {"form": "hdf5", "trees": {"": {"items": {"w": DATASET}}}},
    "type |O": {
        "form": "hdf5",
        "trees": {"": {"items": {}, "attrs": {"a": {"type": "|O", "shape": [1], "data": "AAAAAAAAAAA="}}}},
    },
    "buffer": {
        "form": "hdf5",
        "trees": {"": {"items": {}, "attrs": {"a": {"type": "<f8", "shape": [1 << 50], "data": ""}}}},
    },
}


@pytest.mark.parametrize("reason", PARTS)
def test_streams_of_strangers_make_no_odd_files(tmp_path, reason):
    target = tmp_path / f"b.{'keras' if PARTS[reason]['form'] == 'keras' else 'h5'}"
    message = refusal(lambda: nncjit.decompress(stream_with(PARTS[reason]), target))
    assert message
    assert reason in message or reason == "buffer"
    assert not list(tmp_path.iterdir())
