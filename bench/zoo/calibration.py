"""Statistics of the zoo's networks from their training data, and a validation split that no result is reported on.

    python -m bench.zoo.calibration vgg STATS.safetensors

Calibration draws from the data that training draws from, with a seed of its own, and so does validation: settings (how
fine, how many steps) are chosen there. Fine-tuning does not see the digits of the validation split, lest it looks
better than it is. The character model knows much of its training's text by heart, so it has two texts that training did
not read instead. The test sets are of other digits, scenes, crops and texts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench import zoo
from bench.zoo import autoencoder, charlm, layers, passages, pictures, scenes, training
from nncjit.calibrate import Calibration
from nncjit.demo import digits
from nncjit.torch import calibrate, merge_norms

CALIBRATE_ON, VALIDATE_ON = 77, 78
"""Seeds."""
SAMPLES = 1024
BATCH = 64
CHOOSING = 360
"""Digits, of those that training saw, that the validation split shows and fine-tuning does not."""
TUNED_ON, CHOSEN_ON = slice(CHOOSING, None), slice(CHOOSING)
COUNTED = 8192
"""Samples of the validation split where hits are counted: so many tell half a percent."""

Batch = tuple[np.ndarray, np.ndarray]


class Task(NamedTuple):
    """How a network of the zoo is fed."""

    draw: Callable[[int, int], Iterator[Batch]]
    """Endless batches of inputs and labels, of so many samples, from a seed."""
    scores: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Its main measure for each sample, from outputs and labels."""
    logits: bool = True
    validation: int = 2048
    """Samples of the validation split: more where a measure counts hits."""
    unseen: Callable[[], Iterator[Batch]] | None = None
    """A validation split that is not drawn as training's data are."""
    samples: int = SAMPLES
    """Samples of its statistics."""
    tuned_on: Callable[[int, int], Iterator[Batch]] | None = None
    """What fine-tuning draws, if something else."""


def weights(name: str) -> dict[str, np.ndarray]:
    """As trained."""
    return layers.load(digits.MODEL if name == "digits" else zoo.model(name).WEIGHTS)


