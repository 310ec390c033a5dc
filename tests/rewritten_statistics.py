"""Statistics files with something changed in them."""

from __future__ import annotations

from nncjit import formats
from nncjit.model import Model


def rewritten(path, change):
    """The file with other arrays and metadata, beside it."""
    with formats.open_model(path) as model:
        arrays, metadata = {t.name: t.read() for t in model}, dict(model.metadata)
    change(arrays, metadata)
    other = path.with_name("damaged.safetensors")
    with formats.create(other, Model.from_mapping(arrays).infos, metadata) as writer:
        for name, array in arrays.items():
            writer.put(name, array)
    return other
