"""Whatever of Numba's undocumented parts a version lacks, it is noticed and told, and every result stays the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numba
import numpy as np
import pytest
from jit import hidden_names
from llvmlite import ir

import nncjit
from nncjit.jit import JIT, numba_internals
from nncjit.jit.numba_internals import FEATURES

pytestmark = pytest.mark.skipif(not JIT, reason="nothing is compiled")

HERE = Path(__file__).parent
PARTS = [(name, feature) for feature, needs in FEATURES.items() for name in (*needs.of_numba, *needs.of_dispatcher)]


def root_of(name):
    return numba if name.startswith("core.") else numba.njit(lambda: None)


def run(program, *hidden, **environment):
    """Run a program in which these features' parts are hidden; its output, and the warnings as lines before it."""
    names = [name for name, feature in PARTS if feature in hidden]
    start = f"""
        import warnings
        import numba
        from jit.hidden_names import hide
        dispatcher = numba.njit(lambda: None)
        for name in {names!r}:
            hide(name, numba if name.startswith("core.") else dispatcher)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from nncjit.jit.numba_internals import AVAILABLE, FEATURES
        assert sorted(set(FEATURES) - AVAILABLE) == sorted({hidden!r}), AVAILABLE
        assert len(caught) == len({hidden!r})
    """
    places = [str(path) for path in (Path(nncjit.__file__).parent.parent, HERE.parent)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(places)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def test_this_numba_has_every_part():
    assert set(FEATURES) == numba_internals.AVAILABLE


@pytest.mark.parametrize(("name", "feature"), PARTS)
def test_a_part_that_is_missing_turns_its_feature_off_and_says_so(monkeypatch, name, feature):
    owner, attribute = hidden_names.place(name, root_of(name))
    monkeypatch.setattr(owner, attribute, hidden_names.Hidden(owner, attribute), raising=False)
    with pytest.warns(RuntimeWarning, match=f"has no .*{name}: {FEATURES[feature].without}"):
        assert numba_internals._look() == set(FEATURES) - {feature}


PROBE = """
    import os
    from jit.test_raw_memory import test_floats_blocks_and_counters
    from jit.test_threads import WANT, squares, threads
    from nncjit.jit import helper, inlined, kernel
    from nncjit.jit.compile import KERNELS
    threads.WORTH_COMPILING, threads._layer.is_crowded = 0, bool

    @helper
    def double(x):
        return 2 * x

    @inlined
    def add_one(x):
        return x + 1

    @kernel
    def probe(x):
        return add_one(double(x))

    assert probe(5) == 11
    try:
        double(4)
    except TypeError:
        print("refused")
    test_floats_blocks_and_counters()
    assert (squares(2) == WANT).all()
    child = os.fork() if hasattr(os, "fork") else -1
    if child == 0:
        os._exit(0 if (squares(2) == WANT).all() else 1)
    assert child == -1 or os.waitpid(child, 0)[1] == 0
    print(sum(sum(kernel.stats.cache_hits.values()) for kernel in KERNELS))
"""


@pytest.mark.parametrize(
    "hidden", [(), *((feature,) for feature in FEATURES)], ids=lambda hidden: "".join(hidden) or "all there"
)
def test_kernels_do_the_same_without_any_one_feature(tmp_path, hidden):
    first, again = (run(PROBE, *hidden, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first[-1] == "0"
    assert (int(again[-1]) > 0) == ("cache" not in hidden)
    assert (first[0] == "refused") == ("bare helpers" not in hidden)


@pytest.mark.slow
def test_the_codec_does_the_same_without_all_features(tmp_path):
    program = """
        from jit.test_numba_internals import outcome
        print(outcome())
    """
    assert run(program, *FEATURES, NUMBA_CACHE_DIR=str(tmp_path)) == [outcome()]


def outcome():
    """A digest of an encoded model and of what it decodes to."""
    rng = np.random.default_rng(0)
    model = {"matrix": rng.standard_normal((64, 96), np.float32), "vector": rng.standard_normal(64, np.float32)}
    data = nncjit.encode(model, threads=2)
    decoded = nncjit.decode(data, threads=2)
    return hashlib.sha256(data + b"".join(decoded[name].tobytes() for name in model)).hexdigest()


def test_pointers_are_opaque_where_types_have_no_pointers(monkeypatch):
    element = ir.FloatType()
    assert numba_internals.pointer_to(element) == element.as_pointer()
    monkeypatch.setattr(ir.Type, "as_pointer", hidden_names.Hidden(ir.Type, "as_pointer"))
    assert str(numba_internals.pointer_to(element)) == "ptr"
