"""Image folders and networks that torchvision names, with stand-ins for torch and torchvision."""

import sys

import numpy as np
import pytest

from nncjit.errors import ModelError, OptionError
from nncjit.report import images
from report import stubs


def test_a_network_is_measured_on_the_folder(torchvision, photographs, tmp_path):
    task = images.task("by_colour", photographs, tmp_path / "weights.safetensors")
    assert task.title == "by_colour on 6 images of 2 classes"
    assert task(stubs.TRAINED) == {"top1": pytest.approx(100 * 4 / 6), "top5": 100.0}
    turned = {"fc.weight": -stubs.TRAINED["fc.weight"], "fc.bias": stubs.TRAINED["fc.bias"]}
    assert task(turned)["top1"] == pytest.approx(100 * 2 / 6)


def test_fewer_images_are_the_same_number_of_each_class(photographs):
    found = images.ImageFolder.read(photographs, 5)
    assert found.classes == ("a_red", "b_blue")
    assert [path.name for path in found.images] == ["0.png", "1.png", "0.png", "1.png"]
    assert found.labels.tolist() == [0, 0, 1, 1]


def test_pixels_are_the_middle_in_the_usual_units(tmp_path):
    image = pytest.importorskip("PIL.Image")
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = (255, 0, 0)
    image.fromarray(wide).save(tmp_path / "x.png")
    found = images.pixels(image, tmp_path / "x.png")
    assert found.shape == (3, 224, 224)
    red = [
        (1 - images.MEAN[0]) / images.SPREAD[0],
        -images.MEAN[1] / images.SPREAD[1],
        -images.MEAN[2] / images.SPREAD[2],
    ]
    np.testing.assert_allclose(found[:, 112, 112], red, rtol=1e-5)
    np.testing.assert_allclose(found[:, :, 10:-10].reshape(3, -1).min(1), red, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f / "none", "there is no such folder"),
        (lambda f: f / "a_red", "no class folders in it; images are expected as"),
        (lambda f: (f / "c_empty").mkdir() or f, "c_empty: no images in this class folder"),
    ],
)
def test_a_folder_without_classes_is_refused(photographs, make, words):
    with pytest.raises(OptionError, match=words):
        images.ImageFolder.read(make(photographs))


def test_too_few_images_are_refused(photographs):
    with pytest.raises(OptionError, match="1 images do not suffice for 2 classes"):
        images.ImageFolder.read(photographs, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fc.weight": None}, "there is no tensor 'fc.weight'"),
        ({"fc.weight": np.zeros((5, 3), np.float32)}, r"fc.weight is \[5, 3\], should be \[2, 3\]"),
        ({"head.weight": np.zeros(3, np.float32)}, "it has no tensor 'head.weight'"),
    ],
)
def test_weights_of_another_network_are_refused(torchvision, photographs, tmp_path, change, words):
    task = images.task("by_colour", photographs, tmp_path)
    weights = {name: array for name, array in (stubs.TRAINED | change).items() if array is not None}
    with pytest.raises(ModelError, match=f"these weights are not those of by_colour: {words}"):
        task(weights)


def test_another_number_of_classes_is_refused(torchvision, photographs, tmp_path):
    (photographs / "c").mkdir()
    (photographs / "c" / "x.png").write_bytes((photographs / "a_red" / "0.png").read_bytes())
    with pytest.raises(ModelError, match="has 3 class folders, by_colour tells 2 classes apart"):
        images.task("by_colour", photographs, tmp_path)(stubs.TRAINED)


def test_a_file_that_is_no_image_is_named(torchvision, photographs, tmp_path):
    (photographs / "a_red" / "bad.png").write_bytes(b"\x89PNG no")
    with pytest.raises(ModelError, match=r"bad\.png: cannot be read as an image"):
        images.task("by_colour", photographs, tmp_path)(stubs.TRAINED)


def test_a_network_that_torchvision_does_not_know_is_refused(torchvision, photographs, tmp_path):
    with pytest.raises(OptionError, match="torchvision knows no network 'by_smell'"):
        images.task("by_smell", photographs, tmp_path)


@pytest.mark.parametrize("missing", ["torch", "torchvision.models", "PIL.Image"])
def test_a_missing_extra_is_one_line(torchvision, photographs, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModelError, match=r"--data needs torch, torchvision and Pillow .*: pip install torch torch"):
        images.task("by_colour", photographs, tmp_path)
