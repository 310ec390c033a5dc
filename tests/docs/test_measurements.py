"""The tables on the pages agree with the saved figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs.pages import DOCS, PAGES, name, script

MAKE = script("make_measurements")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_agree_with_the_saved_figures(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert MAKE.filled(text) == text, "run docs/make_measurements.py"


def test_the_standards_own_table_is_on_the_page() -> None:
    text = (DOCS / "measurements.md").read_text(encoding="utf-8")
    for network, size in (
        ("VGG16", 2.98),
        ("ResNet50", 6.54),
        ("MobileNetV2", 12.18),
        ("DCase", 4.12),
        ("UC12B", 17.34),
    ):
        assert f"| {network} | {size} % |" in text


def test_saved_figures_name_no_place_of_a_machine() -> None:
    files = sorted((DOCS / "measurements").glob("*.json"))
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        assert not any(folder in text for folder in ("/home", "/work", "/tmp")), path.name


def test_every_saved_figure_has_the_command_that_makes_it() -> None:
    commands = {file for file, _ in MAKE.commands(None)}
    assert {path.name for path in (DOCS / "measurements").glob("*.json")} <= commands
