"""The pages of the documentation as data: their text without code, headings, links; and the runner of their
examples."""

from __future__ import annotations

import importlib.util
import re
import sys
import unicodedata
from pathlib import Path
from types import ModuleType

import nncjit

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def script(name: str) -> ModuleType:
    """A script of ``docs``, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


EXAMPLES = script("examples")

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)|<(?:img|a)\b[^>]*\b(?:src|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: *\{#([\w-]+)\})? *$", re.MULTILINE)
_OBJECT = re.compile(r"^::: (\S+)$", re.MULTILINE)


def lacks_library(error: Exception) -> bool:
    """Whether an error says that a library is not installed that is not needed otherwise: no fault of a page."""
    if isinstance(error, ModuleNotFoundError):
        return not (error.name or "").startswith("nncjit")
    return isinstance(error, nncjit.ModelError)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The text of a page without its code blocks and comments."""
    return _COMMENT.sub("", EXAMPLES.FENCE.sub("", page.read_text(encoding="utf-8")))


def links(page: Path) -> list[str]:
    return [first or second for first, second in _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page)))]


def anchors(page: Path) -> set[str]:
    """The ids that mkdocs gives to the headings of a page, and those of the documented objects."""
    text, seen = prose(page), set()
    for title, given in _HEADING.findall(text):
        seen.add(given or _unique(_slug(title), seen))
    return seen | set(_OBJECT.findall(text))


def objects() -> dict[str, Path]:
    """The Python objects that the reference documents, and where."""
    return {what: page for page in PAGES for what in _OBJECT.findall(prose(page))}


def _slug(title: str) -> str:
    """As Python-Markdown makes it: no markup, ASCII letters, digits, underscores, single hyphens."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def _unique(slug: str, taken: set[str]) -> str:
    count, unique = 0, slug
    while unique in taken:
        count += 1
        unique = f"{slug}_{count}"
    return unique
