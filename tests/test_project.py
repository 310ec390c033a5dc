"""The files of the project are consistent with each other."""

import tomllib
from pathlib import Path

import pytest

import nncjit

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "pyproject.toml"

pytestmark = pytest.mark.skipif(not PROJECT.exists(), reason="no checkout")


def test_exactly_the_kernel_modules_are_exempt_from_type_checks():
    overrides = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["tool"]["mypy"]["overrides"]
    (exempt,) = [row["module"] for row in overrides if row.get("ignore_errors")]
    kernels = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("nncjit/*/*_kernels.py")}
    inside_kernels = {"lanes", "plain_vectors", "raw_memory", "vector_types", "vectors"}
    assert set(exempt) == kernels | {f"nncjit.jit.{name}" for name in inside_kernels}


def test_the_changelog_tells_of_this_version():
    assert f"\n## {nncjit.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
