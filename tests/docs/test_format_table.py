"""The table of formats says what tests show."""

from __future__ import annotations

import ast

import pytest

from docs.pages import ROOT, script

MAKE = script("make_formats")
KNOWN = MAKE.claims()


def test_the_page_is_current() -> None:
    text = MAKE.PAGE.read_text(encoding="utf-8")
    assert MAKE.filled(text) == text, "run docs/make_formats.py"


@pytest.mark.parametrize("name", KNOWN.CLAIMS)
def test_each_mark_names_a_test(name: str) -> None:
    assert len(KNOWN.CLAIMS[name]) == len(KNOWN.COLUMNS)
    for claim in filter(None, KNOWN.CLAIMS[name]):
        path, function = claim.split("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, claim
