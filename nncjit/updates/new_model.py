"""The file or folder of a model after updates, in any container, with what that of the base holds beside tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nncjit import formats
from nncjit.convert.hf_layout import new_folder
from nncjit.convert.model_folders import STEM, copy_rest
from nncjit.errors import ModelError, OptionError
from nncjit.formats.folder_model import is_folder, model_in
from nncjit.formats.tensor_writer import Writer
from nncjit.remote import is_url
from nncjit.updates.chain_state import ChainState
from nncjit.updates.model_sources import AnyPath, opened_model

STREAMS = (".nnc", ".nnc.index.json")


@contextmanager
def new_model(target: AnyPath, state: ChainState, like: AnyPath | None = None) -> Iterator[Writer]:
    """The model file of a state in the making; the tensors are for the caller to put.

    Parameters
    ----------
    target : path
        A file of any known format. A name without suffix is a new folder, if `like` is a folder.
    state : ChainState
        Tensors, metadata, and graphs where the base had such.
    like : path, optional
        A model whose graph the new one gets in place of the base's; or a folder whose other files go along.

    Raises
    ------
    OptionError
        The suffix is unknown.
    ModelError
        The format holds whole networks, and there is no graph of its kind; the target cannot be written.
    """
    graphs = state.graphs
    if like is not None:
        with opened_model(like) as model:
            graphs = model.graphs or graphs
    if _is_folder_to_be(target):
        if like is None or not is_folder(like):
            reason = "is no name of a model file, and for a folder there is none whose other files could go along"
            raise OptionError(f"{target}: {reason}: name a file of a known format, or that folder as `like` (--like)")
        source, found = Path(like), model_in(Path(like))
        name = f"{STEM}.safetensors" if found.name.endswith(STREAMS) else found.name
        with new_folder(Path(target)) as folder:
            with formats.create(folder / name, state.infos(), state.texts, graphs=graphs) as writer:
                yield writer
            copy_rest(source, folder, found)
        return
    try:
        made = formats.create(target, state.infos(), state.texts, graphs=graphs)
    except ModelError as error:  # nothing is written yet: the graph is missing
        said = "name a file that has it as `like` (--like), or write a .safetensors file"
        raise ModelError(f"{error}: {said}") from None
    with made as writer:
        yield writer


def _is_folder_to_be(target: AnyPath) -> bool:
    if is_url(target):
        return False
    return not formats.is_known(target) and (not Path(target).suffix or is_folder(target))
