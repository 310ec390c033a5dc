"""The examples of the pages run as they are shown and print what the pages say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.pages import EXAMPLES, PAGES, name

WITH_EXAMPLES = [page for page in PAGES if EXAMPLES.examples(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name)
def test_examples_run_and_print_what_the_page_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    with EXAMPLES.workplace():
        reader = EXAMPLES.Reader(name(page))
        for example in EXAMPLES.examples(text):
            if not EXAMPLES.is_there(example.needs):
                continue
            printed = reader.run(example)
            shown = text[slice(*example.output)] if example.output else None
            failed = "nncjit: error" in printed and "nncjit: error" not in (shown or "")
            assert not failed, f"{name(page)}, line {example.line}: {printed}"
            if shown is not None:
                assert EXAMPLES.steady(printed) == EXAMPLES.steady(shown), f"{name(page)}, line {example.line}"


@pytest.mark.parametrize("page", [page for page in WITH_EXAMPLES if page.parent.name == "howto"], ids=name)
def test_a_page_says_where_its_model_comes_from(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    read = any(re.search(r"(?<![\w/-])(?<!-o )model\.safetensors", code.code) for code in EXAMPLES.examples(text))
    assert not read or "tutorial.md#a-network" in text


def test_the_tutorial_is_among_them() -> None:
    tutorial = next(page for page in WITH_EXAMPLES if page.name == "tutorial.md")
    found = EXAMPLES.examples(tutorial.read_text(encoding="utf-8"))
    assert {example.language for example in found} == {"python", "sh"}
    assert sum(example.output is not None for example in found) >= 5


def test_a_wrong_output_is_noticed() -> None:
    shown = "```python\nprint(1 + 1, 'in 3 ms')\n```\n\n```text\n2 in 4 ms\n```\n"
    text = f"# Title\n\n{shown}\n<!-- not run: no -->\n```sh\nrm x\n```\n"
    (example,) = EXAMPLES.examples(text)
    printed = EXAMPLES.Reader("page").run(example)
    assert EXAMPLES.steady(printed) == EXAMPLES.steady(text[slice(*example.output)])
    assert EXAMPLES.steady(printed) != EXAMPLES.steady("3 in 4 ms")
