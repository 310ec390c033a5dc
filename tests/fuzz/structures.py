"""Valid streams of every structure, and ways to break one rule of one of them.

A stream is kept as what its units are made of, so that any number can be changed before it is written: counts and
presence flags then follow, and nothing but the rule is broken. The writer is the oracle's, which checks nothing.
"""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from damage.damaging import damaged
from damage.streams import Maker, random_codebook, random_shape
from oracle import LayerShape
from oracle.write import BitsOut, EngineOut, encode_layer, ndu, start, unit

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder

MPS, LPS, TPL, QNT, NDU, AGG = range(1, 7)
PRUN, REFLIST, METADATA = 5, 6, 0xC0
NUMBERS = [0, 1, 2, 3, 7, 8, 63, 255, 256, 2**12, 2**15, 2**16 + 1, 2**20, 2**24, 2**28, 2**31 - 1, 2**31]
BEYOND = [2**32, 2**33 + 1, 2**40 - 1, 2**40, 2**40 + 1, 2**48]
DEFLATED = 0.5


@dataclass
class Structure:
    """A stream before it is written."""

    rng: random.Random
    head: dict[str, Any]
    extra: list[bytes] = field(default_factory=list)
    """Whole units between the head and the data units."""
    told: dict[str, Any] = field(default_factory=dict)
    """What the metadata unit says; there is none where this is nothing."""
    tensors: list[dict[str, Any]] = field(default_factory=list)
    """Arguments of `oracle.write.ndu`."""
    wraps: list[Callable[[list[bytes]], list[bytes]]] = field(default_factory=list)
    """What becomes of the data units once they are bytes."""

    def write(self) -> bytes:
        """The bytes; ValueError where a number does not fit its field."""
        units = [ndu(**fields) for fields in self.tensors]
        for wrap in self.wraps:
            units = wrap(units)
        told = [metadata(self.told)] if self.told else []
        return b"".join([start(**self.head), *told, *self.extra, *units])

    def any(self) -> dict[str, Any]:
        return self.rng.choice(self.tensors)

    def number(self) -> int:
        rng = self.rng
        return rng.choice([*NUMBERS, *NUMBERS, *BEYOND, rng.randrange(100), rng.randrange(2**20)])


def valid(rng: random.Random) -> Structure:
    """A structure in which nothing is wrong."""
    maker = Maker(rng, rng.choice([0, 1, 1, 1]), rng.randint(0, 7))
    made = Structure(rng, {"profile": maker.profile, "density": maker.density, "qp": rng.randint(-40, 40)})
    for index in range(rng.randint(1, 3)):
        kind = rng.choice([maker.block, _tensor, _tensor, _skipped, _constant, _limbs, _joined])
        name = f"{kind.__name__.strip('_')}{index}"
        made.tensors.append(kind(name) if kind == maker.block else kind(name, maker))
    for add in rng.sample([_indexed, _parted, _aggregated, _pruned, _described, _foreign], 2):
        if rng.random() < 0.3:
            add(made)
    return made


def _tensor(name: str, maker: Maker) -> dict[str, Any]:
    return maker.tensor(name, 0)


def _skipped(name: str, maker: Maker) -> dict[str, Any]:
    """A matrix whose rows are all skipped: its payload is the same for any width."""
    rows, engine = maker.rng.randint(2, 20), EngineOut()
    maker.step(engine)
    layer = LayerShape((rows, 4), unary_length=11, profile=maker.profile)
    encode_layer(engine, layer, [0] * layer.size, row_skip=True)
    return {"names": [name], "shape": (rows, 4), "payload": engine.finish(), "profile": maker.profile}


def _constant(name: str, maker: Maker) -> dict[str, Any]:
    """A codebook of one value: the payload is the same for any shape of two dimensions or one."""
    shape, engine = random_shape(maker.rng), EngineOut()
    maker.step(engine)
    layer = LayerShape(shape, unary_length=11, profile=maker.profile, codebook_size=1)
    encode_layer(engine, layer, [0] * layer.size)
    book = ([maker.rng.randint(-9, 9)], 0, 0)
    return {
        "names": [name],
        "shape": shape,
        "payload": engine.finish(),
        "profile": maker.profile,
        "codebook": book,
    }


