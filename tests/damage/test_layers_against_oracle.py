"""Kernels and oracle agree on any layer, sound or damaged: the same levels, or both refuse."""

import random

import numpy as np
import pytest
from oracle import DamagedError, Engine, LayerShape, decode_layer
from oracle.write import EngineOut, encode_layer

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import to_scan
from nncjit.errors import BitstreamError
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel

SEEDS = range(300 if JIT else 40)
INT32 = 2**31


def any_layer(rng: random.Random, most: int | None = None) -> tuple[LayerShape, list[int]]:
    """A layer with every choice open, and values (before the expansion of dependent quantisation) that fit it."""
    rows = rng.choice([1, 2, 3, 7, 8, 9, 17, 33, 65, 70, 130])
    shape = rng.choice([(rows, rng.randint(1, 20)), (rows,), (), (rows, rng.randint(1, 3), 2), (rng.randint(1, 8), 70)])
    dq, profile = rng.random() < 0.5, int(rng.random() < 0.8)
    size = rng.choice([0, 0, 0, 1, 2, 3, 5, 40, 200]) if rng.random() < 0.7 else 0
    zero = rng.choice([0, size - 1, rng.randrange(size)]) if size else 0
    parent = profile == 1 and rng.random() < 0.5
    n = int(np.prod(shape, dtype=np.int64))
    layer = LayerShape(
        shape,
        dq=dq,
        unary_length=rng.choice([1, 2, 3, 10, 11, 15, 16, 40, rng.randint(1, 256)]),
        scan=rng.randint(0, 4),
        profile=profile,
        parent=parent,
        temporal=parent and rng.random() < 0.7,
        codebook_size=size,
        codebook_zero=zero,
        base=[rng.choice([0, 0, 1, -1, 2, -3, 40, 10**9]) for _ in range(n)],
        history=[rng.randint(0, 1) for _ in range(n)],
    )
    most = rng.choice([0, 1, 2, 9, 50, 700, 2**16, 2**20, 2**29 - 1]) if most is None else most
    low, high = (-zero, size - 1 - zero) if layer.codebook_size else (-most, most)
    density = rng.choice([0.02, 0.3, 0.9])
    values = [rng.randint(low, high) if rng.random() < density else 0 for _ in range(n)]
    if rng.random() < 0.4:
        for row in range(0, layer.rows, 2):
            values[row * layer.width : (row + 1) * layer.width] = [0] * layer.width
    return layer, values


def package_layer(layer: LayerShape) -> Layer:
    return Layer.of(
        layer.shape,
        dq=layer.dq,
        unary_length=layer.unary_length,
        scan=layer.scan,
        profile=layer.profile,
        parent=layer.parent,
        temporal=layer.temporal,
        codebook_size=layer.codebook_size,
        codebook_zero=layer.codebook_zero,
    )


def coded(
    rng: random.Random, layers: list[tuple[LayerShape, list[int]]], row_skip: bool | None = None
) -> tuple[bytes, list, list]:
    """The payload of several layers, the levels of each, and the entry points of each."""
    engine = EngineOut()
    levels, n_points = [], []
    row_skip = rng.random() < 0.5 if row_skip is None else row_skip
    hdsp = rng.random() < 0.6
    starts = rng.choice([[0], [0, 0, 1, 2, 8], list(range(9))])
    for layer, values in layers:
        engine.iae(rng.randint(-100, 100), 8)
        choose = lambda _: rng.choice(starts)  # noqa: E731
        levels.append(encode_layer(engine, layer, values, row_skip=row_skip, hdsp=hdsp, choose=choose))
        n_points.append(len(engine.marks))
    payload = engine.finish()
    points = engine.points()
    return payload, levels, [points[a:b] for a, b in zip([0, *n_points], n_points, strict=False)]


def package_decode(payload: bytes, layers: list[LayerShape], points: list, threads: int = 1) -> list[np.ndarray]:
    jobs = [
        LayerJob(
            package_layer(layer),
            np.full(layer.size, -77, np.int32),
            qp_bits=8,
            points=np.array(listed, np.int64).reshape(-1, 3),
            base=np.array(layer.base, np.int32),
            history=np.array(layer.history, np.int8),
        )
        for layer, listed in zip(layers, points, strict=True)
    ]
    decode_payloads([PayloadJob(np.frombuffer(payload, np.uint8), tuple(jobs))], threads=threads)
    return [job.out for job in jobs]


