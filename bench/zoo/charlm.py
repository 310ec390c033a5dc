"""A character language model: a small transformer that has read the sources of Python's standard library.

The test text and the text to choose settings on are from modules that training leaves out. They are kept in files, so
that results do not depend on the Python at hand; training reads the library of the Python that runs it.
"""

from __future__ import annotations

import string
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.zoo import Main, layers
from bench.zoo.layers import Weights

TITLE = "Character language model, a transformer with tied embedding: no row of the standard's table"
WEIGHTS = Path(__file__).with_name("weights") / "charlm.safetensors"
MAIN = Main("bits_per_character", higher_is_better=False)
TEST_TEXT = Path(__file__).with_name("data") / "charlm-test.txt"
HELD_OUT = ("bisect", "fnmatch", "heapq", "sched", "shelve", "textwrap", "queue", "quopri")
"""Modules of the test text: their first `TEST_LENGTH` characters in all."""
TEST_LENGTH = 16384
VALIDATION_TEXT = TEST_TEXT.with_name("charlm-validation.txt")
CHOSEN_ON = (
    "multiprocessing/pool",
    "tkinter/filedialog",
    "tomllib/_parser",
    "urllib/robotparser",
    "venv/__init__",
    "wsgiref/handlers",
    "xmlrpc/server",
    "zoneinfo/_zoneinfo",
)
"""Modules of the text to choose settings on, in folders that training does not read: so many characters of each."""
CHOSEN_LENGTH = 4096

ALPHABET = "\n" + "".join(c for c in string.printable if c.isprintable())
"""Every other character is read as a question mark, a tab as a space."""
WIDTH, HEADS, LAYERS = 128, 4, 4
WINDOW = 128
BATCH = 24


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights; the output uses the embedding."""
    found: dict[str, tuple[int, ...]] = {
        "embedding.weight": (len(ALPHABET), WIDTH),
        "position_embedding.weight": (WINDOW, WIDTH),
    }
    for k in range(LAYERS):
        for name, out, depth in (("qkv", 3, 1), ("join", 1, 1), ("inner", 4, 1), ("outer", 1, 4)):
            found[f"blocks.{k}.{name}.weight"] = (out * WIDTH, depth * WIDTH)
            found[f"blocks.{k}.{name}.bias"] = (out * WIDTH,)
    norms = [f"blocks.{k}.{name}" for k in range(LAYERS) for name in ("norm1", "norm2")] + ["norm"]
    return found | {f"{norm}.{kind}": (WIDTH,) for norm in norms for kind in ("weight", "bias")}


def forward(weights: Weights, ids: Any, ops: Any = layers) -> Any:
    """Outputs before the softmax [n,length,characters], of character numbers int64[n,length]."""

    def dense(x: Any, name: str) -> Any:
        return ops.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        return ops.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = weights["embedding.weight"][ids] + weights["position_embedding.weight"][: ids.shape[1]]
    before = ops.lower_triangle(ids.shape[1])
    for k in range(LAYERS):
        at = f"blocks.{k}"
        mixed = dense(norm(x, f"{at}.norm1"), f"{at}.qkv")
        parts = (ops.split_heads(mixed[..., i * WIDTH : (i + 1) * WIDTH], HEADS) for i in range(3))
        x = x + dense(ops.join_heads(ops.attend(*parts, before)), f"{at}.join")
        x = x + dense(ops.gelu(dense(norm(x, f"{at}.norm2"), f"{at}.inner")), f"{at}.outer")
    return ops.linear(norm(x, "norm"), weights["embedding.weight"])


def measure(weights: Weights, ids: np.ndarray | None = None) -> dict[str, float]:
    """Bits per character of a text, by default the test text; each is told from 64 to 127 characters before it."""
    if ids is None:
        ids = numbers(TEST_TEXT.read_text("utf-8"))
    half = WINDOW // 2
    inputs, following = windows(ids)
    logits = layers.in_batches(forward, weights, inputs)[:, half:].astype(np.float64)
    right = np.take_along_axis(logits, following[:, half:, None], 2)[..., 0]
    peak = logits.max(2)
    nats = peak + np.log(np.exp(logits - peak[..., None]).sum(2)) - right
    return {"bits_per_character": float(nats.mean() / np.log(2))}


def windows(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a text, each half a window after the one before, and the same one character on."""
    found = np.lib.stride_tricks.sliding_window_view(ids, WINDOW + 1)[:: WINDOW // 2]
    return found[:, :-1], found[:, 1:]


def numbers(text: str) -> np.ndarray:
    """Character numbers int64[n]."""
    table = np.full(128, ALPHABET.index("?"))
    table[[ord(c) for c in ALPHABET]] = np.arange(len(ALPHABET))
    table[ord("\t")] = ALPHABET.index(" ")
    return table[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]


def library() -> Path:
    """Where this Python keeps its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read() -> list[Path]:
    """What training reads of the library: single modules, and the folders of the alphabet's first half."""
    files = [path for path in sorted(library().glob("*.py")) if path.stem not in HELD_OUT]
    return [*files, *sorted(library().glob("[a-k]*/*.py"))]


def unread() -> list[Path]:
    """Modules that training does not read, without those of the text to choose settings on."""
    files = sorted(library().glob("[l-z]*/*.py"))
    return [path for path in files if str(path.relative_to(library()).with_suffix("")) not in CHOSEN_ON]


def to_tune_on() -> list[Path]:
    """What fine-tuning reads: all but the test's modules, and the packages that settings are chosen on modules of."""
    packages = {name.split("/")[0] for name in CHOSEN_ON}
    return [path for path in (*read(), *unread()) if path.relative_to(library()).parts[0] not in packages]


def batches(seed: int, modules: Callable[[], list[Path]] = read) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless windows of the library's text, and the same one character on."""
    files = [path for path in modules() if "test" not in str(path.relative_to(library()))]
    ids = numbers("".join(path.read_text("utf-8", "replace") for path in files))
    rng = np.random.default_rng(seed)
    while True:
        at = rng.integers(len(ids) - WINDOW, size=(BATCH, 1)) + np.arange(WINDOW + 1)
        yield ids[at[:, :-1]], ids[at[:, 1:]]


def train(path: Path = WEIGHTS) -> None:
    """Make the weights anew: about fifteen minutes on one core."""
    from bench.zoo import training

    weights = training.fit(forward, shapes(), batches(6), training.cross_entropy, steps=3200, rate=2.5e-3, decay=0.3)
    training.save(path, weights, forward, numbers(TEST_TEXT.read_text("utf-8"))[:256].reshape(2, -1))


def _source(name: str) -> str:
    return (library() / f"{name}.py").read_text("utf-8")


def main() -> None:
    text = "".join(_source(name) for name in HELD_OUT)
    TEST_TEXT.write_text(text[:TEST_LENGTH], "utf-8")
    VALIDATION_TEXT.write_text("".join(_source(name)[:CHOSEN_LENGTH] for name in CHOSEN_ON), "utf-8")
    train()
    print(measure(layers.load(WEIGHTS)))


if __name__ == "__main__":
    main()
