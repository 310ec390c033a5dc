"""What an update leads from and to: arrays in memory, model files, streams, and folders with one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nncjit.convert.stream_model import open_any
from nncjit.errors import BitstreamError, OptionError
from nncjit.formats.folder_model import is_folder, model_in
from nncjit.model import Model
from nncjit.option_values import shown

AnyPath = str | os.PathLike[str]
AnyModel = Mapping[str, Any] | AnyPath | Model


@contextmanager
def naming(label: str) -> Iterator[None]:
    """Say of which stream an error is."""
    try:
        yield
    except BitstreamError as error:
        raise BitstreamError(error.reason, bit=error.bit, path=f"{label}: {error.path}") from None


def listed(updates: Any) -> tuple[Any, ...]:
    """Several updates, or a single one.

    Raises
    ------
    OptionError
        They are neither.
    """
    if isinstance(updates, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(updates, "read"):
        return (updates,)
    try:
        return tuple(updates)
    except (TypeError, ValueError):
        raise OptionError(f"updates are {shown(updates)}, must be several updates in their order") from None


def model_path(source: AnyPath) -> AnyPath:
    """The model that a path means: itself, or the model of a folder."""
    return model_in(Path(source)) if is_folder(source) else source


@contextmanager
def opened_model(source: AnyModel | Any) -> Iterator[Model]:
    """A model, or one in memory, in a file of any known format, in an NNC file, or in a folder.

    Each reading of a tensor gives values of its own, which a change of the file does not reach.
    """
    if isinstance(source, Model):
        yield source
        return
    if isinstance(source, str | os.PathLike):
        path = model_path(source)
        with naming(os.fspath(path)):
            model = open_any(path, threads=1)  # tensors are read side by side
        with model:
            yield model
        return
    if not isinstance(source, Mapping) and not hasattr(source, "state_dict"):
        raise OptionError(f"a model is a path or a mapping of names to arrays, not {type(source).__name__}")
    yield Model.from_mapping(source)