def oracle_decode(payload: bytes, layers: list[LayerShape]) -> tuple[list[list[int]], list]:
    engine = Engine(payload)
    out, points = [], []
    for layer in layers:
        engine.iae(8)
        decoded = decode_layer(engine, layer)
        out.append(decoded.levels)
        points.append(decoded.points)
    engine.finish()
    return out, points


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernels_read_what_the_oracle_writes(seed):
    rng = random.Random(seed)
    layers = [any_layer(rng) for _ in range(rng.choice([1, 1, 1, 3]))]
    payload, levels, points = coded(rng, layers)
    shapes = [layer for layer, _ in layers]
    listed = points if rng.random() < 0.6 else [[] for _ in points]
    got = package_decode(payload, shapes, listed, threads=rng.choice([1, 2]))
    assert [out.tolist() for out in got] == levels


@pytest.mark.parametrize("seed", SEEDS)
def test_on_a_damaged_payload_both_agree_or_both_refuse(seed):
    rng = random.Random(10_000 + seed)
    layer, values = any_layer(rng, most=rng.choice([1, 9, 700]))
    payload, _, points = coded(rng, [(layer, values)])
    for _ in range(6):
        broken = bytearray(payload)
        for _ in range(rng.choice([1, 1, 3, 8])):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        try:
            want, found = oracle_decode(bytes(broken), [layer])
        except DamagedError:
            want = None
        if want is not None and any(abs(level) >= INT32 for level in want[0]):
            want = None
        if want is None:
            with pytest.raises(BitstreamError) as caught:
                package_decode(bytes(broken), [layer], [[]])
            assert 0 <= caught.value.bit <= 8 * len(broken)
            continue
        assert package_decode(bytes(broken), [layer], [[]])[0].tolist() == want[0]
        if found != points:
            with pytest.raises(BitstreamError):
                package_decode(bytes(broken), [layer], points)


@pytest.mark.parametrize("start", [510, 511])
def test_a_string_that_no_encoder_would_start_is_refused(start):
    layer = LayerShape((3,), unary_length=11, base=[0] * 3, history=[0] * 3)
    engine = EngineOut()
    engine.iae(0, 8)
    encode_layer(engine, layer, [1, 0, -1])
    payload = bytearray(engine.finish())
    payload[:2] = (start << 7 | payload[1] & 127).to_bytes(2, "big")
    with pytest.raises(DamagedError):
        oracle_decode(bytes(payload), [layer])
    with pytest.raises(BitstreamError):
        package_decode(bytes(payload), [layer], [[]])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_oracle_reads_what_the_encoder_writes(seed):
    rng = random.Random(20_000 + seed)
    encoder = PayloadEncoder()
    layers, wanted = [], []
    for _ in range(rng.choice([1, 1, 3])):
        shape, values = any_layer(rng)
        while shape.dq and shape.codebook_size:  # the levels of dependent quantisation are no indices
            shape, values = any_layer(rng)
        # dependent quantisation: what is skipped decides which levels a state allows
        skip = rng.random() < 0.5
        _, [levels], _ = coded(rng, [(shape, values)], row_skip=skip)
        layer = package_layer(shape)
        exact = layer.dq and layer.scan and layer.width % 4
        encoder.number(rng.randint(-128, 127), 8)
        encoder.layer(
            to_scan(np.array(levels, np.int32), layer),
            layer,
            base=to_scan(np.array(shape.base, np.int32), layer) if layer.temporal else None,
            history=to_scan(np.array(shape.history, np.int8), layer) if layer.parent else None,
            hdsp=layer.parent and rng.random() < 0.6,
            selection=rng.choice(["none", "fast", "exact", "reference"]),
            row_skip=(skip or "auto") if exact else rng.choice([True, False, "auto"]),
        )
        layers.append(shape)
        wanted.append(levels)
    payload = encoder.finish()
    got, points = oracle_decode(payload, layers)
    assert got == wanted
    assert [[tuple(point) for point in listed] for listed in encoder.entry_points] == points