def _limbs(name: str, maker: Maker) -> dict[str, Any]:
    """An integer tensor in limbs."""
    rng, engine = maker.rng, EngineOut()
    code = rng.randint(72, 79)
    n_limbs = (2 if code % 4 < 2 else 4) * (1 if code < 76 else 4)
    shape = (n_limbs, *rng.choice([(), (5,), (3, 4)]))
    layer = LayerShape(shape, unary_length=11, profile=maker.profile)
    encode_layer(engine, layer, [rng.randrange(16) for _ in range(layer.size)])
    return {
        "names": [name],
        "shape": shape,
        "payload": engine.finish(),
        "kind": 0,
        "profile": maker.profile,
        "fmt": code,
    }


def _joined(name: str, maker: Maker) -> dict[str, Any]:
    """Tensors joined along an axis, dimensions of the pieces moved."""
    rng, shape = maker.rng, (maker.rng.randint(2, 6), maker.rng.randint(2, 6), 3)
    axis, n = rng.randrange(3), rng.randint(2, 3)
    cuts = sorted(rng.randint(0, shape[axis]) for _ in range(n - 1))
    shifts = [[(index, rng.randint(0, index))] if (index := rng.randrange(3)) else [] for _ in range(n)]
    return {
        "names": [f"{name}.{i}" for i in range(n)],
        "shape": shape,
        "payload": rng.randbytes(4 * math.prod(shape)),
        "kind": 2,
        "profile": maker.profile,
        "joined": (axis, cuts, shifts),
    }


def topology(rng: random.Random, storage: int, body: bytes, kind: int = TPL, deflated: float = DEFLATED) -> bytes:
    """A topology or quantisation unit."""
    compression = int(rng.random() < deflated)
    body = zlib.compress(body, 9) if compression else body
    return unit(kind, bytes([storage, compression]) + body, long_form=len(body) > 30_000)


def metadata(content: Any) -> bytes:
    """A metadata unit."""
    body = json.dumps({"nncjit": content}, separators=(",", ":")).encode() + b"\0"
    return unit(TPL, bytes([METADATA, 0]) + body, long_form=len(body) > 30_000)


def _names(made: Structure) -> list[str]:
    return [name for fields in made.tensors for name in fields["names"]]


def _indexed(made: Structure, names: list[str] | None = None, announced: int | None = None) -> None:
    """Elements called by their index into a list."""
    listed = names or [*_names(made), "unused"]
    made.head["indexed"] = True
    bits = BitsOut().ue(7, (len(listed) if announced is None else announced) - 2).align()
    for name in listed:
        bits.st(name)
    made.extra.append(topology(made.rng, REFLIST, bits.bytes()))
    index = 0
    for fields in made.tensors:
        fields["indices"] = list(range(index, index + len(fields["names"])))
        index += len(fields["names"])


def _parted(made: Structure, counters: tuple[int, ...] = (2, 1)) -> None:
    """Each data unit in parts, whose counters go down to 1."""

    def wrap(units: list[bytes]) -> list[bytes]:
        return [part for fields in made.tensors for part in _parts(fields, counters)]

    made.wraps.append(wrap)


