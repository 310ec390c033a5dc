"""What a calibration of a folder reads: passages of text files, random tokens, and batches of token numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nncjit.errors import ModelError
from nncjit.files import check_readable, os_errors

__all__ = ["TokenBatches", "passages", "random_tokens"]


def passages(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The passages of text files: paragraphs between blank lines; or the lines of a file that has no blank ones.

    Raises
    ------
    ModelError
        A file cannot be read, is not UTF-8, or there is no text in any of them.
    """
    found: list[str] = []
    for path in map(Path, paths):
        check_readable(path)
        try:
            with os_errors(path):
                text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: is not UTF-8 text (byte {error.start})") from None
        lines = [line.strip() for line in text.splitlines()]
        parts = "\n".join(lines).strip().split("\n\n") if "" in lines[:-1] else lines
        found += [" ".join(part.split()) for part in parts if part.strip()]
    if not found:
        raise ModelError("the text files hold no text")
    return found


def random_tokens(vocabulary: int, count: int, length: int, seed: int, special: Sequence[int] = ()) -> list[list[int]]:
    """Strings of token numbers drawn by Zipf's law: vocabularies number their tokens roughly by frequency.

    Parameters
    ----------
    vocabulary : int
        Size.
    count, length : int
        Strings, and most tokens of one; the lengths are spread evenly.
    seed : int
    special : sequence of int
        Numbers that are never drawn.
    """
    rng = np.random.default_rng(seed)
    chances = 1 / (np.arange(vocabulary) + 0.02 * vocabulary)
    chances[[k for k in special if k < vocabulary]] = 0
    chances /= chances.sum()
    lengths = rng.integers(max(1, length // 6), length + 1, size=count)
    return [rng.choice(vocabulary, n, p=chances).tolist() for n in lengths]


class TokenBatches:
    """Padded batches of token numbers, made when they are asked for."""

    def __init__(self, tokens: list[list[int]], size: int, pad: int) -> None:
        self._tokens, self._size, self._pad = tokens, size, pad
        self._answers: list[list[int]] = []

    def with_answers(self, answers: Iterable[list[int]]) -> TokenBatches:
        """The same, and for each text what a decoder reads with it."""
        found = TokenBatches(self._tokens, self._size, self._pad)
        found._answers = list(answers)
        return found

    def __len__(self) -> int:
        return (len(self._tokens) + self._size - 1) // self._size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for at in range(0, len(self._tokens), self._size):
            batch = self._padded("", self._tokens[at : at + self._size])
            if self._answers:
                batch |= self._padded("decoder_", self._answers[at : at + self._size])
            yield batch

    def _padded(self, prefix: str, chosen: list[list[int]]) -> dict[str, Any]:
        ids = np.full((len(chosen), max(map(len, chosen))), self._pad, np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(chosen):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask}
