"""Where results go when the user does not say."""

from __future__ import annotations

from pathlib import Path

from nncjit.cli.pipes import STANDARD, is_standard
from nncjit.errors import ModelError, OptionError
from nncjit.files import os_errors, resolved
from nncjit.remote import is_url

_ENCODED_INSIDE = (".nnc.onnx", ".nnc.nnef", ".nnc.nnef.tgz", ".nnc.nnef.tar.gz", ".nnc.nnef.tar")
"""Model files that hold streams."""


def derived_target(source: Path, suffix: str, *, dry_run: bool = False) -> Path:
    """`source` with another suffix; never a file that exists, since nobody asked to replace it.

    Raises
    ------
    OptionError
        Where the file exists: naming it with ``-o`` replaces it.
    """
    if is_standard(source, "input"):
        return STANDARD  # from standard input to standard output
    if is_url(source):
        raise OptionError(f"{source}: name the target with -o")
    if source.is_dir():
        return _derived_folder(source, suffix, dry_run=dry_run)
    from nncjit.formats import known_suffixes
    from nncjit.stream.stream_index import INDEX

    _check_direction(source, decoded=suffix != ".nnc")
    name = source.name
    old = max((s for s in (".nnc", INDEX, *known_suffixes()) if name.lower().endswith(s)), key=len, default="")
    target = source.with_name(name[: len(name) - len(old)] + suffix)
    if target.exists() and not dry_run:
        raise OptionError(f"{target} exists: name it with -o to replace it, or choose another name")
    return target


def _check_direction(source: Path, *, decoded: bool) -> None:
    """Refuse a stream where a model is wanted, or the other way round, before the target's name confuses."""
    from nncjit.formats import is_known
    from nncjit.stream.stream_index import is_index

    if decoded and is_known(source) and not is_index(source) and not source.name.lower().endswith(_ENCODED_INSIDE):
        raise OptionError(f"{source}: is no NNC file")
    if not decoded and (source.suffix.lower() == ".nnc" or is_index(source)):
        raise OptionError(f"{source}: is already an NNC file")


def _derived_folder(source: Path, suffix: str, *, dry_run: bool) -> Path:
    """``llama-nnc`` for the folder ``llama``, and ``llama-model`` back."""
    if suffix == ".html":
        return resolved(source).with_name(resolved(source).name + suffix)
    stem = resolved(source).name.removesuffix("-nnc")
    target = resolved(source).with_name(f"{stem}-{'nnc' if suffix == '.nnc' else 'model'}")
    if target.exists() and not dry_run:
        raise OptionError(f"{target} exists: name it with -o to write into it, or choose another name")
    return target


def named_target(output: Path | None, source: Path, suffix: str, *, dry_run: bool = False) -> Path:
    """Where the result goes: what the user says, in it where that is a folder, or a name from the source's.

    Raises
    ------
    OptionError
        As `derived_target` does.
    """
    if output is None:
        return derived_target(source, suffix, dry_run=dry_run)
    if is_url(output) or is_url(source):
        return output
    if (
        output.is_dir()
        and not source.is_dir()
        and not is_standard(source, "input")
        and not output.name.lower().endswith(_ENCODED_INSIDE)
    ):
        return output / derived_target(source, suffix, dry_run=True).name
    return output


def expanded(sources: list[Path]) -> list[Path]:
    """The paths, patterns such as ``*.safetensors`` replaced by the files that they match where the shell has not."""
    found: list[Path] = []
    for source in sources:
        if is_url(source) or source.exists() or not set(source.name) & set("*?["):
            found.append(source)
            continue
        matching = sorted(source.parent.glob(source.name))
        if not matching:
            raise ModelError(f"{source}: no file matches")
        found += matching
    return found


def in_folder(folder: Path | None, sources: list[Path], suffix: str) -> list[Path]:
    """Where each of several sources goes.

    Raises
    ------
    OptionError
        No folder is given that exists or can be made, or one with the name of a file; or two would go to one file.
    """
    names: dict[str, Path] = {}
    for source in sources:
        name = derived_target(source, suffix, dry_run=True).name
        if name.lower() in names:  # not every disk tells capitals apart
            raise OptionError(f"{names[name.lower()]} and {source} would both become {name}: compress them one by one")
        names[name.lower()] = source
    if folder is None or (not folder.is_dir() and (folder.exists() or folder.name.lower().endswith(suffix))):
        raise OptionError("several models go into a folder: name it with -o FOLDER/")
    with os_errors(folder):
        folder.mkdir(exist_ok=True)
    return [folder / derived_target(source, suffix, dry_run=True).name for source in sources]
