"""Sound streams of any kind that the format allows, by the oracle's writer."""

from __future__ import annotations

import math
import pathlib
import random
from dataclasses import dataclass, field
from typing import Any

from oracle import LayerShape
from oracle.write import EngineOut, encode_layer, ndu, start

VECTORS = sorted((pathlib.Path(__file__).parent.parent / "vectors" / "models").glob("*.nnc"))
assert VECTORS, "tests/vectors/models is empty"

Shape = tuple[int, ...]


@dataclass
class Maker:
    """Makes units of one stream; all choices come from `rng`."""

    rng: random.Random
    profile: int = 1
    density: int = 2

    def values(self, layer: LayerShape) -> list[int]:
        if layer.codebook_size:
            low, high = -layer.codebook_zero, layer.codebook_size - 1 - layer.codebook_zero
        else:
            high = self.rng.choice([1, 5, 300, 2**20])
            low = -high
        return [self.rng.randint(low, high) if self.rng.random() < 0.6 else 0 for _ in range(layer.size)]

    def step(self, engine: EngineOut) -> None:
        engine.iae(self.rng.randint(-30, 30), 6 + self.density)

    def tensor(self, name: str, index: int) -> dict[str, Any]:
        """What makes an NDU of one tensor: INT, FLOAT with or without codebook, or RAW_FLOAT."""
        rng, kind, shape = self.rng, self.rng.choice([0, 1, 1, 1, 2]), random_shape(self.rng)
        unary = rng.choice([None, 1, 2, 11, 40])
        if kind == 2:
            payload = rng.randbytes(4 * math.prod(shape))
            return {
                "names": [name],
                "shape": shape,
                "payload": payload,
                "kind": 2,
                "profile": self.profile,
                "unary_length": unary,
            }
        dq = kind == 1 and rng.random() < 0.5
        book = random_codebook(rng) if kind == 1 and not dq and rng.random() < 0.3 else None
        size, zero = (len(book[0]), book[1]) if book else (0, 0)
        scan = rng.randint(0, 4) if len(shape) > 1 and shape[1] > 1 else 0
        layer = LayerShape(
            shape,
            dq=dq,
            unary_length=unary or 10,
            scan=scan,
            profile=self.profile,
            codebook_size=size,
            codebook_zero=zero,
        )
        # in profile 0 a codebook does not bound the code, but its indices must be inside all the same
        bounded = LayerShape(shape, codebook_size=size, codebook_zero=zero)
        engine = EngineOut()
        if kind == 1:
            self.step(engine)
        encode_layer(engine, layer, self.values(bounded), row_skip=rng.random() < 0.5)
        return {
            "names": [name],
            "shape": shape,
            "payload": engine.finish(),
            "kind": kind,
            "profile": self.profile,
            "dq": dq,
            "unary_length": unary,
            "scan": scan,
            "points": engine.points(),
            "codebook": book,
            "shift": rng.randrange(len(shape)) if len(shape) > 1 and rng.random() < 0.2 else 0,
            "node": (0, index, 0) if rng.random() < 0.3 else None,
        }

    def block(self, name: str) -> dict[str, Any]:
        """What makes an NDU of a BLOCK with any of local scaling, bias, batch norm and decomposition."""
        rng = self.rng
        rows, width, rank = rng.randint(2, 40), rng.randint(2, 20), rng.randint(2, 4)
        types, dq, scan = rng.randrange(16), rng.random() < 0.5, rng.randint(0, 2)
        weights = [(rows, rank), (rank, width)] if types & 1 else [(rows, width)]
        vectors = [f"{name}_scaling"] * bool(types & 2)
        vectors += [f"{name}.{part}" for part in ("beta", "gamma", "mean", "var")] * bool(types & 4)
        vectors += [f"{name}.bias"] * bool(types & 8)
        engine = EngineOut()
        for shape in [(rows,)] * len(vectors) + weights:
            layer = LayerShape(shape, dq=dq, unary_length=11, scan=scan, profile=self.profile)
            self.step(engine)
            encode_layer(engine, layer, self.values(layer), row_skip=rng.random() < 0.5)
        return {
            "names": [*([f"{name}_G", f"{name}_H"] if types & 1 else [name]), *vectors],
            "shape": (rows, width),
            "payload": engine.finish(),
            "kind": 3,
            "profile": self.profile,
            "dq": dq,
            "scan": scan,
            "points": engine.points(),
            "types": types,
            "rank": rank,
            "g_rows": rows,
        }


def random_shape(rng: random.Random) -> Shape:
    n, m = rng.randint(1, 30), rng.randint(2, 80)
    return rng.choice([(), (n,), (1, n), (n, 1), (m, rng.randint(2, 20)), (3, 4, 1, 2)])


