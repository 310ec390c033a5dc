"""Statistics of the zoo's networks from their training data, a validation split to choose on, and a test split.

    python -m bench.zoo.calibration vgg STATS.safetensors

Calibration draws from the data that training draws from, with a seed of its own, and so does validation: settings (how
fine, how many steps) are chosen there. Fine-tuning does not see the digits of the validation split, nor its part of the
photographs, lest it looks better than it is. The character model knows much of its training's text by heart, so it has
two texts that training did not read instead, and fine-tuning reads nothing of the packages that the first is from. The
test splits are of other digits, scenes, crops and texts, made by a third seed where the data is
generated: a few hundred samples, as the zoo's test files have, cannot tell one percent.

Samples that show the same digit are not independent: what a network makes of one of them, it makes of many. A split
says which digits, or which place of a photograph, its samples show, and `standard_error` counts with that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench import zoo
from bench.zoo import autoencoder, charlm, layers, passages, pictures, scenes, training
from nncjit.calibrate import Calibration
from nncjit.demo import digits
from nncjit.torch import calibrate, merge_norms

CALIBRATE_ON, VALIDATE_ON, TUNE_ON, TEST_ON = 77, 78, 79, 80
"""Seeds."""
SAMPLES = 1024
BATCH = 64
CHOOSING = 360
"""Digits, of those that training saw, that the validation split shows and fine-tuning does not."""
TUNED_ON, CHOSEN_ON = slice(CHOOSING, None), slice(CHOOSING)
COUNTED = 8192
"""Samples of a split where hits are counted: so many tell half a percent."""
MEASURED = 2048
"""Where more than hits is measured."""

Batch = tuple[np.ndarray, np.ndarray]
Part = Literal["validation", "test"]


class Split(NamedTuple):
    """What a network is measured on."""

    batches: list[Batch]
    """Inputs and labels."""
    shown: np.ndarray | None = None
    """int64[samples, n]: what else each sample has in common with others, as the digits on a picture."""


class Task(NamedTuple):
    """How a network of the zoo is fed."""

    draw: Callable[[int, int], Iterator[Batch]]
    """Endless batches of inputs and labels, of so many samples, from a seed."""
    scores: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Its main measure for each sample, from outputs and labels."""
    split: Callable[[Part], Split]
    logits: bool = True
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


def _split_of_pictures(part: Part) -> Split:
    if part == "test":
        return _split(pictures.hard_batches(BATCH, TEST_ON, held_out=True), COUNTED)
    return _split(pictures.hard_batches(BATCH, VALIDATE_ON, CHOSEN_ON), COUNTED)


