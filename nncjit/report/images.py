"""A task: torchvision's networks classify the user's images, which are in one folder for each class.

It needs torch, torchvision and Pillow, which are imported when the task is created. Images are prepared as for
torchvision's first ImageNet weights: the shorter side is resized to 256 pixels, the central 224 x 224 pixels are cut
out, and the colours are normalised with the usual mean and spread. Other networks need a task file of their own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nncjit.errors import ModelError, OptionError
from nncjit.report import metrics
from nncjit.report.task import Task

Array = np.ndarray[Any, Any]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
SHORTER_SIDE, CROP = 256, 224
MEAN = (0.485, 0.456, 0.406)
SPREAD = (0.229, 0.224, 0.225)
BATCH = 32


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Images and the number of their class, classes in the order of their folders' names."""

    classes: tuple[str, ...]
    images: tuple[Path, ...]
    labels: Array
    """int64[n]."""

    @classmethod
    def read(cls, folder: Path, most: int | None = None) -> ImageFolder:
        """The images of ``folder/CLASS/*.jpg``; of each class the first, by name, so that there are `most` in all.

        Raises
        ------
        OptionError
            The folder does not exist, has no class folders, or one of them has no images.
        """
        if not folder.is_dir():
            raise OptionError(f"{folder}: there is no such folder; --data wants one with a folder for each class in it")
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not classes:
            raise OptionError(f"{folder}: no class folders in it; images are expected as {folder}/CLASS/IMAGE.jpg")
        if most is not None and most < len(classes):
            raise OptionError(f"{most} images do not suffice for {len(classes)} classes: one for each at the least")
        each = None if most is None else most // len(classes)
        images: list[Path] = []
        labels: list[int] = []
        for number, path in enumerate(classes):
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)[:each]
            if not found:
                raise OptionError(f"{path}: no images in this class folder; known are {', '.join(sorted(SUFFIXES))}")
            images += found
            labels += [number] * len(found)
        return cls(tuple(path.name for path in classes), tuple(images), np.array(labels))


def task(network: str, data: Path, weights: Path, most: int | None = None) -> Task:
    """Top-1 and top-5 accuracy of a network that torchvision names.

    Parameters
    ----------
    network : str
        As torchvision spells it, for example ``resnet50``.
    data : Path
        A folder with a folder of images for each class, whose order by name is that of the network's outputs.
    weights : Path
        The file of the model.
    most : int, optional
        How many images to look at, the same number of each class; all by default.

    Raises
    ------
    ModelError
        torch, torchvision or Pillow is missing.
    OptionError
        torchvision knows no such network, or the folder is not as it should be.
    """
    _, models, _ = _extras()
    images = ImageFolder.read(data, most)
    if network not in models.list_models():
        raise OptionError(f"torchvision knows no network {network!r}; it names them like resnet50 or mobilenet_v2")

    title = f"{network} on {len(images.images)} images of {len(images.classes)} classes"
    return Task(network, Classifying(network, data, images), "top1", True, title, weights)


@dataclass(frozen=True, slots=True)
class Classifying:
    """What the task measures; it can be sent to workers that see the images."""

    network: str
    data: Path
    images: ImageFolder

    def __call__(self, arrays: Mapping[str, Array]) -> dict[str, float]:
        """Top-1 and top-5 accuracy with these weights."""
        torch, models, image = _extras()
        net = models.get_model(self.network, weights=None)
        _fill(torch, net, self.network, arrays)
        scores = np.concatenate(list(_scores(torch, net, image, self.images.images)))
        n_classes = len(self.images.classes)
        if scores.shape[1] != n_classes:
            raise ModelError(
                f"{self.data} has {n_classes} class folders, {self.network} tells {scores.shape[1]} classes apart: "
                "there must be a folder for each"
            )
        return {f"top{k}": metrics.top_k(scores, self.images.labels, k) for k in (1, 5)}


def _extras() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        return tuple(importlib.import_module(name) for name in ("torch", "torchvision.models", "PIL.Image"))  # type: ignore[return-value]
    except ImportError as error:
        reason = f"--data needs torch, torchvision and Pillow ({error}): pip install torch torchvision pillow"
        raise ModelError(reason) from None


def _fill(torch: ModuleType, net: Any, network: str, arrays: Mapping[str, Array]) -> None:
    """Put weights into a network; all of its own, and no others."""
    own = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    for name, shape in own.items():
        if name not in arrays:
            raise ModelError(f"these weights are not those of {network}: there is no tensor {name!r}")
        if arrays[name].shape != shape:
            found = list(arrays[name].shape)
            raise ModelError(f"these weights are not those of {network}: {name} is {found}, should be {list(shape)}")
    strange = sorted(set(arrays) - set(own))
    if strange:
        raise ModelError(f"these weights are not those of {network}: it has no tensor {strange[0]!r}")
    net.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in own})


def _scores(torch: ModuleType, net: Any, image: ModuleType, paths: Sequence[Path]) -> Iterator[Array]:
    net.eval()
    with torch.no_grad():
        for at in range(0, len(paths), BATCH):
            batch = np.stack([pixels(image, path) for path in paths[at : at + BATCH]])
            yield net(torch.from_numpy(batch)).numpy()


def pixels(image: ModuleType, path: Path) -> Array:
    """An image prepared for the networks: float32[3, 224, 224].

    Raises
    ------
    ModelError
        The file is no image.
    """
    try:
        with image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as an image: {error}") from None
    width, height = picture.size
    scale = SHORTER_SIDE / min(width, height)
    size = (max(round(width * scale), CROP), max(round(height * scale), CROP))
    picture = picture.resize(size, image.Resampling.BILINEAR)
    left, top = (size[0] - CROP) // 2, (size[1] - CROP) // 2
    values = np.asarray(picture.crop((left, top, left + CROP, top + CROP)), np.float32) / np.float32(255)
    normal = (values - np.array(MEAN, np.float32)) / np.array(SPREAD, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)
