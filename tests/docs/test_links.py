"""Links lead to pages, headings and pictures that exist. The tests do not build the site."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import nncjit
from docs.pages import DOCS, PAGES, ROOT, anchors, lacks_library, links, name, objects

NAV = ROOT / "mkdocs.yml"

pytestmark = pytest.mark.skipif(not NAV.exists(), reason="no checkout")


def in_nav() -> list[str]:
    nav = NAV.read_text(encoding="utf-8").partition("\nnav:\n")[2]
    nav = re.split(r"^\S", nav, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^ *- (?:[^:\n]+: )?(\S+\.md)$", nav, re.MULTILINE)


def problem(page: Path, link: str) -> str:
    """What is wrong with a link, empty where nothing is."""
    if re.match(r"https?://|mailto:", link):
        return "" if link.startswith("https://") else "not https"
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_file():
        return "no such file"
    if not target.is_relative_to(DOCS):
        return "outside of the site"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"no heading {anchor!r} there"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    found = {link: problem(page, link) for link in links(page)}
    assert not {link: what for link, what in found.items() if what}


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(in_nav()) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def test_every_page_has_one_title() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, name(page)


def test_every_picture_is_shown_and_has_its_script() -> None:
    shown = {Path(link).name for page in PAGES for link in links(page) if link.endswith((".svg", ".png"))}
    drawn = {path.name for path in (DOCS / "figures").glob("*.svg")}
    scripts = {f"{path.stem}.svg" for path in (DOCS / "figures").glob("*.py") if not path.stem.startswith("_")}
    assert shown == drawn == scripts


def test_the_reference_documents_every_public_name() -> None:
    reduce = importlib.import_module("nncjit.reduce")
    wanted = {f"nncjit.{n}" for n in nncjit.__all__} | {f"nncjit.reduce.{n}" for n in reduce.__all__}
    assert wanted <= set(objects())


@pytest.mark.parametrize("path", sorted(objects()))
def test_what_the_reference_documents_exists(path: str) -> None:
    module, _, attribute = path.rpartition(".")
    try:
        assert hasattr(importlib.import_module(module), attribute)
    except (ImportError, nncjit.ModelError) as error:
        if not lacks_library(error):
            raise
        pytest.skip(str(error))
