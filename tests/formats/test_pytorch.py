"""PyTorch checkpoints: what torch writes is read and back, ties included, and no code from a pickle runs."""

from __future__ import annotations

import collections
import pickle
import sys

import numpy as np
import pytest
from model_files import every_kind, load, refusal, save

from nncjit.errors import ModelError
from nncjit.formats import create, open_model
from nncjit.model import Model, TensorInfo


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def bits(tensor):
    """The bytes of a torch tensor."""
    torch = sys.modules["torch"]
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_torch_reads_what_we_write(tmp_path, torch, suffix):
    infos = every_kind()
    written = save(tmp_path / f"model{suffix}", infos)
    for mmap in (False, True):
        table = torch.load(tmp_path / f"model{suffix}", weights_only=True, mmap=mmap)
        assert [(name, tuple(t.shape), str(t.dtype)) for name, t in table.items()] == [
            (info.name, info.shape, f"torch.{info.dtype}") for info in infos
        ]
        assert all(bits(table[info.name]) == written[info.name].tobytes() for info in infos)


def test_a_module_takes_the_state_dict_that_we_write(tmp_path, torch):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    with create(tmp_path / "model.pt", Model.from_mapping(module).infos) as writer:
        for tensor in Model.from_mapping(module):
            writer.put(tensor.name, tensor.read())
    table = torch.load(tmp_path / "model.pt", weights_only=True)
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    other.load_state_dict(table)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("new_format", [True, False])
def test_we_read_what_torch_writes(tmp_path, torch, new_format):
    base = torch.arange(24.0).reshape(4, 6)
    table = {
        "plain": base,
        "transposed": base.T,
        "strided": base[::2, 1::2],
        "expanded": torch.ones(3, 1).expand(3, 4),
        "scalar": torch.tensor(3, dtype=torch.int16),
        "empty": torch.empty(0, 3, dtype=torch.float16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "brain": base.to(torch.bfloat16),
        "small": base.to(torch.float8_e4m3fn),
        "flag": base > 3,
    }
    if not new_format:
        del table["small"]  # torch itself writes float8 there, and cannot read it
    torch.save(table, tmp_path / "model.pt", _use_new_zipfile_serialization=new_format)
    infos, arrays, metadata = load(tmp_path / "model.pt")
    assert metadata == {}
    assert [(i.name, i.shape, f"torch.{i.dtype}") for i in infos] == [
        (name, tuple(t.shape), str(t.dtype)) for name, t in table.items()
    ]
    assert all(arrays[name].tobytes() == bits(t) for name, t in table.items())


def test_tied_tensors_come_back_tied(tmp_path, torch):
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"embedding": weight, "head": weight, "view": weight.T, "copy": weight.clone()}, tmp_path / "model.pt")
    with open_model(tmp_path / "model.pt") as model:
        infos = model.infos
        assert {info.name: info.same_as for info in infos if info.same_as} == {"head": "embedding"}
        with create(tmp_path / "again.pt", infos) as writer:
            for tensor in model:
                if tensor.same_as is None:
                    writer.put(tensor.name, tensor.read())
    table = torch.load(tmp_path / "again.pt", weights_only=True)
    assert table["head"].data_ptr() == table["embedding"].data_ptr() != table["copy"].data_ptr()
    assert torch.equal(table["head"], weight)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_a_training_checkpoint_gives_its_state_dict_and_a_warning(tmp_path, torch, key):
    table = {"epoch": 3, key: {"w": torch.ones(2), "version": 1}, "optimizer": {"state": [torch.ones(9)]}}
    torch.save(table, tmp_path / "model.pt")
    with pytest.warns(UserWarning, match=r"model\.pt: left out, being no tensors: epoch, optimizer, version$"):
        infos = load(tmp_path / "model.pt")[0]
    assert infos == [TensorInfo("w", (2,), "float32")]


def test_the_only_state_dict_of_a_checkpoint_may_have_any_name(tmp_path, torch):
    rest = {"step": 3, "optimizer_state": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}, "ema": {}}
    torch.save(rest | {"model_state": {"w": torch.ones(2)}}, tmp_path / "model.pt")
    with pytest.warns(UserWarning, match=r"left out, being no tensors: step, optimizer_state, ema$"):
        assert load(tmp_path / "model.pt")[0] == [TensorInfo("w", (2,), "float32")]


