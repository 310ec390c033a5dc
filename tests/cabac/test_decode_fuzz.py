"""Every way through the kernels gives what the slow oracle gives: alone, in pairs or in lanes."""

import random

import numpy as np
import pytest
from cabac.decoding import WAYS, take_way
from oracle import LayerShape
from oracle.write import EngineOut, encode_layer

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel


def any_layer(rng):
    """A layer, the levels that it must decode to, its payload and its entry points."""
    largest = 3000 if JIT else 100
    width = rng.choice([1, 3, 17, 64, 70])
    shape = (rng.randint(1, max(1, rng.choice([40, largest]) // width)), width)
    parent = rng.random() < 0.3
    size = rng.choice([0, 0, 0, 0, 1, 2, 7, 300])
    zero = rng.choice([0, size - 1, size // 3]) if size else 0
    n = shape[0] * shape[1]
    layer = LayerShape(
        shape,
        dq=rng.random() < 0.5,
        unary_length=rng.choice([1, 2, 5, 10, 11, 12, 40]),
        scan=rng.randint(0, 4),
        profile=1 if parent else rng.randint(0, 1),
        parent=parent,
        temporal=parent and rng.random() < 0.6,
        codebook_size=size,
        codebook_zero=zero,
        base=[rng.choice([0, 0, 1, -1, 5, -(10**9)]) for _ in range(n)],
        history=[rng.randint(0, 1) for _ in range(n)],
    )
    most = rng.choice([1, 3, 40, 5000, 2**20, 2**29])
    low, high = (-zero, size - 1 - zero) if layer.codebook_size else (-most, most)
    density, narrow = rng.choice([0.01, 0.3, 0.9]), rng.random() < 0.5
    values = [0] * n
    for k in range(n):
        if rng.random() < density:
            value = round(rng.gauss(0, 2)) if narrow else rng.randint(low, high)
            values[k] = min(max(value, low), high)
    engine, starts = EngineOut(), rng.choice([[0], list(range(9))])
    choose = lambda _: rng.choice(starts)  # noqa: E731
    skip, hdsp = rng.random() < 0.3, rng.random() < 0.5
    levels = encode_layer(engine, layer, values, row_skip=skip, hdsp=hdsp, choose=choose)
    payload = engine.finish()
    return layer, levels, payload, engine.points()


def job_of(layer, payload, points):
    asked = ("dq", "unary_length", "scan", "profile", "parent", "temporal", "codebook_size", "codebook_zero")
    one = LayerJob(
        Layer.of(layer.shape, **{name: getattr(layer, name) for name in asked}),
        np.full(len(layer.base), -77, np.int32),
        points=np.array(points, np.int64).reshape(-1, 3),
        base=np.array(layer.base, np.int32),
        history=np.array(layer.history, np.int8),
    )
    return PayloadJob(np.frombuffer(payload, np.uint8), (one,))


@pytest.mark.parametrize("seed", range(60 if JIT else 6))
def test_each_way_through_the_kernels_gives_the_oracles_levels(seed, monkeypatch):
    rng = random.Random(seed)
    chosen = [any_layer(rng) for _ in range(rng.randint(1, 6))]
    use_points = rng.random() < 0.7
    for way in WAYS:
        take_way(monkeypatch, way)
        for threads in (1, 2):
            jobs = [job_of(layer, payload, points if use_points else []) for layer, _, payload, points in chosen]
            decode_payloads(jobs, threads)
            for (_, levels, _, _), job in zip(chosen, jobs, strict=True):
                assert job.layers[0].out.tolist() == levels
