"""The task of the audio network: which of ten synthetic scenes two seconds of sound are from.

Each scene is a coloured background and events of its kind, at random levels; a second, quieter scene and a random tilt
of the spectrum lie over it. ``python -m bench.zoo.scenes`` makes the file of test spectrograms anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

TEST_SET = Path(__file__).with_name("data") / "scenes-test.safetensors"
"""spectrograms uint8[400,40,60], labels uint8[400]."""
RATE, LENGTH = 8000, 16000
FRAME, HOP = 512, 262
BANDS, FRAMES = 40, 60
TEST_SCENES, TRAIN_SCENES = 400, 6000
SEED = 15938
BATCH = 64

Sound = np.ndarray
Maker = Callable[[np.random.Generator], Sound]
TIME = np.arange(LENGTH) / RATE


def test_set() -> tuple[np.ndarray, np.ndarray]:
    """The network's inputs float32[400,1,40,60], and the labels."""
    kept = load_file(TEST_SET)
    return inputs(kept["spectrograms"]), kept["labels"]


def inputs(spectrograms: np.ndarray) -> np.ndarray:
    """What the network sees: float32[n,1,40,60] in -2..2."""
    return spectrograms[:, None].astype(np.float32) / np.float32(64.0) - np.float32(2.0)


def batches(seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless batches of `TRAIN_SCENES` scenes, each time with other bands and frames masked."""
    rng = np.random.default_rng(seed)
    spectrograms, labels = draw(TRAIN_SCENES, rng)
    while True:
        order = rng.permutation(len(labels))
        for at in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[at : at + BATCH]
            batch = np.roll(spectrograms[chosen], rng.integers(FRAMES), axis=2)
            band, frame = rng.integers(BANDS - 6), rng.integers(FRAMES - 8)
            batch[:, band : band + 6], batch[:, :, frame : frame + 8] = 128, 128
            yield inputs(batch), labels[chosen].astype(np.int64)


def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Spectrograms uint8[n,40,60] and their labels uint8[n]."""
    labels = rng.integers(len(SCENES), size=n).astype(np.uint8)
    spectrograms = np.empty((n, BANDS, FRAMES), np.uint8)
    for k, label in enumerate(labels):
        main, other = SCENES[label](rng), SCENES[rng.integers(len(SCENES))](rng)
        sound = main / main.std() + other / other.std() * 10 ** rng.uniform(-0.8, -0.05)
        spectrograms[k] = _spectrogram(sound + rng.standard_normal(LENGTH) * 10 ** rng.uniform(-1.2, -0.2), rng)
    return spectrograms, labels


def _spectrogram(sound: Sound, rng: np.random.Generator) -> np.ndarray:
    """Level of each band and frame in half decibels, 128 being the mean."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP][:FRAMES] * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames)) ** 2 @ _bands().T
    level = 10 * np.log10(power + 1e-6).T + np.linspace(0, rng.normal(0, 6), BANDS)[:, None]
    return (128 + 3 * (level - level.mean())).clip(0, 255).astype(np.uint8)


def _bands() -> np.ndarray:
    """Triangular bands of equal width on the mel scale: float64[40,257]."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.fft.rfftfreq(FRAME, 1 / RATE)
    rise = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall)) + 1e-4


def _noise(rng: np.random.Generator, slope: float, low: float = 20.0, high: float = 4000.0) -> Sound:
    """Noise whose amplitude falls as frequency^-slope, between two frequencies."""
    frequency = np.fft.rfftfreq(LENGTH, 1 / RATE)
    shape = np.maximum(frequency, 20.0) ** -slope / (1 + (low / (frequency + 1)) ** 4) / (1 + (frequency / high) ** 4)
    sound = np.fft.irfft(np.fft.rfft(rng.standard_normal(LENGTH)) * shape, LENGTH)
    return sound / sound.std()


def _swell(rng: np.random.Generator, low: float, high: float, depth: float) -> Sound:
    """A slow rise and fall of the level, of a frequency between two."""
    return 1 + depth * np.sin(2 * np.pi * (rng.uniform(low, high) * TIME + rng.uniform()))


def _place(events: list[tuple[float, Sound]]) -> Sound:
    """The sum of short sounds, each at its time in seconds."""
    sound = np.zeros(LENGTH)
    for at, event in events:
        begin = int(at * RATE)
        part = event[: LENGTH - begin]
        sound[begin : begin + len(part)] += part
    return sound


def _click(rng: np.random.Generator, length: float) -> Sound:
    n = int(length * RATE * 4)
    return rng.standard_normal(n) * np.exp(-np.arange(n) / (length * RATE))


def _sweep(start: float, stop: float, length: float) -> Sound:
    t = np.arange(int(length * RATE)) / RATE
    phase = start * t + (stop - start) * t * t / (2 * length)
    return np.sin(2 * np.pi * phase) * np.hanning(len(t))


