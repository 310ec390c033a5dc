"""Calibration of a Hugging Face folder: its own tokenizer and network, texts of the user, or texts made up."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nncjit import dtypes, formats
from nncjit.errors import ModelError, OptionError
from nncjit.extras import require
from nncjit.files import check_readable, os_errors
from nncjit.progress import Progress
from nncjit.torch.calibration import calibrate
from nncjit.torch.calibration_parts import found_by_values

if TYPE_CHECKING:
    from nncjit.calibrate import Calibration
    from nncjit.model import Model

__all__ = ["calibrate_folder", "passages", "random_tokens"]

LOGIT_VALUES = 1 << 26
"""Most logits of a batch."""
_HEADS = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
}
"""End of an architecture's name -> the class that loads it with logits; all others have embeddings."""


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


def calibrate_folder(
    folder: str | os.PathLike[str],
    texts: Sequence[str] | None = None,
    *,
    output: str = "auto",
    samples: int = 2048,
    length: int = 128,
    batch: int = 32,
    probes: int = 1,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
) -> Calibration:
    """Collect the statistics of the network in a Hugging Face folder.

    Nothing is downloaded, and no code of the folder is run.

    Parameters
    ----------
    folder : path
        With config.json, the weights, and the tokenizer.
    texts : sequence of str, optional
        Passages like those in use. Without them, the network writes its own if it can, which keeps a part of the gain.
        Or else it reads random tokens, and the statistics are a guess: shapes of metrics beside the default steps.
    output : {"auto", "embedding", "logits"}
        What counts; "auto" takes logits if the network has a head, else the mean of the last hidden states.
    samples : int
        Most passages, drawn at random.
    length : int
        Most tokens of a passage.
    batch : int
        Passages at once.
    probes, seed, resume, progress
        As in `nncjit.torch.calibrate`.

    Returns
    -------
    Calibration
        Its names are those of the folder's weights.

    Raises
    ------
    ModelError
        The folder holds no such network, or a library is missing.
    OptionError
        A number is out of range.
    """
    for name, value in (("samples", samples), ("length", length), ("batch", batch)):
        if type(value) is not int or value < 1:
            raise OptionError(f"{name} is {value!r}, must be 1 or more")
    if output not in ("auto", "embedding", "logits"):
        raise OptionError(f"output is {output!r}, must be 'auto', 'embedding' or 'logits'")
    loaded = _Folder(folder, output)
    if texts is None:
        tokens = loaded.made_up(samples, length, seed)
    else:
        chosen = np.random.default_rng(seed).permutation(len(texts))[:samples]
        tokens = loaded.tokenise([texts[k] for k in chosen], length)
    names, parts = loaded.names()
    found = calibrate(
        loaded.model,
        loaded.batches(tokens, batch),
        output=loaded.output,
        forward=loaded.forward,
        probes=probes,
        seed=seed,
        names=names,
        parts=parts,
        resume=resume,
        progress=progress,
    )
    found.is_guess = texts is None and not loaded.writes
    return found


