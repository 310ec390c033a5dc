"""A program: decode random and damaged bytes with every array of the kernels beside a page that nobody may touch.

``python guarded_decoder.py before|behind SEED COUNT``: the forbidden page is before or behind each array, and inputs
are in pages that can only be read. An access outside an array, a store to an input, or an access to an array whose
owner is gone ends the process with a signal; anything but a result or a BitstreamError ends it with a traceback.
"""

import random
import sys

import numpy as np
import pytest
from cabac.decoding import WAYS, any_delivery, coded, take_way
from cabac.guard_pages import GuardPages

from nncjit.cabac import lane_supply, segment_supply
from nncjit.cabac import payload_decoder as module
from nncjit.cabac.layer import Layer
from nncjit.errors import BitstreamError
from nncjit.jit import records


def any_layer(rng):
    size = rng.choice([0, 0, 0, 1, 2, 3, 9, 200])
    zero = rng.choice([0, size - 1, size // 2]) if size else 0
    parent = rng.random() < 0.5
    return Layer.of(
        rng.choice([(), (1,), (50,), (3, 1), (1, 9), (2, 2), (17, 9), (33, 40), (70, 65), (9, 3, 3)]),
        dq=rng.random() < 0.5,
        unary_length=rng.choice([1, 2, 10, 11, 11, 32, 33, 256]),
        scan=rng.randint(0, 4),
        profile=rng.randint(0, 1),
        parent=parent,
        temporal=parent and rng.random() < 0.5,
        codebook_size=size,
        codebook_zero=zero,
    )


def sound_layers(rng):
    """Layers of our own encoder, whose arrays are not guarded."""
    return [
        coded(shape, seed=seed, spread=rng.choice([0.3, 3.0, 1e6]), dq=rng.random() < 0.5, scan=rng.randint(0, 4))
        for seed in range(30)
        for shape in [(33, 40), (70, 65), (9, 30)]
    ]


def damaged_layer(rng, sound):
    """A sound layer with some bits flipped, or cut."""
    one = rng.choice(sound)
    payload = bytearray(one.payload)
    for _ in range(rng.choice([0, 0, 1, 4])):
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


def any_job(rng, pages, sound):
    """A payload, sound, damaged or random, taken for one layer or two that go to elements of any type."""
    if rng.random() < 0.5:
        layer, payload, points = damaged_layer(rng, sound)
    else:
        layer, payload = any_layer(rng), rng.randbytes(rng.choice([0, 1, 2, 3, 9, 60, 700]))
        points = any_points(rng, layer) if rng.random() < 0.5 else module.NO_POINTS
    base, history = np.full(layer.size, rng.choice([0, 1, -(2**31)]), np.int32), np.ones(layer.size, np.int8)

    def layer_job(block_rows=None):
        delivery, side = any_delivery(rng), layer.block_side
        rows = range(layer.rows) if block_rows is None else range(layer.rows)[side * block_rows.start :][:side]
        size = len(rows) * layer.width
        return module.LayerJob(
            layer,
            pages.copy(np.zeros(size, delivery.dtype)),
            rng.choice([0, 0, 7, 13]),
            delivery,
            points,
            base,
            history,
            pages.copy(np.zeros(size, np.int32)) if rng.random() < 0.5 else None,
            block_rows,
        )

    layers = [layer_job() for _ in range(rng.choice([0, 0, 1]))]
    some = layer.scan > 0 and len(points) == layer.block_rows - 1 and rng.random() < 0.5
    k = rng.randrange(layer.block_rows)
    layers.append(layer_job(range(k, k + 1) if some else None))
    return module.PayloadJob(np.frombuffer(payload, np.uint8), tuple(layers))


def main():
    side, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng, pages = random.Random(seed), GuardPages(side)
    sound = sound_layers(rng)
    records.address = pages.address
    module.np = segment_supply.np = lane_supply.np = pages.numpy("empty", "take", "zeros")
    lane_supply.aligned_zeros = lambda count, dtype: pages.copy(np.zeros(count, dtype))
    patch = pytest.MonkeyPatch()
    refused = 0
    for _ in range(count):
        take_way(patch, rng.choice(sorted(WAYS)))
        try:
            module.decode_payloads(
                [any_job(rng, pages, sound) for _ in range(rng.choice([1, 1, 2]))], rng.choice([1, 1, 2])
            )
        except BitstreamError:
            refused += 1
    print("refused", refused)


if __name__ == "__main__":
    main()
