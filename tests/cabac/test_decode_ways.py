"""Whatever is wrong with a payload, all ways through the decoder say the same of it."""

import numpy as np
import pytest
from cabac.decoding import WAYS, coded, take_way

from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.errors import BitstreamError
from nncjit.jit import JIT

pytestmark = pytest.mark.skipif(not JIT, reason="one way is enough where each takes minutes")


def damaged(random, sample):
    """A payload and entry points, of which one is wrong."""
    payload, points = bytearray(sample.payload.tobytes()), sample.points.copy()
    at, kind = int(random.integers(len(payload))), int(random.integers(5))
    if kind == 0:
        del payload[at:]
    elif kind == 1:
        payload[at] ^= 1 << int(random.integers(8))
    elif kind == 2:
        payload[at : at + 60] = random.bytes(len(payload[at : at + 60]))
    elif kind == 3:
        payload[at : at + 80] = b"\xff" * len(payload[at : at + 80])
    else:
        points[int(random.integers(len(points))), int(random.integers(3))] ^= 1
    return bytes(payload), points[: 0 if random.random() < 0.2 else None]


def said(sample, payload, points):
    """The levels, or the message."""
    out = np.zeros(sample.layer.size, np.int32)
    job = PayloadJob(np.frombuffer(payload, np.uint8), (LayerJob(sample.layer, out, points=points),), "weight", 0)
    try:
        decode_payloads([job], 1)
    except BitstreamError as error:
        return str(error)
    return out.tobytes()


def test_all_ways_say_the_same_of_damaged_payloads():
    random = np.random.default_rng(1)
    samples = [coded((70, 66), seed=2, scan=2, dq=True), coded((64, 300), seed=6, scan=3, dq=False)]
    cases = [(sample, *damaged(random, sample)) for sample in samples for _ in range(40)]
    found = {}
    for way in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            take_way(patch, way)
            found[way] = [said(*case) for case in cases]
    assert sum(isinstance(answer, str) for answer in found["solo"]) > 40
    for way, answers in found.items():
        assert answers == found["solo"], way
