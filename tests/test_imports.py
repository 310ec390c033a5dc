"""Packages form layers: the table says which packages each of them may import, and every import follows it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import nncjit

PACKAGE = Path(nncjit.__file__).parent

MAY_IMPORT = {
    "errors": "",
    "extras": "errors",
    "option_values": "reduce errors",
    "terminal_text": "",
    "progress": "terminal_text errors",
    "wording": "",
    "tasks": "remote errors",
    "stages": "",
    "jit": "option_values errors",
    "dtypes": "errors",
    "files": "errors",
    "arrays": "option_values dtypes extras errors",
    "model": "arrays dtypes extras errors",
    "remote": "extras errors",
    "bits": "files remote errors",
    "syntax": "bits errors",
    "cabac": "stages jit errors",
    "quant": "stages cabac jit errors",
    "reduce": "option_values model dtypes errors",
    "formats": "model arrays dtypes files remote extras errors",
    "calibrate": "__init__ option_values formats model dtypes errors",
    "stream": "files wording reduce syntax bits model dtypes errors",
    "encoder": "progress option_values calibrate stream reduce quant cabac syntax model dtypes stages jit errors",
    "decoder": "remote tasks formats files wording progress option_values stream reduce quant cabac syntax bits model "
    "arrays dtypes stages jit errors",
    "convert": "__init__ remote extras tasks encoder decoder calibrate stream formats reduce syntax bits progress "
    "option_values model files dtypes stages jit errors",
    "updates": "remote encoder decoder convert stream quant cabac syntax bits formats progress option_values wording "
    "model files dtypes stages jit errors",
    "torch": "option_values convert encoder decoder calibrate stream formats reduce bits progress model "
    "arrays dtypes files extras stages jit errors",
    "hf": "torch convert decoder errors extras",
    "zarr": "encoder decoder extras errors",
    "onnx": "convert formats dtypes extras errors",
    "flower": "updates errors",
    "demo": "errors",
    "report": "tasks convert encoder decoder stream formats reduce bits wording progress option_values model files "
    "dtypes stages errors",
    "cli": "__init__ remote wording terminal_text report demo torch updates convert encoder decoder calibrate stream "
    "formats reduce progress option_values dtypes stages files extras jit errors",
    "__main__": "cli",
    "__init__": "report torch updates convert encoder decoder model errors",
}
"""Package -> the packages below it. `__init__` holds the public names: ``import nncjit``."""

NUMBA = {"numba", "llvmlite"}
HEADERS_ONLY = ("errors", "extras", "remote", "bits", "syntax", "dtypes", "arrays", "model", "files", "formats")
"""Packages that must work without Numba, since `inspect` and the file formats need them."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that the file imports, anywhere in it, as an absolute name."""
    package = ["nncjit", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "nncjit" else [module]


def imported_packages(path: Path) -> set[str]:
    packages = set()
    for module in imported_modules(path):
        top, *below = module.split(".")
        if top == "nncjit":
            packages.add(below[0] if below and below[0] in MAY_IMPORT else "__init__")
    return packages


def test_every_package_is_in_the_table():
    assert {package_of(path) for path in MODULES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_import_goes_down(path):
    package = package_of(path)
    upward = imported_packages(path) - {package} - set(MAY_IMPORT[package].split())
    assert not upward, f"{package} may not import {', '.join(sorted(upward))}"


def test_only_jit_imports_numba():
    importers = {package_of(path) for path in MODULES if any(m.split(".")[0] in NUMBA for m in imported_modules(path))}
    assert importers == {"jit"}


@pytest.mark.parametrize("package", HEADERS_ONLY)
def test_packages_of_files_and_headers_need_no_kernels(package):
    below, waiting = set(), [package]
    while waiting:
        for lower in MAY_IMPORT[waiting.pop()].split():
            if lower not in below:
                below.add(lower)
                waiting.append(lower)
    assert not below & {"jit", "cabac", "quant"}


def test_encoder_and_decoder_do_not_import_each_other():
    for package, other in (
        ("decoder", "encoder"),
        ("encoder", "decoder"),
        ("stream", "encoder"),
        ("stream", "decoder"),
    ):
        assert other not in MAY_IMPORT[package].split()


def test_every_file_name_occurs_once():
    names = Counter(path.name for path in MODULES if not path.name.startswith("__"))
    assert [name for name, times in names.items() if times > 1] == []
