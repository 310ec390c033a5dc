"""Every path, module and public name that the pages mention exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import nncjit
from docs.pages import DOCS, PAGES, ROOT, lacks_library, name, prose

PACKAGE = Path(nncjit.__file__).parent
PACKAGES = "|".join(sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
INSIDE = (DOCS / "architecture.md", DOCS / "performance.md")
"""Pages about the code, which call modules by their names inside the package."""

_PATH = re.compile(r"`([a-z_]+(?:/[a-z0-9_.*-]+)*/|[a-z_]+(?:/[a-z0-9_.*-]+)+)`")
_KERNELS = re.compile(r"`(?:[a-z]+/)*([a-z_]+_kernels)`")
_MODULES = re.compile(r"^Modules?\b[^\n]*", re.MULTILINE)
_PUBLIC = re.compile(r"(?<![\w./-])nncjit(?:\.[A-Za-z_]\w*)+")
_INNER = re.compile(rf"(?<![\w./-])(?:{PACKAGES})(?:\.[A-Za-z_]\w*)+")


def paths(text: str) -> list[str]:
    """The paths in backticks, with lower-case names."""
    return _PATH.findall(text)


def has_path(path: str) -> bool:
    """Whether a path leads somewhere from the checkout, from the package, or from one of its packages. Modules may come
    without their suffix.
    """
    forms = (path.rstrip("/"),) if path.endswith("/") else (path, f"{path}.py")
    return any(next(root.glob(form), None) for root in (ROOT, PACKAGE) for form in forms)


def has_name(dotted: str) -> bool:
    """Whether a dotted name, without the leading ``nncjit``, is a module or something in one; or what it needs is not
    installed, so that only machines with all extras can tell.
    """
    found: object = nncjit
    try:
        for at, part in enumerate(dotted.split("."), 1):
            if not hasattr(found, part):
                importlib.import_module(".".join(["nncjit", *dotted.split(".")[:at]]))
            found = getattr(found, part)
    except (ImportError, nncjit.ModelError) as error:
        return lacks_library(error)
    return True


def modules() -> set[str]:
    return {path.stem for path in PACKAGE.rglob("*.py")}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_paths_exist(page: Path) -> None:
    if page.exists():
        assert not [path for path in paths(prose(page)) if not has_path(path)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_public_names_exist(page: Path) -> None:
    mentioned = {found.partition(".")[2] for found in _PUBLIC.findall(page.read_text(encoding="utf-8"))}
    assert not {dotted for dotted in mentioned if not has_name(dotted)}


@pytest.mark.parametrize("page", INSIDE, ids=name)
def test_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    mentioned = set(_KERNELS.findall(text))
    for sentence in _MODULES.findall(prose(page)):
        mentioned.update(re.findall(r"`([a-z_]+)`", sentence))
    assert not mentioned - modules()
    assert not {dotted for dotted in _INNER.findall(text) if not has_name(dotted)}


def test_the_checks_find_what_is_missing() -> None:
    assert paths("`cabac/tables`, `quant/`, `tests/oracle`, `X/kernel`, `/`") == [
        "cabac/tables",
        "quant/",
        "tests/oracle",
    ]
    assert has_path("cabac/tables")
    assert not has_path("cabac/no_such_module")
    assert not has_path("no_such_package/")
    assert has_name("encoder.targets.Target.of")
    assert not has_name("encoder.no_such_module")
    assert not has_name("no_such_function")
    assert _PUBLIC.findall("`nncjit.jit.address(x)`, x/nncjit.y, nncjit.") == ["nncjit.jit.address"]
