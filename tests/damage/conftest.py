"""Compile the kernels before any test of this folder measures time or memory."""

import pytest
from damage.streams import VECTORS

import nncjit


@pytest.fixture(scope="session", autouse=True)
def compiled():
    path = next(path for path in VECTORS if path.stem == "e2-scan1")
    for threads in (1, 2):
        nncjit.decode(path, threads=threads)