def measure(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """On the test set."""
    found: dict[str, float] = (digits if name == "digits" else zoo.model(name)).measure(arrays)
    return found


def run(name: str, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The network's outputs."""
    kept = training.State(state)
    kept.training = False
    return _digits(kept, inputs) if name == "digits" else zoo.model(name).forward(kept, inputs, training)


def _digits(state: training.State, x: Tensor) -> Tensor:
    for k in digits.CONVOLUTIONS:
        x = training.relu(training.batch_norm(training.convolve(x, state[f"conv{k}.weight"]), state, f"norm{k}"))
        x = training.max_pool(x) if k in digits.POOL_AFTER else x
    x = training.relu(training.linear(x.flatten(1), state["hidden.weight"], state["hidden.bias"]))
    return training.linear(x, state["output.weight"], state["output.bias"])


def _pictures(size: int, seed: int, part: slice = slice(None)) -> Iterator[Batch]:
    found = pictures.batches(size, seed, easy=1, part=part)
    next(found)  # the first batch is plain
    return found


def _chosen_pictures() -> Iterator[Batch]:
    return islice(_pictures(BATCH, VALIDATE_ON, CHOSEN_ON), COUNTED // BATCH)


def _scenes(size: int, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    while True:
        spectrograms, labels = scenes.draw(size, rng)
        yield scenes.inputs(spectrograms), labels.astype(np.int64)


def _kept_scenes(size: int, seed: int) -> Iterator[Batch]:  # noqa: ARG001 - of the batches that training has
    """Scenes that are drawn once, in batches that are each masked in another way, as training has them."""
    return scenes.batches(seed)


def _unread_text(size: int, seed: int) -> Iterator[Batch]:
    found = charlm.batches(seed, charlm.unread)
    while True:
        parts = [next(found) for _ in range(-(-size // charlm.BATCH))]
        yield tuple(np.concatenate(part)[:size] for part in zip(*parts, strict=True))  # type: ignore[misc]


def _chosen_text() -> Iterator[Batch]:
    inputs, following = charlm.windows(charlm.numbers(charlm.VALIDATION_TEXT.read_text("utf-8")))
    for at in range(0, len(inputs), BATCH):
        yield inputs[at : at + BATCH].copy(), following[at : at + BATCH]


def _varied_digits(size: int, seed: int, part: slice = slice(None)) -> Iterator[Batch]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from bench.zoo import digits as trainer

    data = load_digits()
    rows = train_test_split(
        np.arange(len(data.target)), test_size=trainer.TEST_IMAGES, stratify=data.target, random_state=trainer.SEED
    )[0][part]
    images = torch.from_numpy(data.images[rows, None].astype(np.float32) / np.float32(digits.WHITE))
    generator = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(rows), (size,), generator=generator)
        yield trainer.vary(images[chosen], generator).numpy(), data.target[rows][chosen.numpy()].astype(np.int64)


def _chosen_digits() -> Iterator[Batch]:
    return islice(_varied_digits(BATCH, VALIDATE_ON, CHOSEN_ON), COUNTED // BATCH)


def _hits(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return 100.0 * (outputs.argmax(-1) == labels)


def _bits(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    exact, following = (torch.from_numpy(np.array(a[:, charlm.WINDOW // 2 :])) for a in (outputs, labels))
    lost = torch.nn.functional.cross_entropy(exact.transpose(1, 2), following, reduction="none")
    return np.asarray(lost.mean(1) / np.log(2))


def _psnr(outputs: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.asarray(-10 * np.log10(((outputs - images) ** 2).mean((1, 2, 3))))


_of_pictures = Task(_pictures, _hits, unseen=_chosen_pictures, tuned_on=partial(_pictures, part=TUNED_ON))
TASKS = {
    "vgg": _of_pictures._replace(samples=4 * SAMPLES),
    "resnet": _of_pictures,
    "mobilenet": _of_pictures,
    "audio": Task(_scenes, _hits, validation=COUNTED, tuned_on=_kept_scenes),
    "autoencoder": Task(autoencoder.batches, _psnr, logits=False, validation=512),
    "charlm": Task(_unread_text, _bits, unseen=_chosen_text, samples=4 * SAMPLES),
    "digits": Task(_varied_digits, _hits, unseen=_chosen_digits, tuned_on=partial(_varied_digits, part=TUNED_ON)),
}
HIGHER_IS_BETTER = {name: name != "charlm" for name in TASKS}


@cache
def inputs_of(name: str, samples: int = SAMPLES, seed: int = CALIBRATE_ON) -> list[Batch]:
    """Batches of inputs and labels."""
    drawn = TASKS[name].draw(BATCH, seed)
    return [next(drawn) for _ in range(max(1, samples // BATCH))]


def merged(name: str) -> dict[str, np.ndarray]:
    """The weights, with the statistics of batch norms put into their gains and biases."""
    state = {key: torch.from_numpy(array.copy()) for key, array in weights(name).items()}
    merge_norms(state, eps=layers.NORM_EPSILON)
    return {key: tensor.numpy() for key, tensor in state.items()}


def collect(name: str, samples: int | None = None, probes: int = 2, **keywords: Any) -> Calibration:
    """Statistics of a network whose norms are merged, by default of its task's number of samples."""
    task = TASKS[name]
    state = {key: torch.from_numpy(array) for key, array in merged(name).items()}
    batches = [x for x, _ in inputs_of(name, samples or task.samples)]
    output = "logits" if task.logits else (lambda y: y)
    return calibrate(state, batches, output=output, forward=lambda w, x: run(name, w, x), probes=probes, **keywords)


@cache
def _validation(name: str) -> list[Batch]:
    task = TASKS[name]
    return inputs_of(name, task.validation, VALIDATE_ON) if task.unseen is None else list(task.unseen())


def validate(name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The main measure for each sample of the validation split."""
    state = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    with torch.no_grad():
        found = [TASKS[name].scores(run(name, state, torch.from_numpy(x)).numpy(), y) for x, y in _validation(name)]
    return np.concatenate(found).astype(np.float64)


def chosen_texts() -> list[str]:
    """Texts to choose MiniLM's settings on."""
    found: list[str] = json.loads(passages.VALIDATION.read_text("utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.zoo.calibration", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(TASKS))
    parser.add_argument("output", type=Path, metavar="STATS.safetensors")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--widest-block", type=int, default=4096)
    args = parser.parse_args()
    torch.set_num_threads(1)
    collect(args.name, args.samples, widest_block=args.widest_block).save(args.output)


if __name__ == "__main__":
    main()
