"""Keras files made with h5py alone, as Keras 3 and Keras 2 write them."""

from __future__ import annotations

import io
import json
import zipfile

import h5py
import numpy as np

RNG = np.random.default_rng(0)
CONFIG = {
    "class_name": "Sequential",
    "config": {
        "name": "net",
        "layers": [
            {"class_name": "Conv2D", "config": {"name": "c1", "filters": 16}},
            {"class_name": "BatchNormalization", "config": {"name": "bn", "epsilon": 0.001}},
            {"class_name": "Dense", "config": {"name": "d1"}},
        ],
    },
}
"""Layers that the tests' files have weights of."""
ARRAYS = {
    "layers/conv2d/vars/0": RNG.normal(0, 0.1, (3, 3, 8, 16)).astype("f4"),
    "layers/conv2d/vars/1": RNG.normal(0, 0.1, 16).astype("f4"),
    **{f"layers/batch_normalization/vars/{k}": RNG.uniform(0.5, 1, 16).astype("f4") for k in range(4)},
    "layers/dense/vars/0": RNG.normal(0, 0.1, (64, 32)).astype("f4"),
    "optimizer/vars/0": np.array(7, "i4"),
    "optimizer/vars/1": RNG.normal(0, 1e-6, (64, 32)).astype("f4"),
}
NAMES = {"layers/conv2d": "c1", "layers/batch_normalization": "bn", "layers/dense": "d1", "optimizer": "adam"}


def weights_h5(path_or_file):
    with h5py.File(path_or_file, "w") as file:
        for name, array in ARRAYS.items():
            file[name] = array
        for group, name in NAMES.items():
            file[group]["vars"].attrs["name"] = name
        file.create_group("vars").attrs["name"] = "net"


def keras_archive(path, *, members=None, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    weights_h5(buffer)
    parts = {
        "metadata.json": json.dumps({"keras_version": "3.15.1"}),
        "config.json": json.dumps(CONFIG),
        "model.weights.h5": buffer.getvalue(),
        "assets/words.txt": "one two\n" * 9,
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (parts | (members or {})).items():
            if data is not None:
                archive.writestr(name, data)


def keras_2_h5(path, *, model=True):
    """The layout of Keras 2: groups named by layer, names of layers and weights as fixed-width bytes."""
    with h5py.File(path, "w") as file:
        weights = file.create_group("model_weights") if model else file
        weights.attrs["layer_names"] = np.array([b"c1", b"d1"])
        weights.attrs["keras_version"] = b"2.4.0"
        for layer, key in (("c1", "layers/conv2d/vars/0"), ("d1", "layers/dense/vars/0")):
            group = weights.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/kernel:0".encode()]
            group.create_dataset(f"{layer}/kernel:0", data=ARRAYS[key], compression="gzip", chunks=True)
        weights.attrs["empty"] = h5py.Empty("f4")
        weights.attrs["flag"] = True
        if model:
            file.attrs["model_config"] = json.dumps(CONFIG)
            file["twice"] = file["model_weights/d1/d1/kernel:0"]
            state = file.create_group("optimizer_weights", track_order=True)
            state["z"], state["a"] = np.array(3, "i8"), ARRAYS["optimizer/vars/1"]
            state["words"] = "text"


def tree_of(file):
    """Everything in an HDF5 file."""
    found = {"/": _attributes(file)}

    def note(name, item):
        found[name] = _attributes(item)
        if isinstance(item, h5py.Dataset):
            about = (item.shape, item.dtype, item.chunks, item.compression, item.compression_opts, item.maxshape)
            found[name] += (*about, None if item.shape is None else np.asarray(item[()]).tobytes())

    file.visititems(note)
    return found, {name: list(file[name]) for name, row in found.items() if len(row) == 1}


def _attributes(item):
    rows = {}
    for name in item.attrs:
        handle = item.attrs.get_id(name)
        value = item.attrs[name]
        rows[name] = handle.dtype, handle.shape, None if handle.shape is None else np.asarray(value).tolist()
    return (rows,)
