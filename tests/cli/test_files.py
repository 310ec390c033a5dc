"""A target that nobody named never costs anybody a file."""

import pytest

from nncjit.cli.default_target import derived_target
from nncjit.errors import OptionError


@pytest.mark.parametrize(
    ("source", "suffix", "target"),
    [
        ("model.safetensors", ".nnc", "model.nnc"),
        ("model.safetensors.index.json", ".nnc", "model.nnc"),
        ("a.b/model.v2.PT", ".nnc", "a.b/model.v2.nnc"),
        ("model.nnc", ".safetensors", "model.safetensors"),
        ("stream", ".safetensors", "stream.safetensors"),
    ],
)
def test_the_known_suffix_is_replaced(source, suffix, target, tmp_path):
    assert derived_target(tmp_path / source, suffix) == tmp_path / target


def test_an_existing_file_is_refused_unless_nothing_is_written(tmp_path):
    (tmp_path / "model.nnc").touch()
    with pytest.raises(OptionError, match=r"model\.nnc exists: name it with -o"):
        derived_target(tmp_path / "model.npz", ".nnc")
    assert derived_target(tmp_path / "model.npz", ".nnc", dry_run=True) == tmp_path / "model.nnc"
