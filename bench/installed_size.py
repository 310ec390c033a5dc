"""What an installation weighs: bytes of the files of each package that nncjit needs, as they lie on this machine.

    python bench/installed_size.py [--json FILE.json]

A package's files are those that its installer recorded, without compiled bytecode. Decoding, verifying and inspecting
need the first group only; what is not installed here is left out.
"""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from saved_figures import save_or_print

import nncjit

TO_DECODE = ("nncjit", "numpy", "numba", "llvmlite", "safetensors")
BESIDE = ("scipy", "tqdm")
"""What ``pip install .`` adds: for factors, calibration and measures; for the progress bar."""


def installed(name: str) -> dict[str, Any] | None:
    """Version and bytes of a package."""
    if name == "nncjit":  # perhaps not installed, but run from a checkout
        files = [path for path in Path(nncjit.__file__).parent.rglob("*") if path.is_file()]
        return _row(name, nncjit.__version__, files)
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    return _row(name, found.version, [Path(str(found.locate_file(path))) for path in found.files or ()])


def _row(name: str, version: str, files: list[Path]) -> dict[str, Any]:
    kept = [path for path in files if path.suffix not in (".pyc", ".nbi", ".nbc") and path.is_file()]
    return {
        "package": name,
        "version": version,
        "bytes": sum(path.stat().st_size for path in kept),
        "to_decode": name in TO_DECODE,
    }


def main() -> None:
    """Measure and print, or save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write the figures there")
    path = parser.parse_args().json
    rows = [row for name in (*TO_DECODE, *BESIDE) if (row := installed(name)) is not None]
    version = ".".join(map(str, sys.version_info[:2]))
    save_or_print({"system": f"{platform.system()} {platform.machine()}", "python": version, "rows": rows}, path)


if __name__ == "__main__":
    main()
