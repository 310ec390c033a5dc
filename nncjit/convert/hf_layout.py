"""Folders of Hugging Face models to folders of the same layout, in which weights are NNC streams.

The weights of the folder are encoded together (see `tensor_streams`). The stream of a tensor NAME is a tensor of bytes
named ``NAME_nnc``, in the safetensors file that held NAME.
Whatever reads safetensors finds shards, index and tied tensors as it knows them.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from nncjit import dtypes, formats
from nncjit.convert.model_folders import copy_rest
from nncjit.convert.tensor_streams import TensorStreams, encoded_apart
from nncjit.encoder.execution import Execution
from nncjit.encoder.options import OptionKeywords, Options, explains_options
from nncjit.errors import ModelError
from nncjit.files import os_errors
from nncjit.model import Model, Tensor, TensorInfo
from nncjit.progress import Progress, reporting
from nncjit.stream.reports import CompressReport

CODED = ("weight", "gate_up_proj", "down_proj")
"""Last part of the names of parameters that are coded, if they have two dimensions or more; experts that lie in one
tensor have the other names.
"""
SUFFIX = "_nnc"
"""What a stream is called beside the parameter in it."""
METHOD = "nnc"
"""quant_method in config.json."""
HINT = "pip install nncjit, and import nncjit.hf before from_pretrained"

_INDEX, _SINGLE, CONFIG = "model.safetensors.index.json", "model.safetensors", "config.json"
_PICKLED = {"pytorch_model.bin.index.json": _INDEX, "pytorch_model.bin": _SINGLE}
"""Weights as older folders have them -> what they become."""
_VARIANTS = "model.*.safetensors"
"""Weights that ``from_pretrained(..., variant=...)`` asks for by a name in the middle."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""What may be the name of a model on the hub."""
_EXPERTS = ".experts."
"""Of these, loaders merge many tensors into one: all of them must be streams, or none."""


@explains_options
def compress_folder(
    source: str | PathLike[str],
    target: str | PathLike[str],
    options: Options | None = None,
    *,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    **keywords: Unpack[OptionKeywords],
) -> CompressReport:
    """Compress a folder of a Hugging Face model to a folder that ``from_pretrained`` reads after ``import nncjit.hf``.

    Matrices are coded, and so is whatever else is called ``weight`` and has two dimensions or more. Vectors, integers
    and tensors of which a rule says ``raw`` stay as they are. All other files of the folder are copied, and config.json
    says how to load the model.

    Parameters
    ----------
    source : path
        A folder with config.json and model.safetensors, or the index of several files; or pytorch_model.bin and its
        index, which become safetensors.
    target : path
        The folder to make. It appears when it is complete, and must not exist or be empty.
    options : Options, optional
        What the encoder may choose. Sizes count for the coded tensors.
    threads : int, optional
        Threads at work; default: all cores that the process may use.
    progress : callable or bool, optional
        As in `compress`.
    **keywords
        Single options; they come before those of `options`.

    Returns
    -------
    CompressReport
        Sizes, times and a row for each tensor of the folder.

    Raises
    ------
    OptionError
        An option is wrong, or puts several tensors into one unit.
    ModelError
        The source is no such folder, or quantised already; the target cannot be written.
    """
    started = time.perf_counter()
    source, target = Path(source), Path(target)
    chosen = Options.of(options, keywords)
    config = config_of(source)
    if "quantization_config" in config:
        raise ModelError(f"{source / CONFIG}: the model is quantised already (quantization_config)")
    weights = weights_in(source)
    with reporting(progress, "compress") as report, formats.open_model(weights) as model, new_folder(target) as folder:
        choices = chosen.choices(tensor.name for tensor in model)
        chosen.warn_where_none_is_coded(model.names)
        experts = any(_EXPERTS in tensor.name and chosen.codes(tensor.name) for tensor in model)
        coded = [
            tensor
            for tensor in model
            if _may_be_coded(tensor)
            and (
                (experts and _EXPERTS in tensor.name)
                or (_EXPERTS not in tensor.name and choices[tensor.name].quantising.quantizer != "raw")
            )
        ]
        if not coded:
            raise ModelError(f"{weights}: no tensor in it can be coded")
        execution = Execution(threads=threads, progress=report)
        with encoded_apart(coded, chosen, execution, folder) as streams:
            made = folder / _PICKLED.get(weights.name, weights.name)
            _write_weights(made, model, streams)
        parameters = sorted({tensor.name.rpartition(".")[2] for tensor in coded})
        said = {"quant_method": METHOD, "dequantize": True, "parameters": parameters, "to_load": HINT}
        write_rest(source, folder, weights, config | {"quantization_config": said})
        written = sum(path.stat().st_size for path in folder.iterdir() if path.name.endswith(".safetensors"))
        return streams.report((source, target), model, written, started)


def config_of(source: Path) -> dict[str, Any]:
    """config.json of a folder.

    Raises
    ------
    ModelError
        There is none, or it is no table.
    """
    with os_errors(source):
        if not source.is_dir():
            hint = "; a model of the hub is downloaded first: hf download NAME --local-dir FOLDER"
            said = f"{source}: there is no such folder{hint if _HUB_NAME.fullmatch(str(source)) else ''}"
            raise ModelError(f"{source}: is no folder" if source.exists() else said)
        path = source / CONFIG
        if not path.exists():
            raise ModelError(f"{path}: is missing; a folder of a Hugging Face model has one")
        text = path.read_bytes()
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: is not a table")
    return config


def weights_in(source: Path) -> Path:
    """The file of weights in a folder, or their index; ModelError if there is neither, or several variants."""
    found = next((source / name for name in (_INDEX, _SINGLE, *_PICKLED) if (source / name).exists()), None)
    if found is not None:
        return found
    variants = sorted(source.glob(_VARIANTS))
    if len(variants) == 1:
        return variants[0]
    several = f", but {', '.join(path.name for path in variants[:3])}" if variants else ""
    raise ModelError(f"{source}: holds neither {_INDEX} nor {_SINGLE} nor pytorch_model.bin{several}")


def _may_be_coded(tensor: Tensor) -> bool:
    floats = dtypes.find(tensor.dtype).kind == "f"
    return floats and len(tensor.shape) >= 2 and tensor.size > 0 and tensor.name.rpartition(".")[2] in CODED


def _write_weights(path: Path, model: Model, streams: TensorStreams) -> None:
    """The tensors of the folder, those in the stream as streams of their own; of tied ones the first: loaders tie."""
    kept = [tensor for tensor in model if tensor.same_as is None]
    infos = [
        TensorInfo(f"{t.name}{SUFFIX}", (streams.size(t.name),), "uint8", None, t.shard)
        if t.name in streams
        else t.info
        for t in kept
    ]
    with formats.create(path, infos, model.metadata | {"format": "pt"}) as writer:
        for tensor in kept:
            if tensor.name in streams:
                writer.put(f"{tensor.name}{SUFFIX}", np.frombuffer(streams.read(tensor.name), np.uint8))
            else:
                writer.put(tensor.name, tensor.read())


def write_rest(source: Path, folder: Path, weights: Path, config: dict[str, Any]) -> None:
    """config.json, and all files that are no weights."""
    copy_rest(source, folder, weights)
    with os_errors(folder):
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when the block ends well."""
    with os_errors(target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ModelError(f"{target}: exists already")
        if not target.resolve().parent.is_dir():
            raise ModelError(f"{target}: there is no folder {target.resolve().parent}")
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.resolve().parent))
    try:
        yield folder
        with os_errors(target):
            folder.chmod(0o755)
            folder.replace(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
