"""One table declares the options: keywords, flags, rules, grids and help say what it says."""

from __future__ import annotations

import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import nncjit
from nncjit.cli.arguments import encoder_options
from nncjit.cli.main import build_parser
from nncjit.encoder.choices import GROUPS, TABLE, FinenessKinds
from nncjit.encoder.execution import Data, Execution
from nncjit.encoder.options import OptionKeywords, Options
from nncjit.encoder.rules import CHANGEABLE
from nncjit.errors import OptionError
from nncjit.option_values import Blocks, Counts, Either, Flag, Label, Number, Pattern, Values, Whole, Word
from nncjit.reduce import Block
from nncjit.report import grid

TEXTUAL = [row for row in TABLE.values() if row.has_text]


def values_of(values: Values) -> st.SearchStrategy[Any]:
    """Draws of a set of values."""
    match values:
        case Whole():
            return st.integers(values.low, values.high)
        case Number():
            return st.floats(values.low, values.high)
        case Word():
            return st.sampled_from(values.words)
        case Flag():
            return st.booleans()
        case Pattern():
            return st.sampled_from(["", "w", ".*bias", "a|b"])
        case Label():
            return st.text(st.characters(codec="utf-8"), max_size=9)
        case Counts():
            found = st.lists(st.integers(1, 99), min_size=2, max_size=values.count or 3)
            return found.map(lambda counts: tuple(sorted(counts) if values.rising else counts))
        case Either():
            return st.one_of([values_of(inner) for inner in values.sets])
        case Blocks():
            return st.lists(st.builds(Block, weight=st.text(max_size=3)), max_size=2).map(tuple)
    raise AssertionError(values)


@st.composite
def keywords(draw: st.DrawFn) -> dict[str, Any]:
    """Keywords that `Options` takes."""
    names = draw(st.sets(st.sampled_from([name for name in TABLE if name not in FinenessKinds.rows()])))
    names |= set(draw(st.lists(st.sampled_from(list(FinenessKinds.rows())), max_size=1)))
    return {name: draw(values_of(TABLE[name].values)) for name in sorted(names)}


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=3)
    | st.complex_numbers()
    | st.sampled_from([object(), np.zeros((3, 3)), np.float32("nan"), np.int8(-1), np.array("x"), Block, len]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=4,
)


def test_the_typed_keywords_are_those_of_the_table():
    declared = get_type_hints(OptionKeywords, localns={"Block": Block})
    assert set(declared) == {*TABLE, "rules", "preset"}
    for group in (FinenessKinds, *GROUPS.values()):
        hints = get_type_hints(group, localns={"Block": Block})
        for name, row in group.rows().items():
            kept = Iterable[Block] if name == "given_blocks" else hints[name]
            assert declared[name] == (kept | row.values.spelling if row.values.spelling else kept), name


@pytest.mark.parametrize("function", [nncjit.encode, nncjit.compress])
def test_the_public_functions_take_what_is_no_option_as_arguments(function):
    taken = set(inspect.signature(function).parameters)
    assert {f.name for group in (Execution, Data) for f in fields(group)} <= taken
    assert not taken & set(OptionKeywords.__annotations__)


@pytest.mark.parametrize("documented", [nncjit.encode, nncjit.compress, nncjit.Options])
def test_help_explains_every_option(documented):
    text = inspect.getdoc(documented)
    words = " ".join(text.split())
    for name, row in TABLE.items():
        assert f"\n{name} : {row.values.says}\n" in text
        assert row.about in words
    assert "\nrules : " in text


@pytest.mark.parametrize("verb", ["compress", "demo", "profile", "eval"])
def test_flags_are_those_of_the_table(verb):
    parser, words = build_parser(verb), [verb] if verb == "demo" else [verb, "model"]
    shown = parser.parse_args(words)
    along = set(FinenessKinds.rows()) if verb == "eval" else set()  # eval moves along these
    assert {row.name for row in TEXTUAL} - along == {name for name in TABLE if hasattr(shown, name)}

    @given(st.data())
    def flags_give_what_they_say(data):
        row = data.draw(st.sampled_from([row for row in TEXTUAL if row.name not in along]))
        value = True if row.is_flag else data.draw(values_of(row.values))
        flag = f"--{row.name.replace('_', '-')}"
        given = parser.parse_args([*words, flag if row.is_flag else f"{flag}={row.plain(value)}"])
        assert encoder_options(given) == {row.name: value}

    flags_give_what_they_say()