def test_an_ordered_state_dict_of_a_module_gives_no_warning(tmp_path, torch):
    torch.save(torch.nn.BatchNorm1d(3).state_dict(), tmp_path / "model.pt")
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert [info.name for info in load(tmp_path / "model.pt")[0]] == names


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda torch: torch.nn.Linear(2, 2), "it needs torch.nn.modules.linear.Linear, and nncjit runs no code"),
        (lambda torch: torch.ones(3), "holds a Tensor, not a state dict"),
        (lambda torch: [torch.ones(3)], "holds a list, not a state dict"),
        (lambda torch: {"epoch": 3, "net": {"w": [3]}}, "no tensors under epoch, net"),
        (lambda torch: {k: {"w": torch.ones(3)} for k in "gd"}, "holds several state dicts (g, d): save the one"),
        (lambda torch: {3: torch.ones(3)}, "the name of a tensor is a str, not 3"),
        (lambda torch: {"a": torch.ones(3, dtype=torch.complex32)}, "a: dtype complex32 is not"),
        (lambda torch: {"a": torch.eye(3).to_sparse()}, "a: a tensor of layout torch.sparse_coo has no plain values"),
        (lambda torch: {"a": torch.ones(3, device="meta")}, "a: a tensor on the meta device has no plain values"),
        (lambda torch: {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "a: dtype qint8 is not"),
    ],
    ids=["module", "tensor", "list", "nested", "several", "number", "complex", "sparse", "meta", "quantised"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_is_no_state_dict_gets_one_line(tmp_path, torch, make, reason):
    path = tmp_path / "model.pt"
    torch.save(make(torch), path)
    message = refusal(lambda: open_model(path))
    assert message.startswith(str(path))
    assert reason in message


class Attack:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("packed", [True, False])
def test_code_in_a_pickle_does_not_run(tmp_path, torch, packed):
    path, victim = tmp_path / "model.pt", tmp_path / "victim"
    if packed:
        torch.save({"a": Attack(victim)}, path)
    else:
        path.write_bytes(pickle.dumps(collections.OrderedDict(a=Attack(victim))))
    assert refusal(lambda: open_model(path)).startswith(str(path))
    assert not victim.exists()


def test_without_torch_the_way_to_get_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "model.pt"
    path.write_bytes(b"PK\x03\x04")
    want = f"{path}: PyTorch files need torch: pip install torch"
    assert refusal(lambda: open_model(path)) == want
    assert refusal(create(path, [TensorInfo("a", (), "int8")]).__enter__) == want
    assert path.read_bytes() == b"PK\x03\x04"


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, torch):
    resource = pytest.importorskip("resource")
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        with create(path, [TensorInfo("a", (100_000,), "int8")]) as writer:
            writer.put("a", np.zeros(100_000, np.int8))

    try:
        for limit in (50_000, 100_100):  # too little for the values, and for what torch adds
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
            assert refusal(fill) == f"{path}: file too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_tensors_in_memory_are_taken_as_they_are(torch):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    model = Model.from_mapping(
        {"w": weight, "tied": weight, "t": weight.T, "half": weight.bfloat16(), "tiny": weight.to(torch.float8_e5m2)}
    )
    assert [(t.dtype, t.shape, t.same_as) for t in model] == [
        ("float32", (2, 3), None),
        ("float32", (2, 3), "w"),
        ("float32", (3, 2), None),
        ("bfloat16", (2, 3), None),
        ("float8_e5m2", (2, 3), None),
    ]
    assert model["w"].read().ctypes.data == weight.data_ptr()
    for tensor, source in zip(model, [weight, weight, weight.T, weight.bfloat16()], strict=False):
        assert tensor.read().tobytes() == bits(source)


def test_a_tensor_without_values_is_refused_by_name(torch):
    with pytest.raises(ModelError, match="w: a tensor on the meta device"):
        Model.from_mapping({"w": torch.ones(3, device="meta")})
