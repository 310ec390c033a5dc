"""Addresses come from one door: no module but `nncjit.jit.addresses` asks an array where its memory lies."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nncjit

PACKAGE = Path(nncjit.__file__).parent
ASKING = {"ctypes", "__array_interface__", "addressof"}
"""Attributes that lead to an address, as in ``array.ctypes.data``."""
MAY_ASK = {"jit/addresses.py", "arrays.py"}  # the door; and who asks whether two arrays are the same memory

MODULES = sorted(PACKAGE.rglob("*.py"))


def asks(source):
    """The lines of a program that ask for an address."""
    return [
        node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute) and node.attr in ASKING
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_door_asks_for_addresses(path):
    if path.relative_to(PACKAGE).as_posix() not in MAY_ASK:
        assert asks(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["a.ctypes.data", "a.__array_interface__['data'][0]", "f(a[1:].ctypes)", "import ctypes\nctypes.addressof(c)"],
)
def test_every_way_to_ask_is_seen(source):
    assert asks(source)


def test_the_door_is_where_it_is_said_to_be():
    for name in MAY_ASK:
        assert asks((PACKAGE / name).read_text(encoding="utf-8"))
