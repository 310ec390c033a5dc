"""The cache of compiled kernels on disk.

Numba's own cache looks at one source file a kernel: a change in a function that the kernel calls from another file
goes unnoticed, and a damaged file or a folder that cannot be written stops the program. Here a kernel's file is named
by a digest of everything that its machine code depends on, holds its own checksum, and appears at once or not at all.
Whatever goes wrong with it, the kernel is compiled. Where no folder can be written, a warning says so once. A process
whose source files were replaced while it runs, by an upgrade, neither reads nor writes: what it has in memory is not
what they say.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
from numba import config

from nncjit.errors import NncWarning
from nncjit.jit import numba_internals
from nncjit.jit.trusted_folder import TrustedFolder, open_folder

PACKAGE = Path(__file__).parent.parent
SETTINGS = (
    *("BOUNDSCHECK", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUGINFO_DEFAULT"),
    *("CPU_NAME", "CPU_FEATURES", "ENABLE_AVX"),
)
"""Settings of Numba that change what a kernel becomes."""
_LOADED = time.time_ns()
"""When this process loaded the package."""
_KEPT_SECONDS = 30 * 24 * 3600
"""Older versions of a kernel are kept for so long: another installation may use them."""
_IMPORT = re.compile(r"^\s*(?:from|import)\s+nncjit\.([\w.]+)(?:\s+import\s+(\w+))?", re.MULTILINE)


def folders() -> Iterator[tuple[Path, int]]:
    """Where compiled kernels may stand, the best place first, each with what others may do there at most.

    The place for temporary files is shared with everybody, so that nobody else may even look into a folder there.
    """
    if config.CACHE_DIR:  # NUMBA_CACHE_DIR: the user wants them there and nowhere else
        yield Path(config.CACHE_DIR) / "nncjit", 0o755
        return
    yield PACKAGE / "__pycache__" / "kernels", 0o755
    with suppress(RuntimeError):  # nobody knows this user's home
        yield _user_folder() / "nncjit", 0o755
    yield Path(tempfile.gettempdir()) / f"nncjit-{os.geteuid() if hasattr(os, 'geteuid') else 'user'}", 0o700


def folder_in_use() -> Path | None:
    """The first folder that can hold compiled kernels; None where there is none yet."""
    for path, mode in folders():
        with suppress(OSError), _open(path, mode):
            return path
    return None


def _user_folder() -> Path:
    """Where the system wants a user's caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@cache
def _processor() -> tuple[str, ...]:
    """The machine that code is compiled for."""
    try:
        features = llvmlite.binding.get_host_cpu_features().flatten()
    except RuntimeError:  # LLVM cannot tell: Numba then compiles for none
        features = ""
    return llvmlite.binding.get_process_triple(), llvmlite.binding.get_host_cpu_name(), features


@cache
def sources(path: Path) -> frozenset[Path]:
    """A source file, those that it imports from this package, and so on; and the tables beside them."""
    found, left = set[Path](), {path}
    while left:
        path = left.pop()
        found |= {path, *path.parent.glob("*.json")}
        for module, name in _IMPORT.findall(path.read_text(encoding="utf-8")):
            base = PACKAGE.joinpath(*module.split("."))
            near = {base.with_suffix(".py"), base / "__init__.py", base / f"{name}.py"}
            left |= {other for other in near if other.is_file()} - found
    return frozenset(found)


def read_note(name: str) -> bytes | None:
    """What `write_note` keeps under this name, if anything."""
    return next((data for path, mode in folders() if (data := _read(path, mode, name)) is not None), None)


def write_note(name: str, data: bytes) -> None:
    """Keep a few bytes beside the kernels, where that can be done."""
    for path, mode in folders():
        if _write(path, mode, name, data):
            break
    _remove_old(name.rpartition("-")[0])


class ReplacedError(Exception):
    """A source file is newer than what this process has loaded of it."""


class KernelCache:
    """What Numba's dispatcher asks for compiled code: one file for each signature of a kernel."""

    cache_path = None

    def __init__(self, function: Any) -> None:
        self._function = function
        self._name = f"{function.__module__}.{function.__qualname__}"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel for a signature, or None."""
        try:
            file_name = self.file_name(sig)
            for path, mode in folders():
                data = _read(path, mode, file_name)
                if data is not None:
                    return numba_internals.from_parts(target_context, *pickle.loads(data))
        except Exception:  # any fault of a cache is a miss
            pass
        return None

    def holds(self, sig: Any) -> bool:
        """Whether the compiled kernel for a signature is on disk."""
        try:
            file_name = self.file_name(sig)
            return any(_read(path, mode, file_name) is not None for path, mode in folders())
        except Exception:
            return False

    def save_overload(self, sig: Any, compiled: Any) -> None:
        """Keep a kernel that was compiled for a signature."""
        try:
            parts = numba_internals.to_parts(compiled)
            if parts is None:
                return
            data, file_name = pickle.dumps(parts, protocol=-1), self.file_name(sig)
            kept = any(_write(path, mode, file_name, data) for path, mode in folders())
            _remove_old(self._name)
        except Exception:
            return
        if not kept:
            _warn_of_no_folder()

    def enable(self) -> None:
        """Numba's dispatchers may ask for this; the cache is always on."""

    disable = flush = enable

    def file_name(self, sig: Any) -> str:
        """The kernel and a digest of what its code depends on: signature, processor, versions, settings, sources."""
        versions = sys.version, numba.__version__, llvmlite.__version__
        settings = [getattr(config, name, None) for name in SETTINGS], sorted(numba_internals.AVAILABLE)
        depends = hashlib.sha256(repr((sig, _processor(), versions, settings)).encode())
        for path in sorted(sources(Path(self._function.__code__.co_filename))):
            if path.stat().st_ctime_ns > _LOADED:
                raise ReplacedError(path)
            depends.update(hashlib.sha256(path.read_bytes()).digest())
        return f"{self._name}-{depends.hexdigest()[:24]}"


def _remove_old(name: str) -> None:
    """Remove older versions of what has this name in front of a digest."""
    for path, mode in folders():
        with suppress(OSError), _open(path, mode) as folder:
            folder.remove_old(f"{name}-", _KEPT_SECONDS)


@cache
def _warn_of_no_folder() -> None:
    """Say once why every start takes so long."""
    tried = ", ".join(str(path) for path, _ in folders())
    warnings.warn(
        f"compiled kernels cannot be kept ({tried} cannot be written), so that every start compiles them again:"
        " set NUMBA_CACHE_DIR to a folder that can be written",
        NncWarning,
        stacklevel=2,
    )


def _open(path: Path, mode: int) -> AbstractContextManager[TrustedFolder]:
    """Open a folder of kernels. Who owns the package is trusted: its code runs anyway."""
    return open_folder(path, mode, frozenset([PACKAGE.stat().st_uid]))


def _read(path: Path, mode: int, name: str) -> bytes | None:
    """The data of a file in the folder `path`; None where it is not there, not whole, or maybe somebody else's."""
    try:
        with _open(path, mode) as folder:
            content = folder.read(name)
    except OSError:
        return None
    data = content[32:]
    return data if hashlib.sha256(data).digest() == content[:32] else None


def _write(path: Path, mode: int, name: str, data: bytes) -> bool:
    """Write a file into the folder `path`, all at once; False where that cannot be done."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        with _open(path, mode) as folder:
            folder.write(name, hashlib.sha256(data).digest() + data)
    except OSError:
        return False
    return True
