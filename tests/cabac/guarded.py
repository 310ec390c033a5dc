"""A program: decode random and damaged bytes with every buffer against a page that nobody may touch.

``python guarded.py before|behind SEED COUNT``: the forbidden page stands before or behind each buffer. Any access
outside a buffer ends the process with a signal; anything but a result or a BitstreamError ends it with a traceback.
"""

import random
import sys

import numpy as np
from cabac.decoding import coded
from cabac.guard_pages import GuardPages

from nncjit.cabac import payload_decoder as module
from nncjit.cabac.layer import Layer
from nncjit.errors import BitstreamError

PAGES = GuardPages(sys.argv[1])


def any_layer(rng):
    size = rng.choice([0, 0, 0, 1, 2, 3, 9, 200])
    zero = rng.choice([0, size - 1, size // 2]) if size else 0
    parent = rng.random() < 0.5
    return Layer.of(
        rng.choice([(), (1,), (50,), (3, 1), (1, 9), (2, 2), (17, 9), (33, 40), (70, 65), (9, 3, 3)]),
        dq=rng.random() < 0.5,
        unary_length=rng.choice([1, 2, 11, 32, 33, 256]),
        scan=rng.randint(0, 4),
        profile=rng.randint(0, 1),
        parent=parent,
        temporal=parent and rng.random() < 0.5,
        codebook_size=size,
        codebook_zero=zero,
    )


def damaged_layer(rng):
    """A sound layer with some bits flipped, or cut."""
    one = coded(
        rng.choice([(33, 40), (70, 65), (9, 30)]),
        seed=rng.randint(0, 99),
        spread=rng.choice([0.3, 3.0, 1e6]),
        dq=rng.random() < 0.5,
        scan=rng.randint(0, 4),
    )
    payload = bytearray(one.payload)
    for _ in range(rng.choice([0, 1, 4])):
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.5:
        del payload[rng.randrange(len(payload)) :]
    return one.layer, bytes(payload), one.points


def any_points(rng, layer):
    n = layer.block_rows - 1 if layer.scan else 0
    wild = rng.choice([1, 100, 10**18])
    return np.array(
        [(rng.randint(0, 255), rng.randint(0, 7), rng.randint(-(wild == 1), wild)) for _ in range(n)], np.int64
    ).reshape(-1, 3)


def main():
    rng = random.Random(int(sys.argv[2]))
    module.np = PAGES.numpy("zeros", "empty", "array", "take", "equal")
    module.WORTH_A_THREAD = 1
    refused = 0
    for _ in range(int(sys.argv[3])):
        module.PAIRED_SIZE, module.PAIRED_RATE = rng.choice([0, 1 << 40]), 1e9
        module.STEPPED_RATES = rng.choice([(0.0, 1e9), (9.0, 0.0)])
        if rng.random() < 0.5:
            layer, payload, points = damaged_layer(rng)
        else:
            layer, payload = any_layer(rng), rng.randbytes(rng.choice([0, 1, 2, 3, 9, 60, 700]))
            points = any_points(rng, layer) if rng.random() < 0.5 else module.NO_POINTS
        job = module.LayerJob(
            layer,
            PAGES.copy(np.zeros(layer.size, np.int32)),
            qp_bits=rng.choice([0, 7, 13]),
            step_of=rng.choice([None, np.float32]),
            points=points,
            base=PAGES.copy(np.full(layer.size, rng.choice([0, 1, -(2**31)]), np.int32)),
            history=PAGES.copy(np.ones(layer.size, np.int8)),
        )
        string = module.PayloadJob(PAGES.copy(np.frombuffer(payload, np.uint8)), (job, job))
        try:
            module.decode_payloads([string, string], rng.choice([1, 1, 2]))
        except BitstreamError:
            refused += 1
    print("refused", refused)


main()