class _Folder:
    """The network and the tokenizer of a folder."""

    def __init__(self, folder: str | os.PathLike[str], output: str) -> None:
        self._path = Path(folder)
        transformers: Any = require("transformers", "networks in Hugging Face folders")
        torch: Any = require("torch", "networks in Hugging Face folders")
        self._torch = torch
        if not (self._path / "config.json").is_file():
            raise ModelError(f"{self._path}: is no Hugging Face folder: it has no config.json")
        kept: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        said = transformers.utils.logging
        loud = said.get_verbosity()
        said.disable_progress_bar()
        said.set_verbosity_error()
        try:
            config = transformers.AutoConfig.from_pretrained(self._path, **kept)
            known = [_HEADS[end] for name in config.architectures or () for end in _HEADS if name.endswith(end)]
            self._loader = known[0] if known and output != "embedding" else "AutoModel"
            if output == "logits" and not known:
                raise ModelError(f"{self._path}: its network has no head that gives logits")
            self.model = getattr(transformers, self._loader).from_pretrained(self._path, **kept)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(self._path, **kept)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ModelError(f"{self._path}: {str(error).strip().splitlines()[0]}") from error
        finally:
            said.set_verbosity(loud)
            said.enable_progress_bar()
        self.output = "embedding" if self._loader == "AutoModel" else "logits"
        self._first_state = self._pools_first()

    def _pools_first(self) -> bool:
        """Whether the folder's embedding is its first token's state, and not the mean of all."""
        path = self._path / "1_Pooling" / "config.json"
        if not path.is_file():
            return False
        with os_errors(path):
            said = json.loads(path.read_text("utf-8"))
        return isinstance(said, dict) and bool(said.get("pooling_mode_cls_token"))

    def tokenise(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Token numbers of each text."""
        limit = min(length, getattr(self.model.config, "max_position_embeddings", length) or length)
        found = self._tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        return [ids for ids in found if ids]

    @property
    def writes(self) -> bool:
        """Whether the network writes texts."""
        return self._loader == "AutoModelForCausalLM"

    def made_up(self, count: int, length: int, seed: int) -> list[list[int]]:
        """Token numbers of texts that the network writes; random ones where it writes none."""
        if self.writes:
            return self._written(count, length, seed)
        size = self.model.get_input_embeddings().num_embeddings
        drawn = random_tokens(size, count, max(1, length - 2), seed, self._tokenizer.all_special_ids)
        begin, end = self._tokenizer.cls_token_id, self._tokenizer.sep_token_id
        return [[k for k in (begin, *ids, end) if k is not None] for ids in drawn]

    def _written(self, count: int, length: int, seed: int) -> list[list[int]]:
        torch = self._torch
        size = self.model.get_input_embeddings().num_embeddings
        first = random_tokens(size, count, 1, seed, self._tokenizer.all_special_ids)
        found: list[list[int]] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for at in range(0, count, 64):
                begin = torch.tensor(first[at : at + 64])
                made = self.model.generate(
                    begin,
                    attention_mask=torch.ones_like(begin),
                    do_sample=True,
                    top_k=0,
                    max_new_tokens=max(1, length - 1),
                    pad_token_id=0,
                )
                found += made.tolist()
        return found

    def batches(self, tokens: list[list[int]], size: int) -> _Batches:
        """Batches of texts of like length."""
        if self.output == "logits":
            longest = max(map(len, tokens), default=1)
            size = max(1, min(size, LOGIT_VALUES // (longest * getattr(self.model.config, "vocab_size", 1))))
        return _Batches(sorted(tokens, key=len), size, self._tokenizer.pad_token_id or 0)

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The embeddings, or the logits at all tokens that are none of the padding."""
        result = model(**batch)
        mask = batch["attention_mask"]
        if self.output == "embedding":
            states = result.last_hidden_state
            if self._first_state:
                return states[:, 0]
            return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        logits = result.logits
        return logits * mask[:, :, None] if logits.ndim == 3 else logits

    def names(self) -> tuple[dict[str, str] | None, dict[str, Any]]:
        """Names of the network's weights -> names in the folder's files, which may leave out or add a prefix; and
        matrices of the files that the network holds in larger tensors, such as experts, as views by name.

        Weights that the files do not hold are left out. None, and no matrices, where there are no files to look at.
        """
        files = [self._path / name for name in ("model.safetensors.index.json", "model.safetensors")]
        file = next((path for path in files if path.is_file()), None)
        if file is None:
            return None, {}
        with formats.open_model(file) as model:
            there = set(model.names)
            prefix = f"{self.model.base_model_prefix}."
            found, others = {}, {}
            for name, weight in self.model.named_parameters():
                spellings = (name, prefix + name, name.removeprefix(prefix))
                known = next((spelling for spelling in spellings if spelling in there), None)
                if known is not None:
                    found[name] = known
                elif weight.ndim > 1:
                    others[name] = weight
            unknown = sorted(there.difference(found.values()))
            parts = found_by_values(self._matrices(model, unknown), others) if others else {}
        whole = {(weight.data_ptr(), weight.numel()): name for name, weight in others.items()}
        for name, view in parts.items():
            renamed = whole.get((view.data_ptr(), view.numel()))
            if renamed is not None:
                found[renamed] = name
        return found, {name: view for name, view in parts.items() if name not in found.values()}

    def _matrices(self, model: Model, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Matrices of floats."""
        for tensor in (model[name] for name in names):
            if len(tensor.shape) == 2 and tensor.info.size and dtypes.find(tensor.dtype).kind == "f":
                yield tensor.name, self._torch.from_numpy(dtypes.to_float32(tensor.read(), tensor.dtype))


class _Batches:
    """Padded batches of token numbers, made when they are asked for."""

    def __init__(self, tokens: list[list[int]], size: int, pad: int) -> None:
        self._tokens, self._size, self._pad = tokens, size, pad

    def __len__(self) -> int:
        return (len(self._tokens) + self._size - 1) // self._size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for at in range(0, len(self._tokens), self._size):
            chosen = self._tokens[at : at + self._size]
            ids = np.full((len(chosen), max(map(len, chosen))), self._pad, np.int64)
            mask = np.zeros_like(ids)
            for row, text in enumerate(chosen):
                ids[row, : len(text)] = text
                mask[row, : len(text)] = 1
            yield {"input_ids": ids, "attention_mask": mask}
