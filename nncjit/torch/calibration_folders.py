"""Calibration of a Hugging Face folder: its own tokenizer and network, texts of the user, or texts made up."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nncjit import dtypes, formats
from nncjit.errors import ModelError, NncError
from nncjit.extras import require
from nncjit.files import os_errors
from nncjit.option_values import Whole, Word, checked
from nncjit.progress import Progress
from nncjit.torch.calibration import PROBES, SEEDS, calibrate
from nncjit.torch.calibration_parts import found_by_values
from nncjit.torch.calibration_texts import TokenBatches, random_tokens

if TYPE_CHECKING:
    from nncjit.calibrate import Calibration
    from nncjit.model import Model

__all__ = ["calibrate_folder"]

LOGIT_VALUES = 1 << 26
"""Most logits of a batch."""
SIZES = Whole(1, 1 << 31)
"""Passages and tokens."""
SAVES = 10
"""Times that a run writes what it has so far, where it shall be gone on with."""
_HEADS = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForConditionalGeneration": "AutoModelForImageTextToText",
    "MTModel": "AutoModelForSeq2SeqLM",
}
"""End of an architecture's name -> the class that loads it with logits; all others have embeddings."""
_WRITERS = ("AutoModelForCausalLM", "AutoModelForImageTextToText")
_OTHERS = "nncjit.torch.calibrate takes a network and inputs of any kind"


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
        With config.json, the weights, and, for texts, the tokenizer. To each text, the decoder of an encoder-decoder
        reads what the network writes.
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
        The folder holds no such network, it does not run on texts, or a library is missing.
    OptionError
        A number is out of range.
    """
    samples, length, batch, probes, seed, output = (
        checked(name, values, value)
        for name, values, value in (
            ("samples", SIZES, samples),
            ("length", SIZES, length),
            ("batch", SIZES, batch),
            ("probes", PROBES, probes),
            ("seed", SEEDS, seed),
            ("output", Word("auto", "embedding", "logits"), output),
        )
    )
    loaded = _Folder(folder, output)
    names, parts = loaded.names()
    with loaded.told():
        loaded.check_whole()
        if texts is None:
            tokens = loaded.made_up(samples, length, seed)
        else:
            chosen = np.random.default_rng(seed).permutation(len(texts))[:samples]
            tokens = loaded.tokenise([texts[k] for k in chosen], length)
        batches = loaded.batches(tokens, batch, length)
        found = calibrate(
            loaded.model,
            batches,
            output=loaded.output,
            forward=loaded.forward,
            probes=probes,
            seed=seed,
            names=names,
            parts=parts,
            resume=resume,
            save_every=max(1, len(batches) // SAVES),
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
            self._loader = _loader_of(config, output)
            load = getattr(transformers, self._loader).from_pretrained
            self.model, found = load(self._path, output_loading_info=True, **kept)
            self._tokenizer, self._none = _tokenizer_of(transformers.AutoTokenizer, self._path, kept)
        except Exception as error:  # whatever the many parsers behind these calls raise on files that are damaged
            raise ModelError(f"{self._path}: {_first_line(error)}") from error
        finally:
            said.set_verbosity(loud)
            said.enable_progress_bar()
        self._missing = sorted(found["missing_keys"])
        self._spoil_missing()
        self.output = "logits" if _gives_logits(self._loader) else "embedding"
        self._first_state = self._pools_first()
        self._config = self.model.config.get_text_config()
        self._has_decoder = bool(getattr(self.model.config, "is_encoder_decoder", False)) and (
            self._loader != "AutoModelForTextEncoding"
        )

    def _spoil_missing(self) -> None:
        """Make weights that the files do not hold no numbers: transformers draws them anew each time."""
        for name, weight in self.model.named_parameters():
            if name in self._missing:
                weight.data.fill_(float("nan"))

    def check_whole(self) -> None:
        """Refuse a network whose output needs weights that the files do not hold.

        Raises
        ------
        ModelError
            It is one, or weights that they hold are not finite.
        """
        if not self._missing or not self._reads_tokens:
            return
        ids = self._torch.full((1, 2), self._pad)
        batch = {"input_ids": ids, "attention_mask": self._torch.ones_like(ids)}
        batch |= {f"decoder_{name}": value for name, value in batch.items()} if self._has_decoder else {}
        with self._torch.no_grad():
            whole = bool(self._torch.isfinite(self.forward(self.model, batch)).all())
        if not whole:
            for name, weight in self.model.named_parameters():
                if name not in self._missing and not self._torch.isfinite(weight).all():
                    raise ModelError(f"{self._path}: {name} is not finite")
            more = f" and {len(self._missing) - 1} more" if self._missing[1:] else ""
            raise ModelError(f"{self._path}: its files lack {self._missing[0]}{more}, which the output needs")

    @contextmanager
    def told(self) -> Iterator[None]:
        """What the network raises, as an error of ours that names the folder."""
        try:
            yield
        except NncError:
            raise
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            said = f"its network does not run on tokens ({_first_line(error)})"
            raise ModelError(f"{self._path}: {said}; {_OTHERS}") from error

    def _pools_first(self) -> bool:
        """Whether the folder's embedding is its first token's state, and not the mean of all."""
        path = self._path / "1_Pooling" / "config.json"
        if not path.is_file():
            return False
        try:
            with os_errors(path):
                said = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ModelError(f"{path}: is no JSON ({error})") from None
        return isinstance(said, dict) and bool(said.get("pooling_mode_cls_token"))

    def tokenise(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Token numbers of each text."""
        if self._tokenizer is None:
            raise ModelError(f"{self._path}: holds no tokenizer for texts ({self._none}); {_OTHERS}")
        found = self._tokenizer(list(texts), truncation=True, max_length=self._at_most(length))["input_ids"]
        return [ids for ids in found if ids]

    def _at_most(self, length: int) -> int:
        """So many tokens, or as many as the network can read."""
        limits = (
            getattr(self._config, "max_position_embeddings", None),
            getattr(self._tokenizer, "model_max_length", None),
        )
        return min([length, *(n for n in limits if isinstance(n, int) and n > 0)])

    @property
    def writes(self) -> bool:
        """Whether the network writes texts."""
        return self._loader in _WRITERS

    @property
    def _special(self) -> list[int]:
        """Numbers of tokens that stand for no text."""
        if self._tokenizer is not None:
            return list(self._tokenizer.all_special_ids)
        known = (getattr(self._config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos"))
        return [number for number in known if isinstance(number, int) and number >= 0]

    @property
    def _pad(self) -> int:
        """The number of the token that fills texts up."""
        known = (getattr(self._tokenizer, "pad_token_id", None), getattr(self._config, "pad_token_id", None))
        return next((number for number in known if isinstance(number, int) and number >= 0), 0)

    @property
    def _vocabulary(self) -> int:
        """How many tokens the network reads."""
        if not self._reads_tokens:
            raise ModelError(f"{self._path}: its network reads no tokens; {_OTHERS}")
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def _reads_tokens(self) -> bool:
        return hasattr(self.model.get_input_embeddings(), "num_embeddings")

    def made_up(self, count: int, length: int, seed: int) -> list[list[int]]:
        """Token numbers of texts that the network writes; random ones where it writes none."""
        length = self._at_most(length)
        if self.writes:
            return self._written(count, length, seed)
        drawn = random_tokens(self._vocabulary, count, max(1, length - 2), seed, self._special)
        begin, end = (getattr(self._tokenizer, f"{kind}_token_id", None) for kind in ("cls", "sep"))
        return [[k for k in (begin, *ids, end) if k is not None] for ids in drawn]

    def _written(self, count: int, length: int, seed: int) -> list[list[int]]:
        torch = self._torch
        first = random_tokens(self._vocabulary, count, 1, seed, self._special)
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

    def batches(self, tokens: list[list[int]], size: int, length: int) -> TokenBatches:
        """Batches of texts of like length."""
        if self.output == "logits":
            longest = max([*map(len, tokens), length * self._has_decoder, 1])
            size = max(1, min(size, LOGIT_VALUES // (longest * getattr(self._config, "vocab_size", 1))))
        found = TokenBatches(sorted(tokens, key=len), size, self._pad)
        return found.with_answers(self._answers(found, length)) if self._has_decoder else found

    def _answers(self, batches: TokenBatches, length: int) -> Iterator[list[int]]:
        """What the decoder reads with each text: what the network writes, or the text where it writes nothing."""
        begin = getattr(self.model.config, "decoder_start_token_id", None)
        begin = self._pad if begin is None else begin
        for batch in batches:
            if self.output == "embedding":
                longest = self._at_most(length + 1)
                rows = [[begin, *ids[mask > 0]][:longest] for ids, mask in zip(*batch.values(), strict=True)]
            else:
                given = {name: self._torch.from_numpy(array) for name, array in batch.items()}
                most = max(1, self._at_most(length + 1) - 1)
                rows = self.model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=most).tolist()
            for row in rows:
                while len(row) > 1 and row[-1] == self._pad:
                    row.pop()
                yield row

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The embeddings, or the logits at all tokens that are none of the padding."""
        result = model(**batch)
        mask = batch.get("decoder_attention_mask", batch["attention_mask"])
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


def _loader_of(config: Any, output: str) -> str:
    """The class of transformers that loads a network.

    Raises
    ------
    ModelError
        It has no logits, which are wanted.
    """
    names = config.architectures or ()
    known = [_HEADS[end] for name in names for end in _HEADS if name.endswith(end)]
    if known and output != "embedding":
        writes_answers = known[0] == "AutoModelForImageTextToText" and getattr(config, "is_encoder_decoder", False)
        return "AutoModelForSeq2SeqLM" if writes_answers else known[0]
    if output == "logits":
        raise ModelError("its network has no head that gives logits")
    return "AutoModelForTextEncoding" if any(name.endswith("EncoderModel") for name in names) else "AutoModel"


def _first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _gives_logits(loader: str) -> bool:
    return loader in _HEADS.values()


def _tokenizer_of(loader: Any, path: Path, kept: dict[str, Any]) -> tuple[Any, str]:
    """The tokenizer, or why there is none. One that knows no words is made where the folder holds none."""
    try:
        found = loader.from_pretrained(path, **kept)
    except Exception as error:  # noqa: BLE001 - as for the network
        return None, _first_line(error).rstrip(": ")
    if set(found.get_vocab().values()) <= set(found.all_special_ids):
        return None, "it knows no words"
    return found, ""
