"""Models: order, names, ties, and arrays of any maker taken as they are."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.errors import ModelError
from nncjit.model import Model, Tensor, TensorInfo


def tensor(name, shape=(2,), dtype="float32", same_as=None):
    return Tensor(name, shape, dtype, lambda: np.zeros(shape, dtype), same_as)


def test_order_is_kept():
    names = ["z", "a", "m", "0", ""]
    model = Model(map(tensor, names))
    assert model.names == names
    assert [t.name for t in model] == names
    assert [info.name for info in model.infos] == names
    assert len(model) == 5
    assert "m" in model
    assert "b" not in model
    assert model["m"].name == "m"


def test_a_name_occurs_once():
    with pytest.raises(ModelError, match="two tensors are named 'a'"):
        Model([tensor("a"), tensor("b"), tensor("a")])


def test_a_missing_name_is_told():
    with pytest.raises(ModelError, match="there is no tensor 'b'"):
        Model([tensor("a")])["b"]


@pytest.mark.parametrize(
    "tensors",
    [
        [tensor("a", same_as="b"), tensor("b")],
        [tensor("a", same_as="a")],
        [tensor("a"), tensor("b", same_as="a"), tensor("c", same_as="b")],
        [tensor("a"), tensor("b", (3,), same_as="a")],
        [tensor("a"), tensor("b", (2,), "int32", same_as="a")],
    ],
)
def test_a_tie_leads_to_an_earlier_equal_tensor(tensors):
    with pytest.raises(ModelError, match="tied"):
        Model(tensors)


def test_closing_happens_once():
    calls = []
    with Model([], close=lambda: calls.append(1)) as model:
        assert calls == []
    model.close()
    assert calls == [1]


def test_sizes():
    info = TensorInfo("a", (3, 4), "bfloat16")
    assert (info.size, info.nbytes, info.empty().dtype) == (12, 24, np.uint16)
    assert (TensorInfo("s", (), "float64").size, TensorInfo("e", (3, 0), "int8").nbytes) == (1, 0)
    assert (tensor("a", (3, 4)).size, tensor("a", (3, 4)).nbytes) == (12, 48)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "reason"),
    [
        ("a", (2,), "complex32", "dtype complex32"),
        ("a", (2, -1), "float32", "dimension -1"),
        ("a", (1,) * 65, "float32", "65 dimensions"),
        ("a", (1 << 40, 1 << 40), "int8", "too large"),
        ("a", (1 << 62, 0), "float32", "too large"),
        ("\ud800", (), "float32", "not valid Unicode"),
    ],
)
@pytest.mark.parametrize("kind", [TensorInfo, lambda *args: Tensor(*args, read=lambda: None)])
def test_impossible_tensors_are_refused(kind, name, shape, dtype, reason):
    with pytest.raises(ModelError, match=reason):
        kind(name, shape, dtype)


def test_arrays_in_memory_are_read_without_a_copy():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = Model.from_mapping({"w": array}, {"made by": "hand"})
    assert model["w"].info == TensorInfo("w", (2, 3), "float32")
    assert model["w"].read() is array
    assert model.metadata == {"made by": "hand"}


def test_numbers_and_lists_are_taken_as_numpy_takes_them():
    model = Model.from_mapping({"n": 3.5, "l": [1, 2], "b": True, "s": np.float16(2), "c": 1j})
    dtypes = {"n": "float64", "l": "int64", "b": "bool", "s": "float16", "c": "complex128"}
    assert {t.name: t.dtype for t in model} == dtypes
    assert [t.shape for t in model] == [(), (2,), (), (), ()]
    assert [t.read().tolist() for t in model] == [3.5, [1, 2], True, 2.0, 1j]


@pytest.mark.parametrize("value", [None, "text", b"bytes", {"nested": 1}, [[1], [1, 2]], np.array(["a"])], ids=repr)
def test_what_is_no_array_of_numbers_is_refused_by_name(value):
    with pytest.raises(ModelError, match=r"^layer\.weight: "):
        Model.from_mapping({"layer.weight": value})


@pytest.mark.parametrize("mapping", [[1, 2], None, np.ones(3)], ids=["list", "None", "array"])
def test_a_model_is_a_mapping(mapping):
    with pytest.raises(ModelError, match="a mapping of names to arrays, not "):
        Model.from_mapping(mapping)


def test_names_are_text():
    with pytest.raises(ModelError, match="is a str, not 3"):
        Model.from_mapping({3: np.ones(2)})


def test_equal_memory_is_a_tie_and_equal_numbers_are_not():
    weight = np.arange(12.0).reshape(3, 4)
    model = Model.from_mapping(
        {
            "embedding": weight,
            "copy": weight.copy(),
            "head": weight,
            "view": weight[:],
            "transposed": weight.T,
            "part": weight[:2],
            "bits": weight.view(np.int64),
            "reshaped": weight.reshape(4, 3),
        }
    )
    assert {t.name: t.same_as for t in model if t.same_as} == {"head": "embedding", "view": "embedding"}
    np.testing.assert_array_equal(model["head"].read(), weight)


def test_empty_arrays_are_not_tied():
    empty = np.empty((0, 3))
    assert [t.same_as for t in Model.from_mapping({"a": empty, "b": empty})] == [None, None]


def test_arrays_of_ml_dtypes_are_bits():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.ones((2, 3), ml_dtypes.bfloat16)
    model = Model.from_mapping({"a": array, "bits": array.view(np.uint16)})
    assert [t.dtype for t in model] == ["bfloat16", "uint16"]
    assert model["bits"].same_as is None
    assert (model["a"].read() == 0x3F80).all()


class Foreign:
    """An array of a maker that NumPy can convert, as JAX's are."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        return self._array


def test_foreign_arrays_are_converted_when_read():
    array = Foreign(np.arange(6, dtype=np.int16).reshape(2, 3))
    model = Model.from_mapping({"a": array, "b": array})
    assert (model["a"].shape, model["a"].dtype, model["b"].same_as) == ((2, 3), "int16", "a")
    np.testing.assert_array_equal(model["a"].read(), array._array)


def test_a_module_gives_its_state_dict():
    class Module:
        def state_dict(self):
            return {"w": np.ones(3)}

    assert Model.from_mapping(Module()).names == ["w"]
