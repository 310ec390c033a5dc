"""What the encoder writes reads back, whatever the layer and however it was coded."""

from __future__ import annotations

import random

import numpy as np
import pytest
from cabac.encoding import Given, any_layer, dependent
from hypothesis import given, settings
from hypothesis import strategies as st

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan, to_scan
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel

EXAMPLES = 300 if JIT else 15


@settings(max_examples=EXAMPLES)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["none", "fast", "exact", "reference"]),
    st.sampled_from([True, False, "auto"]),
    st.booleans(),
)
def test_any_layer_reads_back(seed, selection, row_skip, use_points):
    case = any_layer(random.Random(seed), skipped=row_skip is True)
    payload, points = case.code(selection=selection, row_skip=row_skip)
    assert case.decode(payload, points, use_points=use_points).tolist() == case.levels.tolist()


@settings(max_examples=EXAMPLES // 3)
@given(st.integers(0, 2**32), st.integers(2, 4))
def test_numbers_and_layers_follow_each_other_in_one_string(seed, n):
    rng = random.Random(seed)
    cases = [any_layer(rng, skipped=False) for _ in range(n)]
    bits = [rng.randint(6, 13) for _ in cases]
    numbers = [rng.randint(-(1 << (k - 1)), (1 << (k - 1)) - 1) for k in bits]
    encoder = PayloadEncoder()
    for case, number, k in zip(cases, numbers, bits, strict=True):
        encoder.number(number, k)
        encoder.layer(case.levels, case.layer, base=case.base, history=case.history, hdsp=case.hdsp, row_skip=False)
    payload = np.frombuffer(encoder.finish(), np.uint8)
    jobs = []
    for case, k in zip(cases, bits, strict=True):
        layer = case.layer
        base, history = (from_scan(array, layer) for array in (case.base, case.history))
        jobs.append(LayerJob(layer, np.zeros(layer.size, np.int32), qp_bits=k, base=base, history=history))
    assert decode_payloads([PayloadJob(payload, tuple(jobs))], 1) == [numbers]
    for case, job in zip(cases, jobs, strict=True):
        assert to_scan(job.out, case.layer).tolist() == case.levels.tolist()


@pytest.mark.parametrize("level", [2**30 - 1, 1 - 2**30, 2**29, 12345])
def test_largest_levels_read_back(level):
    case = Given(Layer.of((3,)), np.array([0, level, -1], np.int32))
    payload, points = case.code()
    assert case.decode(payload, points, use_points=True).tolist() == [0, level, -1]


def test_long_runs_of_zeros_read_back_in_every_state_of_the_quantiser():
    layer = Layer.of((1500,), dq=True)
    for first in range(1, 9 if JIT else 4):
        values = np.zeros(1500, np.int32)
        values[:first] = 1
        values[700::500] = -2
        case = Given(layer, dependent(values, layer, skipped=False))
        payload, points = case.code(selection="none")
        assert case.decode(payload, points, use_points=True).tolist() == case.levels.tolist()


def test_output_outgrows_its_first_room():
    levels = np.random.default_rng(0).integers(-(2**29), 2**29, 5000 if JIT else 1500).astype(np.int32)
    case = Given(Layer.of((len(levels),)), levels)
    payload, points = case.code(selection="none")
    assert len(payload) > 4096 + 1000
    assert case.decode(payload, points, use_points=True).tolist() == levels.tolist()