def _split(batches: Iterator[tuple[np.ndarray, ...]], samples: int) -> Split:
    """So many samples of endless batches; a third array of a batch says what its samples show."""
    drawn = list(islice(batches, samples // BATCH))
    shown = np.concatenate([batch[2] for batch in drawn]) if len(drawn[0]) > 2 else None
    return Split([(batch[0], batch[1]) for batch in drawn], shown)


def _scenes(size: int, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    while True:
        spectrograms, labels = scenes.draw(size, rng)
        yield scenes.inputs(spectrograms), labels.astype(np.int64)


def _split_of_scenes(part: Part) -> Split:
    return _split(_scenes(BATCH, TEST_ON if part == "test" else VALIDATE_ON), COUNTED)


def _split_of_crops(part: Part) -> Split:
    if part == "test":
        return _split(autoencoder.placed_batches(BATCH, TEST_ON, autoencoder.TRAINED_ON, 1), MEASURED)
    return _split(autoencoder.placed_batches(BATCH, VALIDATE_ON, autoencoder.TUNED_ON), MEASURED)


def _kept_scenes(size: int, seed: int) -> Iterator[Batch]:  # noqa: ARG001 - of the batches that training has
    """Scenes that are drawn once, in batches that are each masked in another way, as training has them."""
    return scenes.batches(seed)


def _text(size: int, seed: int, modules: Callable[[], list[Path]]) -> Iterator[Batch]:
    found = charlm.batches(seed, modules)
    while True:
        parts = [next(found) for _ in range(-(-size // charlm.BATCH))]
        yield tuple(np.concatenate(part)[:size] for part in zip(*parts, strict=True))  # type: ignore[misc]


def _split_of_text(part: Part) -> Split:
    text = charlm.TEST_TEXT if part == "test" else charlm.VALIDATION_TEXT
    inputs, following = charlm.windows(charlm.numbers(text.read_text("utf-8")))
    return Split([(inputs[at : at + BATCH], following[at : at + BATCH]) for at in range(0, len(inputs), BATCH)])


def _varied_digits(
    size: int, seed: int, part: slice = slice(None), *, held_out: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from bench.zoo import digits as trainer

    data = load_digits()
    split = train_test_split(
        np.arange(len(data.target)), test_size=trainer.TEST_IMAGES, stratify=data.target, random_state=trainer.SEED
    )
    rows = split[held_out][part]
    images = torch.from_numpy(data.images[rows, None].astype(np.float32) / np.float32(digits.WHITE))
    generator = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(rows), (size,), generator=generator)
        varied = trainer.vary(images[chosen], generator).numpy()
        yield varied, data.target[rows][chosen.numpy()].astype(np.int64), chosen.numpy()[:, None]


def _digits_to_train_on(size: int, seed: int, part: slice = slice(None)) -> Iterator[Batch]:
    return ((images, labels) for images, labels, _ in _varied_digits(size, seed, part))


def _split_of_digits(part: Part) -> Split:
    if part == "test":
        return _split(_varied_digits(BATCH, TEST_ON, held_out=True), COUNTED)
    return _split(_varied_digits(BATCH, VALIDATE_ON, CHOSEN_ON), COUNTED)


def _hits(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return 100.0 * (outputs.argmax(-1) == labels)


def _bits(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    exact, following = (torch.from_numpy(np.array(a[:, charlm.WINDOW // 2 :])) for a in (outputs, labels))
    lost = torch.nn.functional.cross_entropy(exact.transpose(1, 2), following, reduction="none")
    return np.asarray(lost.mean(1) / np.log(2))


def _psnr(outputs: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.asarray(-10 * np.log10(((outputs - images) ** 2).mean((1, 2, 3))))


_of_pictures = Task(_pictures, _hits, _split_of_pictures, tuned_on=partial(_pictures, part=TUNED_ON))
TASKS = {
    "vgg": _of_pictures._replace(samples=4 * SAMPLES),
    "resnet": _of_pictures,
    "mobilenet": _of_pictures,
    "audio": Task(_scenes, _hits, _split_of_scenes, tuned_on=_kept_scenes),
    "autoencoder": Task(
        partial(autoencoder.batches, right=autoencoder.TUNED_ON),
        _psnr,
        _split_of_crops,
        logits=False,
        tuned_on=partial(autoencoder.varied_batches, right=autoencoder.TUNED_ON),
    ),
    "charlm": Task(
        partial(_text, modules=charlm.unread),
        _bits,
        _split_of_text,
        samples=4 * SAMPLES,
        tuned_on=partial(_text, modules=charlm.to_tune_on),
    ),
    "digits": Task(_digits_to_train_on, _hits, _split_of_digits, tuned_on=partial(_digits_to_train_on, part=TUNED_ON)),
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
def split(name: str, part: Part) -> Split:
    """What a network is measured on: to choose (validation), or to report (test)."""
    return TASKS[name].split(part)


def scores(name: str, arrays: Mapping[str, np.ndarray], part: Part = "validation") -> np.ndarray:
    """The main measure for each sample of a split."""
    state = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    with torch.no_grad():
        found = [TASKS[name].scores(run(name, state, to_torch(x)).numpy(), y) for x, y in split(name, part).batches]
    return np.concatenate(found).astype(np.float64)


def to_torch(inputs: np.ndarray) -> Tensor:
    """Inputs as PyTorch runs them fastest."""
    x = torch.from_numpy(np.array(inputs))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def standard_error(of_samples: np.ndarray, shown: np.ndarray | None = None) -> float:
    """Of the mean, where samples that show the same thing are not independent (two-way clusters).

    Each pair of samples counts as often as they show something in common; a sample counts once with itself.
    """
    centred = of_samples - of_samples.mean()
    squares = centred**2
    total = float(squares.sum())
    if shown is not None:
        ordered = np.sort(shown, axis=1)
        new = np.ones(ordered.shape, bool)
        new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        sums = np.zeros(int(ordered.max()) + 1)
        np.add.at(sums, ordered[new], np.repeat(centred, new.sum(1)))
        total = max(total, float(sums @ sums - (new.sum(1) - 1) @ squares))
    return total**0.5 / len(centred)


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