def random_codebook(rng: random.Random) -> tuple[list[int], int, int]:
    values = sorted(rng.sample(range(-500, 500), rng.choice([1, 2, 3, 9, 40])))
    return values, rng.randrange(len(values)), rng.randint(0, 8)


def random_stream(rng: random.Random) -> bytes:
    """STR, MPS and a few small units of all kinds."""
    maker = Maker(rng, rng.choice([0, 1, 1, 1]), rng.randint(0, 7))
    text = maker.profile == 1
    out = start(
        maker.profile,
        maker.density,
        rng.randint(-40, 40),
        method=rng.choice([1, 2, 3]),
        topology=rng.random() < 0.7,
        base_model_id="bäse" if text and rng.random() < 0.2 else None,
        metric="top-1" if text and rng.random() < 0.2 else None,
    )
    for index in range(rng.randint(1, 5)):
        if rng.random() < 0.3:
            out += ndu(**maker.block(f"block{index}"))
        else:
            out += ndu(**maker.tensor(rng.choice(["w", "größe/", "a b."]) + str(index), index))
    return out


@dataclass(frozen=True)
class Parameter:
    """A parameter that updates change: a tensor, or a BLOCK of several."""

    shape: Shape
    types: int = 0
    """compressed_parameter_types of a BLOCK, 0 for a tensor."""
    rank: int = 0

    @property
    def coded_shapes(self) -> list[Shape]:
        """The shapes in coding order: local scaling, bias, batch norm, then the matrices."""
        rows = self.shape[0]
        n_vectors = bool(self.types & 2) + bool(self.types & 8) + 4 * bool(self.types & 4)
        matrices = [(rows, self.rank), (self.rank, math.prod(self.shape) // rows)] if self.types & 1 else [self.shape]
        return [(rows,)] * n_vectors + matrices

    def names(self, name: str) -> list[str]:
        """The names in the order of the header."""
        vectors = [f"{name}_scaling"] * bool(self.types & 2)
        vectors += [f"{name}.{part}" for part in ("beta", "gamma", "mean", "var")] * bool(self.types & 4)
        vectors += [f"{name}.bias"] * bool(self.types & 8)
        return [*([f"{name}_G", f"{name}_H"] if self.types & 1 else [name]), *vectors]


@dataclass
class UpdateMaker:
    """Makes a series of update streams of some parameters, each building on those before."""

    rng: random.Random
    parameters: tuple[Parameter, ...] = (
        Parameter((5, 7)),
        Parameter((33, 4, 2)),
        Parameter((3,)),
        Parameter((6, 5), types=8),
        Parameter((40, 3), types=1, rank=2),
        Parameter((9, 4, 2), types=15, rank=3),
    )
    levels: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    touched: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    depth: int = 0

    def stream(self) -> bytes:
        """The next update; parameters may be left out."""
        self.depth += 1
        out = start(parents=True)
        for index, parameter in enumerate(self.parameters):
            if self.depth == 1 or self.rng.random() < 0.8:
                out += self.unit(index, parameter)
        return out

    def unit(self, index: int, parameter: Parameter) -> bytes:
        rng, engine = self.rng, EngineOut()
        scan = rng.randint(0, 2) if len(parameter.shape) > 1 else 0
        dq, temporal = rng.random() < 0.5, rng.random() < 0.6
        for k, shape in enumerate(parameter.coded_shapes):
            self.layer(engine, (index, k), shape, dq=dq, temporal=temporal, scan=scan)
        return ndu(
            parameter.names(f"p{index}"),
            parameter.shape,
            engine.finish(),
            kind=3 if parameter.types else 1,
            dq=dq,
            scan=scan,
            points=engine.points(),
            node=(0, index, self.depth),
            parent_signalling=True,
            parent=(0,),
            temporal=temporal,
            types=parameter.types,
            rank=parameter.rank,
            g_rows=parameter.shape[0],
        )

    def layer(self, engine: EngineOut, key: tuple[int, int], shape: Shape, **how: int) -> None:
        """One tensor of a unit; its base levels and history are those of the same tensor of the update before."""
        rng, n = self.rng, math.prod(shape)
        base, history = self.levels.get(key, [0] * n), self.touched.get(key, [0] * n)
        layer = LayerShape(shape, unary_length=11, parent=True, base=base, history=history, **how)
        engine.iae(rng.randint(-30, 30), 8)
        values = [rng.randint(-9, 9) if rng.random() < 0.4 else 0 for _ in range(n)]
        levels = encode_layer(engine, layer, values, row_skip=rng.random() < 0.5, hdsp=rng.random() < 0.5)
        self.levels[key] = levels
        self.touched[key] = [int(a or b != 0) for a, b in zip(history, levels, strict=True)]