def test_grids_and_rules_take_what_text_and_single_tensors_can_have():
    assert set(grid.AXES) == set(TABLE) - {"given_blocks"}
    assert set(CHANGEABLE) == set(TABLE) - set(GROUPS["stream"].rows()) - {"qp_density"}


@given(st.data())
def test_text_means_the_value_that_it_was_written_for(data):
    row = data.draw(st.sampled_from(TEXTUAL))
    value = data.draw(values_of(row.values))
    if row.default is None or value not in ("", "none"):
        assert row.parse(str(row.plain(value))) == row.check(row.plain(value)) == row.check(value) == value


@given(keywords())
def test_options_are_made_anew_from_their_keywords(flat):
    options = Options(**flat)
    again = options.keywords()
    if "given_blocks" not in again:
        again = json.loads(json.dumps(again))
    assert Options(**again) == options
    assert eval(repr(options), {"Options": Options, "Block": Block}) == options
    assert pickle.loads(pickle.dumps(options)) == options
    assert hash(Options(**again)) == hash(options)


@given(st.data())
def test_a_rule_changes_what_it_names_and_nothing_else(data):
    flat = data.draw(keywords())
    flat.pop("only", None)  # comes before rules
    row = data.draw(st.sampled_from(list(CHANGEABLE.values())))
    value = data.draw(values_of(row.values))
    ruled = Options(**flat, rules={"a": {row.name: value}}).choices(["a", "b"])
    by_default = Options(**flat).choices(["b"])["b"]
    assert ruled["b"] == by_default
    assert not by_default.own_fineness
    assert ruled["a"] == by_default.replace(**{row.name: value})
    if row.name in FinenessKinds.rows():
        assert (ruled["a"].fineness.kind, ruled["a"].fineness.value) == (row.name, value)
        assert ruled["a"].own_fineness


def refused_in_one_line(make):
    try:
        make()
    except OptionError as error:
        said = str(error)
    else:
        return
    assert said.isprintable(), said
    assert len(said) < 1000


@given(st.sampled_from([*TABLE, "rules", "threads", "bitz"]), JUNK)
@example("rate_weight", 10**400)
@example("pattern", "2:" + "9" * 5000)
@example("rules", {"a{99999999999}": {}})
@example("rules", "a=qp:\n")
def test_whatever_is_given_is_taken_or_refused_in_one_line(name, value):
    refused_in_one_line(lambda: Options(**{name: value}))
    refused_in_one_line(lambda: Options(rules={"a": {name: value}}))
    refused_in_one_line(lambda: Options(rules=[value]))
    refused_in_one_line(lambda: Options(rules={"a": value}))
    refused_in_one_line(lambda: Options.of(value, {}))
    refused_in_one_line(lambda: Execution(threads=value, progress=value))
    refused_in_one_line(lambda: Data(sensitivity=value))
    refused_in_one_line(lambda: Data(pruning=value))


@given(st.sampled_from(TEXTUAL), st.text())
def test_whatever_the_command_line_says_is_taken_or_refused_in_one_line(row, text):
    refused_in_one_line(lambda: row.parse(text))
    refused_in_one_line(lambda: Options(rules=f".*={row.name}:{text}"))
    refused_in_one_line(lambda: grid.parse(f"{row.name}={text}"))


def test_options_are_there_before_anything_heavy():
    code = (
        "import sys; from nncjit import Options; Options(bits=3, rules='a=pattern:2:4');"
        "print({'numba', 'llvmlite', 'numpy', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.slow
def test_a_type_checker_finds_a_misspelt_option_and_a_wrong_value(tmp_path):
    code = """
import nncjit
nncjit.encode({}, bits=4, pattern="2:4", rules={".*": "raw", "b": {"qp": -3}}, threads=2)
nncjit.compress("a", "b", nncjit.Options(pattern=(2, 4)), rank="auto")
nncjit.encode({}, bitz=4)
nncjit.compress("a", "b", quantizer="trelis")
nncjit.Options(zeros="half")
"""
    root = Path(nncjit.__file__).parents[1]
    checker = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [*checker, "--follow-imports=silent", "--ignore-missing-imports", "--hide-error-context", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=root if (root / "pyproject.toml").exists() else tmp_path,
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.split(":")[1] for line in errors] == ["5", "6", "7"], done.stdout + done.stderr
    assert [name in line for name, line in zip(("bitz", "quantizer", "zeros"), errors, strict=True)] == [True] * 3
