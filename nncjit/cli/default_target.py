"""Where results go when the user does not say."""

from __future__ import annotations

from pathlib import Path

from nncjit.errors import ModelError, OptionError
from nncjit.files import os_errors


def derived_target(source: Path, suffix: str, *, dry_run: bool = False) -> Path:
    """`source` with another suffix; never a file that exists, since nobody asked to replace it.

    Raises
    ------
    OptionError
        Where the file exists: naming it with ``-o`` replaces it.
    """
    if str(source) == "-":
        return source  # from standard input to standard output
    if source.is_dir():
        return _derived_folder(source, suffix, dry_run=dry_run)
    from nncjit.formats import known_suffixes
    from nncjit.stream.stream_index import INDEX

    name = source.name
    old = max((s for s in (".nnc", INDEX, *known_suffixes()) if name.lower().endswith(s)), key=len, default="")
    target = source.with_name(name[: len(name) - len(old)] + suffix)
    if target.exists() and not dry_run:
        raise OptionError(f"{target} exists: name it with -o to replace it, or choose another name")
    return target


def _derived_folder(source: Path, suffix: str, *, dry_run: bool) -> Path:
    """``llama-nnc`` for the folder ``llama``, and ``llama-model`` back."""
    stem = source.resolve().name.removesuffix("-nnc")
    target = source.resolve().with_name(f"{stem}-{'nnc' if suffix == '.nnc' else 'model'}")
    if target.exists() and not dry_run:
        raise OptionError(f"{target} exists: name it with -o to write into it, or choose another name")
    return target


def expanded(sources: list[Path]) -> list[Path]:
    """The paths, patterns such as ``*.safetensors`` replaced by the files that they match where the shell has not."""
    found: list[Path] = []
    for source in sources:
        if source.exists() or not set(source.name) & set("*?["):
            found.append(source)
            continue
        matching = sorted(source.parent.glob(source.name))
        if not matching:
            raise ModelError(f"{source}: no file matches")
        found += matching
    return found


def in_folder(folder: Path | None, source: Path, suffix: str) -> Path:
    """Where one of several sources goes.

    Raises
    ------
    OptionError
        No folder is given that exists or can be made.
    """
    if folder is None or (folder.exists() and not folder.is_dir()):
        raise OptionError("several models go into a folder: name it with -o FOLDER/")
    with os_errors(folder):
        folder.mkdir(exist_ok=True)
    return folder / derived_target(source, suffix, dry_run=True).name
