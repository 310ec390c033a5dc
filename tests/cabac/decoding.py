"""What the tests of the decoder share: the reference's layers, and layers of our own encoder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nncjit import dtypes
from nncjit.cabac import delivery, lane_choice, lane_supply, segment_supply
from nncjit.cabac.entry_points import as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan
from nncjit.jit import JIT, processor

VECTORS = sorted((Path(__file__).parent.parent / "vectors" / "layers").glob("*.npz"))


NEVER = 1 << 40
WAYS = {
    "solo": (NEVER, (9.0, 0.0), NEVER),
    "pairs": (0, (9.0, 0.0), NEVER),
    "stepped": (0, (0.0, 1e9), NEVER),
    "lanes": (0, (9.0, 0.0), 1),
    "lanes and streams": (0, (9.0, 0.0), 3),
}
"""Ways through the kernels: PAIRED_SIZE, STEPPED_RATES and FEWEST_LANES of the decoder."""


def take_way(patch: Any, way: str) -> None:
    """Have the decoder take one way wherever it can, and threads for anything."""
    paired_size, stepped_rates, fewest_lanes = WAYS[way]
    for name, value in (("PAIRED_RATE", 1e9), ("PAIRED_SIZE", paired_size), ("STEPPED_RATES", stepped_rates)):
        patch.setattr(segment_supply, name, value)
    patch.setattr(segment_supply, "WORTH_A_THREAD", 1)
    patch.setattr(lane_choice, "available", lambda: not JIT or processor.has_wide_vectors())
    patch.setattr(lane_choice, "pay", lambda _weights: True)
    patch.setattr(lane_supply, "SMALLEST", 1)
    patch.setattr(lane_supply, "FEWEST_LANES", fewest_lanes)
    patch.setattr(lane_supply, "LANE_CYCLES", 0)


class Coded(NamedTuple):
    """A layer alone in a payload, and what it must decode to."""

    layer: Layer
    payload: np.ndarray
    points: np.ndarray
    levels: np.ndarray
    base: np.ndarray | None = None
    history: np.ndarray | None = None

    def job(self, out: np.ndarray, *, use_points: bool = True) -> PayloadJob:
        points = self.points if use_points else self.points[:0]
        return PayloadJob(
            self.payload,
            (LayerJob(self.layer, out, points=points, base=self.base, history=self.history),),
            path="weights",
        )


def vector(path: Path) -> Coded:
    """A layer of the reference software."""
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
        packed = arrays["entry_points"].astype(np.int64)
        points = np.stack([packed >> 3 & 255, packed & 7, packed >> 11], axis=1)
        base = arrays["base"].ravel() if "base" in arrays else None
        history = arrays["history"].ravel() if "history" in arrays else None
        return Coded(layer, arrays["payload"], points, arrays["levels"].ravel(), base, history)


def dependent(values: np.ndarray) -> np.ndarray:
    """Levels as dependent quantisation makes them, from coded values. Spec, section 6."""
    following = [[0, 2], [7, 5], [1, 3], [6, 4], [2, 0], [5, 7], [3, 1], [4, 6]]
    levels, state = np.zeros_like(values), 0
    for k, value in enumerate(values.tolist()):
        levels[k] = 2 * value - np.sign(value) * (state & 1)
        state = following[state][value & 1]
    return levels


def coded(shape: tuple[int, ...], *, seed: int = 0, spread: float = 2.0, dq: bool = False, **options: int) -> Coded:
    """A plain layer of random levels, with our own encoder."""
    layer = Layer.of(shape, dq=dq, **options)
    values = np.rint(np.random.default_rng(seed).normal(0, spread, layer.size)).astype(np.int32)
    levels = dependent(values) if dq else values
    encoder = PayloadEncoder()
    encoder.layer(levels, layer)
    payload = np.frombuffer(encoder.finish(), np.uint8)
    return Coded(layer, payload, as_array(encoder.entry_points[0]), from_scan(levels, layer))


FLOATS = ("float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


def floats(name: str, step: np.float32) -> delivery.Delivery:
    """Products with this step, whatever the qp_delta."""
    codes = dtypes.float8_codes(name) if name.startswith("float8") else None
    return delivery.floats(name, lambda _: step, codes)


def any_delivery(rng: random.Random) -> delivery.Delivery:
    """Levels as they are, floats with any step, integers with the narrowest range or the type's, or a codebook."""
    kind = rng.randrange(4)
    if kind == 0:
        return delivery.LEVELS
    if kind == 1:
        return floats(rng.choice(FLOATS), np.float32(rng.choice([0.0, 1e-40, 0.1, 1e30, np.inf])))
    dtype = np.dtype(rng.choice([np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]))
    if kind == 2:
        info = np.iinfo(dtype)
        return delivery.integers(dtype, *rng.choice([(0, 0), (info.min, info.max)]))
    values = np.arange(rng.choice([1, 2, 9, 100])).astype(dtype)
    return delivery.looked_up(lambda _: values, dtype, values.size, rng.randrange(values.size))


def decode(*layers: Coded, threads: int = 1, use_points: bool = True) -> list[np.ndarray]:
    """Decode each layer; places that were never written hold 123456789."""
    outs = [np.full(one.layer.size, 123456789, np.int32) for one in layers]
    decode_payloads([one.job(out, use_points=use_points) for one, out in zip(layers, outs, strict=True)], threads)
    return outs