def _parts(fields: dict[str, Any], counters: tuple[int, ...]) -> list[bytes]:
    """The payload in as many pieces as there are counters, each behind the whole header."""
    payload, n = fields["payload"], len(counters)
    cuts = [len(payload) * i // n for i in range(n + 1)]
    pieces = [payload[a:b] for a, b in pairwise(cuts)]
    return [_part(ndu(**{**fields, "payload": piece}), count) for piece, count in zip(pieces, counters, strict=True)]


def _part(whole: bytes, counter: int) -> bytes:
    body = whole[3:] if whole[0] < 128 else whole[5:]
    size = len(body) + 6
    return BitsOut().u(1, 1).u(31, size).u(6, NDU).u(1, 1).u(1, 1).u(8, counter).bytes() + body


def _aggregated(made: Structure, count: int = 0, moved: int = 0, kind: int = 0) -> None:
    def wrap(units: list[bytes]) -> list[bytes]:
        inner = units if len(units) > 1 else [*units, unit(QNT, b"\0\0\0")]
        bits = BitsOut().u(8, kind).u(1, 1).u(7, 0).u(16, max(len(inner) - 2 + count, 0))
        offset = 5 + (32 + 40 * (len(inner) + count)) // 8
        for whole in inner:
            bits.u(6, whole[2 if whole[0] < 128 else 4] >> 2).u(34, max(offset + moved, 0))
            offset += len(whole)
        return [unit(AGG, bits.bytes() + b"".join(inner), long_form=True)]

    made.wraps.append(wrap)


def _pruned(made: Structure, count: int | None = None, shapes: Any = None) -> None:
    """A mask over the tensors that are alone in their unit; unless told otherwise, it removes nothing."""
    alone = [fields for fields in made.tensors if len(fields["names"]) == 1 and "fmt" not in fields]
    sizes = [[fields["names"][0], list(fields["shape"])] for fields in alone]
    removed = b"\0" if shapes is None else made.rng.choice([b"\0", b"\xff"])
    shapes = sizes if shapes is None else shapes
    count = sum(math.prod(shape) for _, shape in sizes) if count is None else count
    bits = removed * min(count // 8, 2**22)
    last = BitsOut().u(count % 8, 0).align().bytes()
    container = b"\x20" + (count & 0xFFFFFFFF).to_bytes(4, "big") + bits + last
    made.told["full_shapes"] = shapes
    made.extra.append(topology(made.rng, PRUN, container, deflated=0.9))


def _described(made: Structure) -> None:
    names = _names(made)
    norm = {"gamma": "g", "beta": "b", "mean": "m", "var": "v", "bias": None, "eps": 1e-5}
    made.told |= {
        "metadata": {"format": "pt"},
        "tied": {"twin": names[0]},
        "order": [*names, "twin"],
        "shards": dict.fromkeys(names, "a.safetensors"),
        "folded": {names[0]: norm},
    }


def _foreign(made: Structure) -> None:
    made.extra.append(topology(made.rng, made.rng.choice([0, 1, 2, 3, 4, 200]), made.rng.randbytes(9)))


RULES: list[Callable[[Structure], None]] = []


def rule(function: Callable[[Structure], None]) -> Callable[[Structure], None]:
    """A function that breaks one rule of a structure."""
    RULES.append(function)
    return function


@rule
def nothing(made: Structure) -> None:
    """Sound streams must be read in bounded time and memory, too."""


@rule
def dimensions(made: Structure) -> None:
    fields = made.any()
    shape = list(fields["shape"])
    what = made.rng.randrange(4)
    if what == 0 or not shape:
        shape.insert(made.rng.randint(0, len(shape)), made.number())
    elif what == 1:
        shape += [1] * made.rng.choice([30, 31, 32, 33, 300])
    else:
        shape[made.rng.randrange(len(shape))] = made.number()
    fields["shape"] = tuple(shape)


@rule
def width_of_skipped_rows(made: Structure) -> None:
    fields = _skipped("skipped", Maker(made.rng, made.head["profile"], made.head["density"]))
    fields["shape"] = (fields["shape"][0], made.number())
    made.tensors = [fields]


@rule
def shape_of_a_constant(made: Structure) -> None:
    fields = _constant("constant", Maker(made.rng, made.head["profile"], made.head["density"]))
    fields["shape"] = made.rng.choice([(made.number(),), (made.number(), made.number())])
    fields["fmt"] = made.rng.choice([None, None, 0, 5, 9])
    made.tensors = [fields]


@rule
def codebook(made: Structure) -> None:
    values, zero, order = random_codebook(made.rng)
    what = made.rng.randrange(4)
    if what == 0:
        values = [made.rng.choice([-1, 1]) * min(made.number(), 2**39)]
        zero = 0
    elif what == 1:
        values = [*values, values[-1] + 1 + min(made.number(), 2**39)]
    elif what == 2:
        values = list(range(made.rng.choice([2, 1000, 65536, 65537])))
        zero = 0
    made.any()["codebook"] = (values, zero, order)


@rule
def rank(made: Structure) -> None:
    blocks = [fields for fields in made.tensors if fields.get("types", 0) & 1]
    if not blocks:
        return large_product_of_small_factors(made)
    fields = made.rng.choice(blocks)
    fields[made.rng.choice(["rank", "g_rows"])] = made.number()
    return None


@rule
def large_product_of_small_factors(made: Structure) -> None:
    rows, columns = (made.rng.choice([2**10, 2**14, 2**15, 2**17, 2**20]) for _ in range(2))
    made.head |= {"profile": 1, "density": 2}
    made.tensors = [
        {
            "names": made.rng.choice([["w_G", "w_H"], ["a", "b"]]),
            "shape": (rows, columns),
            "payload": _zero_factors(rows, columns),
            "kind": 3,
            "types": 1,
            "rank": 1,
            "g_rows": rows,
            "fmt": made.rng.choice([None, 5, 9, 64]),
        }
    ]


@lru_cache
def _zero_factors(rows: int, columns: int) -> bytes:
    """The payload of zeros [rows, 1] and [1, columns], by the package's encoder: the oracle's takes too long."""
    encoder = PayloadEncoder()
    for shape in ((rows, 1), (1, columns)):
        encoder.number(0, 8)
        layer = Layer.of(shape, dq=False, unary_length=11, scan=0, profile=1)
        encoder.layer(np.zeros(rows if shape[0] == rows else columns, np.int32), layer)
    return encoder.finish()


@rule
def entry_points(made: Structure) -> None:
    fields = made.any()
    points = [list(point) for point in fields.get("points", ())]
    if not points:
        fields["scan"] = made.rng.randint(0, 5)
        return
    at = made.rng.randrange(len(points))
    what = made.rng.randrange(4)
    if what == 0:
        points[at][0] = made.rng.randrange(256)
    elif what == 1:
        points[at][1] = made.rng.randrange(8)
    elif what == 2:
        points[at][2] = made.number()
    else:
        del points[at]
    fields["points"] = [tuple(point) for point in points]


@rule
def fields_of_a_header(made: Structure) -> None:
    rng, fields = made.rng, made.any()
    name = rng.choice(["scan", "shift", "unary_length", "kind", "dq", "fmt", "types", "profile", "node", "no_input"])
    fields[name] = {
        "scan": rng.randrange(16),
        "shift": made.number(),
        "unary_length": rng.randint(1, 256),
        "kind": rng.choice([0, 1, 2, 3, 4, 31]),
        "dq": not fields.get("dq"),
        "fmt": rng.choice([*range(12), 63, *range(64, 82), 127]),
        "types": rng.randrange(16),
        "profile": rng.randrange(2),
        "node": (made.number(), made.number(), made.number()),
        "no_input": True,
    }[name]


@rule
def names(made: Structure) -> None:
    fields = made.any()
    listed = list(fields["names"])
    what = made.rng.randrange(5)
    if what == 0:
        listed.append(listed[0])
    elif what == 1:
        listed = listed[:1] * 1000
    elif what == 2:
        listed[0] = ""
    elif what == 3:
        listed[0] = "x" * made.rng.choice([1000, 65535, 65536])
    else:
        made.tensors.append(dict(fields))
    fields["names"] = listed


@rule
def payload(made: Structure) -> None:
    fields = made.any()
    data, rng = fields["payload"], made.rng
    fields["payload"] = rng.choice(
        [
            data[: rng.randint(0, len(data))],
            data + rng.randbytes(rng.randint(1, 9)),
            bytes(len(data)),
            b"\xff" * len(data),
            rng.randbytes(len(data)),
            b"",
            bytes(rng.choice([100, 1000, 5000])),
        ]
    )


@rule
def limbs(made: Structure) -> None:
    fields = _limbs("limbs", Maker(made.rng, made.head["profile"], made.head["density"]))
    what = made.rng.randrange(4)
    if what == 0:
        fields["fmt"] = made.rng.randint(64, 82)
    elif what == 1:
        fields["kind"] = made.rng.choice([1, 2])
    elif what == 2:
        fields["shape"] = (made.number(), *fields["shape"][1:])
    else:
        fields["shift"] = made.rng.randrange(3)
    made.tensors = [fields]


@rule
def joints(made: Structure) -> None:
    fields = _joined("joined", Maker(made.rng, made.head["profile"], made.head["density"]))
    axis, cuts, shifts = fields["joined"]
    what = made.rng.randrange(4)
    if what == 0:
        axis = made.rng.randrange(256)
    elif what == 1:
        cuts[0] = made.number()
    elif what == 2:
        shifts[0] = [(made.number(), made.number())]
    else:
        shifts[0] = [(1, 1)] * made.rng.choice([2, 1000])
    fields["joined"] = (axis, cuts, shifts)
    made.tensors = [fields]


@rule
def masks(made: Structure) -> None:
    made.extra.clear()
    what = made.rng.randrange(3)
    if what == 0:
        _pruned(made, count=made.number())
    elif what == 1:
        n = made.number()
        _pruned(made, count=n, shapes=[[_names(made)[0], [n]]])
    else:
        _pruned(made, shapes=[[_names(made)[0], [made.number()] * made.rng.choice([1, 2, 40])]])


@rule
def reference_lists(made: Structure) -> None:
    made.extra.clear()
    listed = _names(made)
    what = made.rng.randrange(4)
    if what == 0:
        _indexed(made, [*listed, listed[0]])
    elif what == 1:
        _indexed(made, announced=max(made.number(), 2))
    elif what == 2:
        _indexed(made, ["a"] * made.rng.choice([2, 1000, 100_000]))
    else:
        _indexed(made)
        fields = made.any()
        fields["indices"] = [made.number() for _ in fields["names"]]


@rule
def partial_data(made: Structure) -> None:
    _parted(made, made.rng.choice([(0,), (2,), (1, 1), (3, 1), (255,), (2, 2, 1), (3, 2), (255, 254), (1,)]))


@rule
def aggregates(made: Structure) -> None:
    what = made.rng.randrange(5)
    if what == 0:
        _aggregated(made, count=made.rng.choice([-1, 1, 100]))
    elif what == 1:
        _aggregated(made, moved=made.rng.choice([-1, 1, 2**33]))
    elif what == 2:
        _aggregated(made, kind=made.rng.choice([1, 2, 255]))
    elif what == 3:
        for _ in range(made.rng.choice([2, 50])):
            _aggregated(made)
    else:
        _aggregated(made)
        made.wraps.append(lambda units: [units[0][: made.rng.randrange(len(units[0]))]])


@rule
def deflate(made: Structure) -> None:
    plain = made.rng.choice([b"[]," * 2**20, bytes(2**22), b"a\0" * 2**20, b"\x20" + b"\xff" * 2**22])
    data = zlib.compress(plain, 9)
    data = made.rng.choice([data, data[2:-4], data[:-1], data + b"x", data[: len(data) // 2]])
    storage = made.rng.choice([0, 1, 2, 3, 4, PRUN, REFLIST, METADATA, 255])
    kind = made.rng.choice([TPL, TPL, QNT])
    made.extra.append(unit(kind, bytes([storage, 1]) + data, long_form=True))


@rule
def metadata_json(made: Structure) -> None:
    rng = made.rng
    name = _names(made)[0]
    values = [None, True, -1, 1e308, 10**4000, "", [], {}, [[[]]], {"a": {"b": []}}, [name] * 1000, {name: name}, name]
    keys = ["closed", "metadata", "tied", "order", "shards", "folded", "full_shapes", "crc32", "other"]
    if rng.random() < 0.7:
        made.told |= {key: rng.choice(values) for key in rng.sample(keys, 3)}
        return
    text = rng.choice([b"[" * 50_000, b'{"a":' * 50_000, b'"' + b"\\u0000" * 9999, b"9" * 9999, b"[]," * 50_000])
    body = b'{"nncjit":{"order":' + text + rng.choice([b"", b"}}\0"])
    made.extra.append(unit(TPL, bytes([METADATA, 0]) + body, long_form=True))


@rule
def parameter_sets(made: Structure) -> None:
    """Flags of maps, with anything after them."""
    rng = made.rng
    what = rng.randrange(3)
    if what == 0:
        made.head |= {"density": rng.randrange(8), "qp": rng.choice([-4096, 4095, 0]), "method": rng.randrange(8)}
    elif what == 1:
        kind, head = rng.choice([(LPS, b"\x00"), (LPS, b"\x80")])
        tail = rng.choice([bytes(rng.randrange(400)), rng.randbytes(rng.randrange(400))])
        made.extra.append(unit(kind, head + rng.randbytes(1) + tail))
    else:
        made.head |= {"base_model_id": "x" * rng.choice([1, 65535, 65536]), "metric": ""}


@rule
def bytes_and_sizes(made: Structure) -> None:
    """Damage that knows nothing of rules, once the stream is written."""
    other = start() + ndu(["other"], (3,), bytes(12), kind=2)

    def wrap(units: list[bytes]) -> list[bytes]:
        return [damaged(made.rng, start() + b"".join(units), other)[len(start()) :]]

    made.wraps.append(wrap)


def broken(rng: random.Random) -> tuple[str, bytes]:
    """The name of a rule and a stream that breaks it."""
    while True:
        made, breaks = valid(rng), rng.choice(RULES)
        breaks(made)
        try:
            return breaks.__name__, made.write()
        except (ValueError, AssertionError, IndexError, OverflowError):
            continue  # what the writer cannot put into its field breaks no rule
