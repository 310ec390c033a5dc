"""The oracle is right: it decodes what the reference software wrote, bit for bit, and what its own writer wrote."""

import json
import math
import pathlib
import random
import re

import numpy as np
import pytest

from oracle import DamagedError, Engine, LayerShape, Memory, decode, decode_layer
from oracle.write import EngineOut, encode_layer

VECTORS = pathlib.Path(__file__).parent.parent / "vectors"
LAYERS = sorted((VECTORS / "layers").glob("*.npz"))
MODELS = sorted((VECTORS / "models").glob("*.nnc"))
SCALING_APART = {"e2-block-bnf"}
"""Streams whose expected tensors have local scaling beside the weights and not in them."""


def test_there_are_161_layers_and_68_streams():
    assert (len(LAYERS), len(MODELS)) == (161, 68)


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.stem)
def test_a_layer_of_the_reference_decodes_exactly(path):
    with np.load(path) as arrays:
        meta = json.loads(str(arrays["meta"]))
        want = arrays["levels"].ravel().tolist()
        payload = arrays["payload"].tobytes()
        points = [(int(p) >> 3 & 255, int(p) & 7, int(p) >> 11) for p in arrays["entry_points"]]
        base = arrays["base"].ravel().tolist() if "base" in arrays else None
        history = arrays["history"].ravel().tolist() if "history" in arrays else None
    engine = Engine(payload)
    got = decode_layer(engine, layer_of(meta, base, history))
    engine.finish()
    assert got.levels == want
    assert got.points == points


def layer_of(meta, base, history):
    return LayerShape(
        tuple(meta["shape"]),
        dq=bool(meta["dq"]),
        unary_length=meta["unary_length"],
        scan=meta["scan_order"],
        profile=meta["profile"],
        parent=bool(meta["parent_node_id_present"]),
        temporal=bool(meta["temporal"]),
        codebook_size=meta["codebook_size"],
        codebook_zero=meta["codebook_zero_offset"],
        base=base,
        history=history,
    )


def chain(path):
    """The streams to decode before and with this one: an update builds on the ones before it."""
    found = re.fullmatch(r"(.*-incremental-.*-)(\d)", path.stem)
    if not found:
        return [path]
    return [path.with_name(f"{found[1]}{step}.nnc") for step in range(int(found[2]) + 1)]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_stream_of_the_reference_decodes_exactly(path):
    memory = Memory()
    for part in chain(path):
        got = decode(part.read_bytes(), memory, parts=part.stem in SCALING_APART)
    with np.load(path.with_suffix(".npz")) as want:
        assert list(got) == list(want)
        for name, array in want.items():
            assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
            assert got[name].tobytes() == array.tobytes(), name


def random_layer(rng):
    """A layer with every choice open, and values that fit it."""
    shape = rng.choice([(rng.randint(1, 40), rng.randint(1, 40)), (rng.randint(0, 9),), (), (3, rng.randint(1, 5), 2)])
    dq, profile = rng.random() < 0.5, rng.randint(0, 1)
    size = 0 if dq else rng.choice([0, 0, 0, 1, 2, 5, 40])
    zero = rng.randrange(size) if size else 0
    parent = profile == 1 and rng.random() < 0.5
    n = math.prod(shape)
    layer = LayerShape(
        shape,
        dq=dq,
        unary_length=rng.choice([1, 2, 3, 11, 40]),
        scan=rng.randint(0, 4),
        profile=profile,
        parent=parent,
        temporal=parent and rng.random() < 0.6,
        codebook_size=size,
        codebook_zero=zero,
        base=[rng.randint(-3, 3) for _ in range(n)],
        history=[rng.randint(0, 1) for _ in range(n)],
    )
    most = rng.choice([0, 1, 3, 50, 2**20, 2**29 - 1])
    low, high = (-zero, size - 1 - zero) if layer.codebook_size else (-most, most)
    values = [rng.randint(low, high) if rng.random() < 0.7 else 0 for _ in range(n)]
    if rng.random() < 0.5:
        for row in range(0, layer.rows if n else 0, 2):
            values[row * layer.width : (row + 1) * layer.width] = [0] * layer.width
    return layer, values


@pytest.mark.parametrize("seed", range(60))
def test_the_decoder_reads_what_the_writer_writes(seed):
    rng = random.Random(seed)
    layer, values = random_layer(rng)
    engine = EngineOut()
    engine.iae(-5, 8)
    levels = encode_layer(
        engine,
        layer,
        values,
        row_skip=rng.random() < 0.4,
        hdsp=rng.random() < 0.5,
        choose=lambda index: rng.choice([0, 0, 1 + index % 8]),
    )
    payload = engine.finish()
    reader = Engine(payload)
    assert reader.iae(8) == -5
    got = decode_layer(reader, layer)
    reader.finish()
    assert got.levels == levels
    assert got.points == engine.points()


@pytest.mark.parametrize("name", ["e1-unicode", "e2-lowrank-block-scan1", "e2-zeros"])
def test_every_proper_prefix_is_damaged_or_ends_between_units(name):
    data = (VECTORS / "models" / f"{name}.nnc").read_bytes()
    whole = decode(data)
    for length in range(len(data)):
        try:
            got = decode(data[:length])
        except DamagedError:
            continue
        assert set(got) < set(whole)
