"""A program: encode random layers with every array of the kernels beside a page that nobody may touch.

``python guarded_encoder.py before|behind SEED COUNT``: the forbidden page is before or behind each array, and inputs
are in pages that can only be read. An access outside an array, a store to an input, or an access to an array whose
owner is gone ends the process with a signal; anything but a payload or an OptionError ends it with a traceback.
"""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cabac.encoding import Given, any_layer
from cabac.guard_pages import GuardPages

from nncjit.cabac import (
    arithmetic_encoder,
    block_row_pieces,
    context_initialisation,
    encoder_input,
    lane_encoder,
    layer_sample,
    payload_encoder,
    row_skipping,
    short_layers,
    size_estimate,
)
from nncjit.errors import OptionError
from nncjit.jit import records

ALLOCATE = (
    arithmetic_encoder,
    context_initialisation,
    encoder_input,
    lane_encoder,
    payload_encoder,
    row_skipping,
    short_layers,
    size_estimate,
)
"""Modules that make arrays for kernels to write to."""
GIVE_ADDRESSES = (
    records,
    arithmetic_encoder,
    block_row_pieces,
    lane_encoder,
    row_skipping,
    short_layers,
    size_estimate,
)


def guard(pages: GuardPages) -> None:
    for module in ALLOCATE:
        module.np = pages.numpy("copy", "empty", "zeros")
    for module in GIVE_ADDRESSES:
        module.address = pages.address


def choose_sizes(rng: random.Random) -> None:
    """Make small layers go the ways of large ones."""
    arithmetic_encoder.FIRST_CAPACITY = rng.choice([0, 1, 3000, 4096])
    block_row_pieces.PIECE_SIZE = rng.choice([1, 64, 1 << 17])
    context_initialisation.SAMPLED_BINS = rng.choice([1, 1, 3 << 16])
    context_initialisation.LIMIT = rng.choice([0, 1, 130, 512])
    encoder_input.MAX_CHUNK = rng.choice([1, 7, 64, 2048])
    lane_encoder.FEWEST_ROWS = rng.choice([1, 5])
    room = rng.choice([0, 1, 2])
    lane_encoder._room_of_a_level = lambda _: room
    layer_sample.CHUNK = rng.choice([1, 9, 100, 2048])
    short_layers.MOST_LEVELS = rng.choice([0, 60, 1 << 13])
    short_layers.MOST_KEPT = rng.choice([1, 16])
    size_estimate.CODED_BELOW = rng.choice([0, 0, 1 << 15])
    size_estimate.SAMPLED_FROM = rng.choice([1, 100])
    size_estimate.CELL_SIZE = rng.choice([1, 7, 1024])


def any_given(rng: random.Random, row_skip: object) -> Given:
    """A layer of any kind, with levels that it can have or any others."""
    given = any_layer(rng, skipped=row_skip is True)
    layer = given.layer._replace(unary_length=rng.choice([given.layer.unary_length, rng.randint(1, 256)]))
    levels, base, history = given.levels, given.base, given.history
    if rng.random() < 0.3:
        wild = np.random.default_rng(rng.getrandbits(32))
        most = rng.choice([1, 3, 400, 2**30, 2**31 - 1])
        levels = wild.integers(-most - 1, most, layer.size, np.int32, endpoint=True)
        base = wild.integers(-(2**31), 2**31, layer.size, np.int32)
        history = wild.integers(-128, 128, layer.size, np.int8)
    return Given(layer, levels, base, history, given.hdsp)


def encode(rng: random.Random, workers: ThreadPoolExecutor) -> None:
    """Some layers in one payload, or the estimate of one's size."""
    choose_sizes(rng)
    encoder = payload_encoder.PayloadEncoder()
    for _ in range(rng.choice([1, 1, 3])):
        row_skip = rng.choice([True, False, "auto"])
        given = any_given(rng, row_skip)
        options = {
            "base": given.base,
            "history": given.history,
            "hdsp": given.hdsp,
            "selection": rng.choice(["none", "fast", "exact", "reference"]),
            "row_skip": row_skip,
            "workers": rng.choice([None, workers]),
        }
        if rng.random() < 0.2:
            size_estimate.estimate_bits(given.levels, given.layer, **options)
        encoder.number(rng.randint(-64, 63), rng.randint(7, 33))
        encoder.layer(given.levels, given.layer, **options)
    encoder.finish()


def encode_together(rng: random.Random) -> None:
    """Some payloads of short layers at once."""
    choose_sizes(rng)
    short_layers.SPARE_BYTES = rng.choice([0, 5000, 1 << 17])
    selection = rng.choice(["none", "fast", "exact"])
    given = [any_given(rng, row_skip=False) for _ in range(rng.randint(1, 9))]
    units = [
        short_layers.ShortUnit(g.levels, g.layer, rng.randint(-64, 63), g.base, g.history if g.hdsp else None)
        for g in given
        if short_layers.fits_together(g.layer, selection)
    ]
    short_layers.code_short_units(units, rng.choice([0, 7, 13]), selection)


def main() -> None:
    side, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    guard(GuardPages(side))
    refused = 0
    with ThreadPoolExecutor(2) as workers:
        for _ in range(count):
            try:
                encode(rng, workers)
                if rng.random() < 0.1:
                    encode_together(rng)
            except OptionError:
                refused += 1
    print("refused", refused, "of", count)


if __name__ == "__main__":
    main()
