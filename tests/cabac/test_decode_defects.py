"""Plain mode finds the defects of memory that compiled code cannot see: two that were there are put back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import LayerShape
from oracle.write import EngineOut, encode_layer, ndu, start

import nncjit
from nncjit.cabac.decoder_records import ENTRY
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, _LayerTable, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.decoder.update_state import UpdateState
from nncjit.jit import JIT, address

pytestmark = pytest.mark.skipif(not JIT, reason="starts plain mode by itself")


def decode_layers_of_many_kinds() -> None:
    """More state machines than the cache of them holds."""
    jobs = []
    for unary_length in range(1, 25):
        layer, encoder = Layer.of((2, 3), unary_length=unary_length), PayloadEncoder()
        encoder.layer(np.zeros(6, np.int32), layer)
        job = LayerJob(layer, np.zeros(6, np.int32))
        jobs.append(PayloadJob(np.frombuffer(encoder.finish(), np.uint8), (job,)))
    decode_payloads(jobs, 1)


def decode_update_of_block() -> None:
    """An update of a BLOCK whose first part is larger than its last."""
    engine = EngineOut()
    for shape in [(40, 2), (2, 3)]:
        layer = LayerShape(shape, unary_length=11, parent=True, temporal=True, base=[0] * 80, history=[0] * 80)
        engine.iae(0, 8)
        encode_layer(engine, layer, [1] * (shape[0] * shape[1]))
    unit = ndu(
        ["w_G", "w_H"],
        (40, 3),
        engine.finish(),
        kind=3,
        node=(0, 0, 1),
        parent_signalling=True,
        parent=(0,),
        temporal=True,
        types=1,
        rank=2,
        g_rows=40,
    )
    nncjit.decode(start(parents=True) + unit, state=UpdateState())


def forget_arrays() -> None:
    """A table of addresses that does not own the lists and the state machines in it."""
    keep = _LayerTable.keep

    def forget(table: _LayerTable, array: np.ndarray, *, writes: bool = False) -> int:
        return address(array) if array.dtype in (np.int64, ENTRY) else keep(table, array, writes=writes)

    _LayerTable.keep = forget


def trust_sizes() -> None:
    """Base levels and history of the size of the unit's last part, and no check of them."""
    LayerJob.__post_init__ = lambda job: None
    UpdateState.base_of = lambda state, unit, part: (np.zeros(6, np.int32), np.zeros(6, np.uint8))


def run(*steps: str) -> subprocess.CompletedProcess[str]:
    """Take these steps in a process of its own, in plain mode."""
    folder = str(Path(__file__).parent.parent)
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join([folder, *sys.path])}
    program = "from cabac import test_decode_defects as t\n" + "".join(f"t.{step}()\n" for step in steps)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.mark.parametrize(
    ("defect", "work", "reason"),
    [
        ("forget_arrays", "decode_layers_of_many_kinds", "nobody keeps the ndarray that owns this memory"),
        ("trust_sizes", "decode_update_of_block", "no array that was given to a kernel lies there"),
    ],
)
def test_a_defect_that_is_put_back_is_found(defect, work, reason):
    assert run(work).returncode == 0
    found = run(defect, work)
    assert found.returncode == 1
    assert "StrayAddressError" in found.stderr.splitlines()[-1]
    assert reason in found.stderr.splitlines()[-1]
