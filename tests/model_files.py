"""What the tests of formats share: a model with every dtype and odd shape, and whole files written and read."""

from __future__ import annotations

import numpy as np

from nncjit.dtypes import DTYPES, PACKED
from nncjit.errors import NncError
from nncjit.formats import create, open_model
from nncjit.model import TensorInfo

SHAPES = {"scalar": (), "one": (1,), "empty": (0,), "hollow": (3, 0, 2), "odd": (7, 5), "deep": (2, 1, 3, 1, 2)}
WIDTHS = tuple(name for name in DTYPES if name not in ("int2", "int3", "int4", "complex128", *PACKED))
"""dtypes that come back as they were; int2 to int4 are a matter of NNC streams, safetensors has no complex128, and not
every shape is one of packed floats."""
OF_NUMPY = tuple(name for name in WIDTHS if DTYPES[name].storage.name == name)
"""Those of them that NumPy has itself."""


def storage_of(info, seed=0):
    """Any bits that the dtype can have, floats with NaN and infinity among them."""
    dtype = DTYPES[info.dtype]
    rng = np.random.default_rng([seed, *info.name.encode()])
    if dtype.kind == "b":
        return rng.integers(0, 2, info.shape).astype(bool)
    return np.frombuffer(rng.bytes(info.nbytes), dtype.storage).reshape(info.shape)


def every_kind():
    """A tensor of each dtype and shape; wide and narrow mixed, names not sorted."""
    return [TensorInfo(f"{shape}.{dtype}", SHAPES[shape], dtype) for shape in SHAPES for dtype in WIDTHS]


def save(path, infos, metadata=None, *, arrays=None, **options):
    """Write a file, tensors done in the reverse order, and return what was written."""
    arrays = arrays or {info.name: storage_of(info) for info in infos if info.same_as is None}
    with create(path, infos, metadata, **options) as writer:
        for name in reversed(arrays):
            writer.allocate(name)[...] = arrays[name]
            writer.done(name)
    return arrays | {info.name: arrays[info.same_as] for info in infos if info.same_as is not None}


def load(path, **options):
    """Infos, arrays and metadata of a file."""
    with open_model(path, **options) as model:
        return model.infos, {tensor.name: np.array(tensor.read()) for tensor in model}, model.metadata


def refusal(action):
    """The message of the error of ours with which `action` ends, "" if it does not; any other error is a failure."""
    message = ""
    try:
        action()
    except NncError as error:
        message = str(error)
    assert "\n" not in message
    return message


def assert_same_bits(got, want):
    assert list(got) == list(want)
    for name in want:
        assert got[name].shape == want[name].shape, name
        assert got[name].dtype == want[name].dtype, name
        assert got[name].tobytes() == want[name].tobytes(), name
