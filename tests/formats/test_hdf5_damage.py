"""Damaged HDF5 files end in an error of ours or a model, soon and in little memory: their text is not believed."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from model_files import refusal

from nncjit.formats import open_model

h5py = pytest.importorskip("h5py")

PLACES = {
    "attribute": lambda f: f.attrs.update({"a": ["one", "two"], "b": np.arange(3)}),
    "one of many attributes": lambda f: f.attrs.update({f"a{k}": f"text {k}" for k in range(12)}),
    "dataset": lambda f: f.create_dataset("t", data=["one", "two"]),
    "dataset in chunks": lambda f: f.create_dataset("t", data=["one", "two", "three"], chunks=(2,)),
    "dataset in a header": lambda f: compact(f, ["one", "two"]),
}


def compact(file, words):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    kind = h5py.h5t.py_create(h5py.string_dtype(), logical=True)
    made = h5py.h5d.create(file.id, b"t", kind, h5py.h5s.create_simple((len(words),)), plist)
    h5py.Dataset(made)[...] = words


def file_with(path, write, libver=None):
    with h5py.File(path, "w", libver=libver) as file:
        write(file)
        file["w"] = np.ones((4, 4), "f4")
        file["w"].attrs["dtype"] = "float32"
    return path.read_bytes()


def claims_in(data):
    """Where the elements of text of variable length are."""
    heap = struct.pack("<Q", data.index(b"GCOL"))
    at, found = data.find(heap), []
    while at >= 0:
        if 0 < int.from_bytes(data[at - 4 : at], "little") < 99:
            found.append(at - 4)
        at = data.find(heap, at + 1)
    return found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("libver", [None, "latest"])
def test_text_is_read_and_its_length_is_not_believed(tmp_path, place, libver):
    path = tmp_path / "a.h5"
    data = file_with(path, PLACES[place], libver)
    with open_model(path) as model:
        assert [tensor.name for tensor in model] == ["w"]
    claims = claims_in(data)
    assert len(claims) >= 3
    for at in claims:
        for heap in (data[at + 4 : at + 12], bytes(8), b"\1" * 8):
            path.write_bytes(data[:at] + b"\xff\xff\xff\x7f" + heap + data[at + 12 :])
            message = refusal(lambda: open_model(path))
            # newer headers have checksums, which are wrong now
            assert message
            assert "claims to be text of 2147483" in message or libver


def test_text_that_many_places_repeat_is_refused(tmp_path):
    path = tmp_path / "a.h5"

    def write(file):
        file["t"] = ["x" * 50_000] + ["y"] * 9_999

    data = file_with(path, write)
    with h5py.File(path) as file:
        first = file["t"].id.get_offset()
    same = data[first : first + 16] * 10_000
    path.write_bytes(data[:first] + same + data[first + len(same) :])
    assert "claims to be text of 500000000 bytes" in refusal(lambda: open_model(path))


def test_packed_text_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    file_with(path, lambda f: f.create_dataset("t", data=["one", "two"], compression="gzip"))
    assert "packed text of variable length" in refusal(lambda: open_model(path))


FLIPS = """
import sys
from nncjit.errors import NncError
from nncjit.formats import open_model

def peak():
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (10 if sys.platform == "darwin" else 0)


before, results = peak(), [0, 0]
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        data = file.read()
    for k in range(120):
        at = k * 7919 % len(data)
        bad = data[at] ^ (0x80, 0xFF, 0x01)[k % 3]
        with open(path, "wb") as file:
            file.write(data[:at] + bytes([bad]) + data[at + 1 :])
        try:
            with open_model(path) as model:
                for tensor in model:
                    tensor.read()
            results[0] += 1
        except NncError as error:
            assert "\\n" not in str(error), error
            results[1] += 1
print(*results, peak() - before)
"""


def test_bytes_that_flip_give_a_model_or_one_error_of_ours(tmp_path):
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    file_with(paths[0], PLACES["attribute"])
    file_with(paths[1], PLACES["one of many attributes"], "latest")
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.returncode == 0, done.stderr
    read, refused, grown = map(int, done.stdout.split())
    assert read
    assert refused
    assert grown < 1 << 18  # KiB
