"""Updates of models in memory: `nncjit.update` and `nncjit.apply`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Unpack

from nncjit import dtypes
from nncjit.encoder.execution import Execution
from nncjit.encoder.options import Options
from nncjit.model import Model
from nncjit.progress import Progress, reporting
from nncjit.updates.chain_state import Array, ChainState, Parameter
from nncjit.updates.update_decoder import opened_updates
from nncjit.updates.update_encoder import encode_update
from nncjit.updates.update_options import UpdateKeywords, UpdateOptions


def update(
    base: Mapping[str, Any],
    new: Mapping[str, Any],
    options: Options | UpdateOptions | None = None,
    *,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    **keywords: Unpack[UpdateKeywords],
) -> bytes:
    """Compress a model as an update: what a receiver of `base` needs to have `new`.

    For each tensor the update holds nothing where it has not changed, its difference, or the whole tensor, whichever
    takes the fewest bits. Tensors may be new, gone, renamed, or grown or shrunk along any dimension.

    Parameters
    ----------
    base : mapping of str to array_like
        What the receiver has. It is not changed.
    new : mapping of str to array_like
        What it shall have.
    options : Options, optional
    threads : int, optional
        Threads at work; default: all cores that the process may use. The bytes do not depend on it.
    progress : callable, optional
        Called with (weights done, weights in all, tensor name) after each tensor.
    **keywords
        Options of the encoder (`Options`), which hold for differences and whole tensors: ``qp``, ``quality``, ``bits``,
        ``ratio``, ``zeros``, ``rules`` and more; and those of updates (`nncjit.updates.UpdateOptions`): ``lossless``,
        ``size``, ``renamed``, ``parents``, ``predict``, ``zero_rows``, ``base_model_id``, ``compact`` and more.

    Returns
    -------
    bytes
        The update, a stream of the standard's second edition.

    Raises
    ------
    OptionError
        An option is out of range, unknown, contradicts another, or does not fit a tensor.
    ModelError
        An array cannot be held, or a renaming does not fit.
    """
    chosen = UpdateOptions.of_one_update(options, keywords)
    file = io.BytesIO()
    state = ChainState.of(Model.from_mapping(base))
    with reporting(progress, "update") as told:
        encode_update(state, Model.from_mapping(new), file, chosen, Execution(threads=threads, progress=told))
    return file.getvalue()


def apply(
    base: Mapping[str, Any],
    *updates: Any,
    threads: int | None = None,
    max_bytes: int | None = None,
    progress: Progress | bool | None = None,
    base_model_id: str | None = None,
) -> dict[str, Array]:
    """Apply updates to a model, one after the other.

    Parameters
    ----------
    base : mapping of str to array_like
        The model that the first update was made for. It is not changed.
    *updates : bytes-like, path or binary file
        In their order.
    threads, max_bytes : int, optional
        As in `decode`.
    progress : callable, optional
        As in `update`.
    base_model_id : str, optional
        What each update must say of the model that it belongs to.

    Returns
    -------
    dict of str to ndarray
        The model after the last update. Tensors that no update touches are copies too.

    Raises
    ------
    BitstreamError
        An update is damaged or cut off.
    UpdateError
        An update does not fit: another base, a missing parent, a wrong order. Names tensor and rule.
    """
    state = ChainState.of(Model.from_mapping(base))
    arrays: dict[str, Array] = {}

    def keep(parameter: Parameter) -> Parameter:
        values = parameter.read()
        if parameter.release is None:
            values = values.copy()  # may be the caller's own
        arrays[parameter.name] = dtypes.as_array(values, parameter.info.dtype)
        return replace(parameter, read=lambda: values)

    with ExitStack() as files, reporting(progress, "apply") as told:
        application = opened_updates(state, updates, files, max_bytes=max_bytes, base_model_id=base_model_id)
        after = application.run(keep, goes_on=False, threads=threads, progress=told)
    return {name: arrays[after.tied.get(name, name)] for name in after.order}
