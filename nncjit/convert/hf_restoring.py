"""Folders of Hugging Face models with NNC streams in them to ordinary ones, without torch and without transformers."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

from nncjit import formats
from nncjit.convert.hf_layout import CONFIG, METHOD, SUFFIX, config_of, new_folder, weights_in, write_rest
from nncjit.convert.tensor_streams import decode_one, described, in_turn
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.formats.folder_model import is_folder
from nncjit.model import Tensor, TensorInfo
from nncjit.progress import Progress
from nncjit.stream.reports import DecompressReport, TensorReport

__all__ = ["decompress_folder", "is_encoded_folder"]


def is_encoded_folder(path: Any) -> bool:
    """Whether this is a folder that `compress_folder` made."""
    if not is_folder(path) or not (Path(path) / CONFIG).is_file():
        return False
    try:
        said = json.loads((Path(path) / CONFIG).read_bytes())["quantization_config"]["quant_method"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return bool(said == METHOD)


def decompress_folder(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    threads: int | None = None,
    max_bytes: int | str | None = None,
    shard_size: int | None = None,
    told: Progress | None = None,
) -> DecompressReport:
    """An ordinary folder, or the weights as one model file, of a folder that `compress_folder` made.

    Neither torch nor transformers is needed. Other arguments are those of `decompress`.

    Raises
    ------
    BitstreamError
        A stream is damaged.
    ModelError
        A stream holds no tensor, the folder is incomplete, or the target cannot be written.
    """
    started = time.perf_counter()
    source, target = Path(source), Path(target)
    config, weights = config_of(source), weights_in(source)
    alone = formats.is_known(target)
    with formats.open_model(weights) as model, nullcontext() if alone else new_folder(target) as folder:
        original = sum(tensor.nbytes for tensor in model)
        budget = MemoryBudget(max_bytes, original, kept=False)
        infos = {tensor.name: _decoded_info(tensor, budget) for tensor in model}
        index = weights.name if weights.name.endswith(".index.json") else "model.safetensors.index.json"
        place = target if folder is None else folder / (weights.name if shard_size is None else index)
        with formats.create(place, list(infos.values()), model.metadata, shard_size=shard_size) as writer:
            for tensor, info in in_turn(model, list(infos.values()), told):
                if info.same_as is None:
                    writer.put(info.name, _decoded(tensor, info, threads, max_bytes))
        if folder is not None:
            write_rest(
                source, folder, weights, {key: value for key, value in config.items() if key != "quantization_config"}
            )
    rows = (TensorReport(i.name, i.shape, i.dtype, "", None, i.size, i.nbytes) for i in infos.values())
    return DecompressReport(
        source=str(source),
        target=str(target),
        original_bytes=sum(info.nbytes for info in infos.values()),
        compressed_bytes=original,
        seconds=time.perf_counter() - started,
        threads=threads or 1,
        tensors=tuple(rows),
    )


def _is_stream(info: TensorInfo) -> bool:
    return info.name.endswith(SUFFIX) and info.dtype == "uint8" and len(info.shape) == 1


def _decoded_info(tensor: Tensor, budget: MemoryBudget) -> TensorInfo:
    """What a tensor of the folder is when it is decoded."""
    if not _is_stream(tensor.info):
        return tensor.info
    shape, dtype = described(tensor.read().tobytes(), tensor.name, budget)
    return TensorInfo(tensor.name.removesuffix(SUFFIX), shape, dtype, shard=tensor.shard)


def _decoded(tensor: Tensor, info: TensorInfo, threads: int | None, max_bytes: int | str | None) -> Any:
    if not _is_stream(tensor.info):
        return tensor.read()
    return decode_one(tensor.read().tobytes(), info.name, threads=threads, max_bytes=max_bytes)[1]
