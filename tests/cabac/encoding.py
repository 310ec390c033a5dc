"""What the tests of the encoder share: the reference's layers as it was given them, and layers of any kind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nncjit.cabac.entry_points import EntryPoint, as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan, to_scan

VECTORS = sorted((Path(__file__).parent.parent / "vectors" / "layers").glob("*.npz"))
assert VECTORS, "tests/vectors/layers is empty"

NEXT_STATE = ((0, 2), (7, 5), (1, 3), (6, 4), (2, 0), (5, 7), (3, 1), (4, 6))


class Given(NamedTuple):
    """A layer to code, all arrays in coding order."""

    layer: Layer
    levels: np.ndarray
    base: np.ndarray | None = None
    history: np.ndarray | None = None
    hdsp: bool = False

    def code(self, **options: object) -> tuple[bytes, list[EntryPoint]]:
        """The payload of this layer alone, and its entry points."""
        encoder = PayloadEncoder()
        encoder.layer(self.levels, self.layer, base=self.base, history=self.history, hdsp=self.hdsp, **options)
        payload = encoder.finish()
        return payload, encoder.entry_points[0]

    def decode(self, payload: bytes, points: list[EntryPoint], *, use_points: bool) -> np.ndarray:
        """The levels in the payload, in coding order."""
        layer = self.layer
        out = np.zeros(layer.size, np.int32)
        base, history = (None if a is None else from_scan(a, layer) for a in (self.base, self.history))
        kept = as_array(points) if use_points else np.empty((0, 3), np.int64)
        job = LayerJob(layer, out, points=kept, base=base, history=history)
        decode_payloads([PayloadJob(np.frombuffer(payload, np.uint8), (job,))], 1)
        return to_scan(out, layer)


def vector(path: Path) -> tuple[Given, dict, bytes, list[EntryPoint]]:
    """What the reference was given, how, and what it made of it."""
    with np.load(path) as arrays:
        meta = json.loads(str(arrays["meta"]))
        layer = Layer.of(
            tuple(meta["shape"]),
            dq=bool(meta["dq"]),
            unary_length=meta["unary_length"],
            scan=meta["scan_order"],
            profile=meta["profile"],
            parent=bool(meta["parent_node_id_present"]),
            temporal=bool(meta["temporal"]),
            codebook_size=meta["codebook_size"],
            codebook_zero=meta["codebook_zero_offset"],
        )
        points = [EntryPoint(int(p) >> 3 & 255, int(p) & 7, int(p) >> 11) for p in arrays["entry_points"]]
        base, history = (to_scan(arrays[k], layer) if k in arrays else None for k in ("base", "history"))
        given = Given(layer, to_scan(arrays["levels"], layer), base, history, bool(meta["hdsp"]))
        return given, meta, arrays["payload"].tobytes(), points


def dependent(values: np.ndarray, layer: Layer, skipped: bool) -> np.ndarray:
    """Levels as dependent quantisation makes them from coded values, in coding order. Spec, section 6.

    `skipped`: rows of zeros will be left out; they then move the state by a whole row of zero-steps, spec, section 5.
    """
    if not layer.dq:
        return values
    empty = np.zeros(layer.size, bool)
    if skipped:
        rows = ~from_scan(values, layer).reshape(layer.rows, layer.width).any(axis=1)
        empty = to_scan(np.repeat(rows, layer.width).view(np.uint8), layer).view(bool)
    levels, state = np.zeros_like(values), 0
    for k, value in enumerate(values.tolist()):
        if not empty[k]:
            levels[k] = 2 * value - (value > 0) * (state & 1) + (value < 0) * (state & 1)
        state = NEXT_STATE[state][value & 1]
    return levels


def any_layer(rng: random.Random, *, skipped: bool) -> Given:
    """A layer with every choice open, small."""
    shape = rng.choice([(rng.randint(1, 40), rng.randint(1, 24)), (rng.randint(1, 60),), (), (9, 5, 2), (70, 3)])
    dq, profile = rng.random() < 0.5, int(rng.random() < 0.8)
    parent = profile == 1 and rng.random() < 0.5
    size = rng.choice([0, 0, 0, 1, 2, 3, 5, 40])
    zero = rng.choice([0, size - 1, rng.randrange(size)]) if size else 0
    scan = rng.randint(0, 4)
    if skipped and dq and int(np.prod(shape[1:])) % 4:
        scan = 0
    layer = Layer.of(
        shape,
        dq=dq,
        unary_length=rng.choice([1, 2, 10, 11, 17, 21, 22, 23, 24, 40, 256]),
        scan=scan,
        profile=profile,
        parent=parent,
        temporal=parent and rng.random() < 0.7,
        codebook_size=size,
        codebook_zero=zero,
    )
    most = rng.choice([0, 1, 2, 9, 50, 700, 2**16, 2**29 - 1])
    low, high = (-zero, size - 1 - zero) if layer.codebook_size else (-most, most)
    density = rng.choice([0.0, 0.02, 0.3, 0.9])
    values = np.array([rng.randint(low, high) if rng.random() < density else 0 for _ in range(layer.size)], np.int32)
    if skipped and layer.rows > 1:
        matrix = from_scan(values, layer).reshape(layer.rows, layer.width).copy()
        matrix[:: rng.choice([1, 2, 5])] = 0
        values = to_scan(matrix, layer)
    base = np.array([rng.choice([0, 0, 1, -1, 2, -3, 40, 10**9]) for _ in range(layer.size)], np.int32)
    history = np.array([rng.randint(0, 1) for _ in range(layer.size)], np.int8)
    levels = dependent(values, layer, skipped and layer.has_row_flags)
    return Given(layer, levels, base, history, layer.parent == 1 and rng.random() < 0.6)


def plain_levels(layer: Layer, spread: float, seed: int = 0, empty_rows: float = 0.0) -> np.ndarray:
    """int32[layer.size] in coding order, as a quantiser leaves a trained matrix."""
    random = np.random.default_rng(seed)
    matrix = random.standard_t(6, (layer.rows, layer.width)) * spread
    matrix[random.random(layer.rows) < empty_rows] = 0
    values = to_scan(np.rint(matrix).astype(np.int32), layer)
    return dependent(values, layer, skipped=False)