def _voice(rng: np.random.Generator) -> Sound:
    pitch, length = rng.uniform(90, 240), rng.uniform(0.1, 0.3)
    formant = rng.uniform(400, 1800)
    t = np.arange(int(length * RATE)) / RATE
    parts = [np.sin(2 * np.pi * k * pitch * t) / (1 + ((k * pitch - formant) / 300) ** 2) for k in range(1, 14)]
    return np.sum(parts, 0) * np.hanning(len(t))


def _ring(rng: np.random.Generator) -> Sound:
    n = RATE // 2
    t = np.arange(n) / RATE
    partials = rng.uniform(900, 3600, 4)
    return np.sum([np.sin(2 * np.pi * f * t) for f in partials], 0) * np.exp(-t / rng.uniform(0.02, 0.12))


def _times(rng: np.random.Generator, per_second: float) -> np.ndarray:
    return rng.uniform(0, LENGTH / RATE, rng.poisson(per_second * LENGTH / RATE) + 1)


def _rain(rng: np.random.Generator) -> Sound:
    drops = [(t, rng.exponential(2.0) * _click(rng, 0.002)) for t in _times(rng, rng.uniform(30, 90))]
    return _noise(rng, rng.uniform(0.0, 0.35)) + rng.uniform(0.5, 1.5) * _place(drops)


def _traffic(rng: np.random.Generator) -> Sound:
    return _noise(rng, rng.uniform(0.5, 0.9), high=rng.uniform(800, 2500)) * _swell(
        rng, 0.2, 0.7, rng.uniform(0.4, 0.9)
    )


def _birds(rng: np.random.Generator) -> Sound:
    calls = []
    for t in _times(rng, rng.uniform(1, 5)):
        low = rng.uniform(1600, 3000)
        calls.append((t, _sweep(low, low * rng.uniform(0.8, 1.3), rng.uniform(0.04, 0.15))))
    return 0.5 * _noise(rng, rng.uniform(0.3, 0.7)) + rng.uniform(0.5, 2.0) * _place(calls)


def _office(rng: np.random.Generator) -> Sound:
    keys = [(t, _click(rng, 0.004)) for t in _times(rng, rng.uniform(3, 8))]
    hum = np.sin(2 * np.pi * 100 * TIME + rng.uniform(0, 6))
    return 0.6 * _noise(rng, rng.uniform(0.3, 0.7)) + rng.uniform(0.0, 0.5) * hum + rng.uniform(0.6, 2) * _place(keys)


def _train(rng: np.random.Generator) -> Sound:
    gap, pair = 1 / rng.uniform(1.2, 2.6), rng.uniform(0.08, 0.16)
    beats = np.arange(rng.uniform(0, gap), LENGTH / RATE - 0.01, gap)
    knocks = [(t + d, _click(rng, 0.02)) for t in beats for d in (0, pair) if t + d < LENGTH / RATE]
    return _noise(rng, rng.uniform(0.5, 0.9), high=2000) + rng.uniform(0.5, 2.0) * _place(knocks)


def _crowd(rng: np.random.Generator) -> Sound:
    voices = [(t, rng.exponential(1.0) * _voice(rng)) for t in _times(rng, rng.uniform(8, 25))]
    return 0.5 * _noise(rng, rng.uniform(0.3, 0.7)) + rng.uniform(0.2, 0.8) * _place(voices)


def _machine(rng: np.random.Generator) -> Sound:
    base = rng.uniform(45, 120)
    hum = np.sum(
        [rng.exponential(1.0) / k * np.sin(2 * np.pi * k * base * TIME + rng.uniform(0, 6)) for k in range(1, 20)], 0
    )
    return _noise(rng, rng.uniform(0.2, 0.6)) + rng.uniform(0.4, 1.5) * hum


def _kitchen(rng: np.random.Generator) -> Sound:
    rings = [(t, rng.exponential(1.0) * _ring(rng)) for t in _times(rng, rng.uniform(1, 5))]
    return 0.5 * _noise(rng, rng.uniform(0.2, 0.6)) + rng.uniform(0.3, 1.0) * _place(rings)


def _wind(rng: np.random.Generator) -> Sound:
    low, high = rng.uniform(80, 250), rng.uniform(400, 1200)
    mix = 0.5 * _swell(rng, 0.3, 1.2, 1.0)
    return mix * _noise(rng, 0.5, high=low) + (1 - mix) * _noise(rng, 0.5, low=low, high=high)


def _beach(rng: np.random.Generator) -> Sound:
    return _noise(rng, rng.uniform(0.1, 0.5)) * _swell(rng, 0.2, 0.6, rng.uniform(0.4, 0.9))


SCENES: tuple[Maker, ...] = (_rain, _traffic, _birds, _office, _train, _crowd, _machine, _kitchen, _wind, _beach)


def main() -> None:
    spectrograms, labels = draw(TEST_SCENES, np.random.default_rng(SEED))
    save_file({"spectrograms": spectrograms, "labels": labels}, TEST_SET, metadata={"source": "bench/zoo/scenes.py"})
    TEST_SET.chmod(0o644)


if __name__ == "__main__":
    main()
