"""State dicts and modules to NNC files, and back as tensors of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from nncjit.arrays import to_torch, torch_device
from nncjit.bits import as_source
from nncjit.convert import compress
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import decode_units
from nncjit.encoder.options import OptionKeywords, Options, explains_options
from nncjit.stream.data_units import StreamReader
from nncjit.stream.reports import CompressReport, source_name
from nncjit.torch.module_loading import Loaded, ModuleLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.nn import Module

__all__ = ["load_file", "load_model", "save_file"]


@explains_options
def save_file(
    model: Any,
    path: Any,
    options: Options | None = None,
    *,
    metadata: dict[str, str] | None = None,
    threads: int | None = None,
    **keywords: Unpack[OptionKeywords],
) -> CompressReport:
    """Compress a module or a state dict to an NNC file.

    Parameters
    ----------
    model : torch.nn.Module or mapping of str to torch.Tensor
        Tensors of any device. Parameters that share their memory are stored once and come back as one.
    path : path or binary file
        The NNC file to write; an old one is replaced only when the new one is complete.
    options : Options, optional
        What the encoder may choose.
    metadata : mapping of str to str, optional
        Text about the model, stored in the file.
    threads : int, optional
        Threads at work; default: all cores that the process may use.
    **keywords
        Single options, for example ``bits=4``; they come before those of `options`.

    Returns
    -------
    CompressReport
        Sizes, times and a row for each tensor.

    Raises
    ------
    OptionError
        An option is wrong.
    ModelError
        A tensor has no plain values (sparse, on the meta device), or the file cannot be written.
    """
    return compress(model, path, options, metadata=metadata, threads=threads, **keywords)


def load_file(
    file: Any,
    device: Any = "cpu",
    *,
    threads: int | None = None,
    max_bytes: int | None = None,
) -> dict[str, Tensor]:
    """Decompress an NNC file to tensors of torch.

    Parameters
    ----------
    file : path, bytes-like or binary file
        The stream.
    device : str, int or torch.device
        Where the tensors go, one after the other.
    threads : int, optional
        Threads at work; default: all cores that the process may use.
    max_bytes : int, optional
        As in `nncjit.decode`.

    Returns
    -------
    dict of str to torch.Tensor
        In the order of the model, with its shapes and dtypes, also bfloat16 and float8. Tied tensors are one and the
        same tensor.

    Raises
    ------
    BitstreamError
        The stream is damaged.
    ModelError
        The file cannot be read, or torch is missing.
    OptionError
        There is no such device.
    """
    place = torch_device(device)
    with as_source(file) as source:
        reader = StreamReader(source)
        tensors = dict(_tensors(reader, place, threads, max_bytes, kept=True))
        reader.warn_of_update(source_name(file))
        return reader.with_ties(tensors)


def load_model(
    module: Module,
    file: Any,
    *,
    strict: bool = True,
    device: Any = None,
    threads: int | None = None,
    max_bytes: int | None = None,
) -> Loaded:
    """Fill a module with the tensors of an NNC file, one after the other.

    Parameters and buffers that are on the meta device are made: as large models are best built (``with
    torch.device("meta")``), memory then holds the model once and no more than a few decoded tensors beside it. All
    others are filled where they are, in their own dtype.

    Parameters
    ----------
    module : torch.nn.Module
        Its tied parameters stay tied.
    file : path, bytes-like or binary file
        The stream.
    strict : bool
        Refuse a file that does not have exactly the module's tensors, before the module is changed.
    device : str, int or torch.device, optional
        Where tensors on the meta device are made; default: the processor.
    threads : int, optional
        Threads at work; default: all cores that the process may use.
    max_bytes : int, optional
        As in `nncjit.decompress`.

    Returns
    -------
    Loaded
        The names that are missing in the file, and those that the module does not have; both are empty if `strict`.

    Raises
    ------
    BitstreamError
        The stream is damaged.
    ModelError
        Names or shapes of the file are not those of the module; the error lists them. Or the file cannot be read.
    OptionError
        There is no such device.
    """
    loader = ModuleLoader(module, torch_device("cpu" if device is None else device))
    with as_source(file) as source:
        reader = StreamReader(source)
        shapes = {part.name: part.shape for opened in reader.data_units() for part in opened.results()}
        reader.warn_of_update(source_name(file))
        loaded = loader.check(reader.with_ties(shapes), strict=strict)
        ties = reader.model_metadata.tied
        for name, tensor in _tensors(reader, torch_device("cpu"), threads, max_bytes, kept=False):
            for each in (name, *(tied for tied, twin in ties.items() if twin == name)):
                loader.put(each, tensor)
    loader.finish()
    return loaded


def _tensors(
    reader: StreamReader, device: Any, threads: int | None, max_bytes: int | None, *, kept: bool
) -> Iterator[tuple[str, Tensor]]:
    budget = MemoryBudget(max_bytes, reader.source.size, kept=kept)
    for item in decode_units(reader.data_units(), budget, threads=threads):
        yield item.part.name, to_torch(item.storage, item.part.dtype).to(device)
