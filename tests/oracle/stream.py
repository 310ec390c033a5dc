"""A whole stream to arrays: units, layers, values. Spec, sections 2 and 8 to 10."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oracle.bits import DamagedError
from oracle.engine import Engine
from oracle.layer import LayerShape, decode_layer
from oracle.units import (
    BI,
    BLOCK,
    BN,
    INT,
    LPS,
    LS,
    MPS,
    NDU,
    RAW_FLOAT,
    STR,
    TPL,
    Unit,
    matrices,
    read_lps,
    read_mps,
    read_ndu,
    split,
)


@dataclass
class Memory:
    """What a stream of updates leaves for the next. Spec, section 10."""

    levels: dict[Any, list[int]] = field(default_factory=dict)
    history: dict[Any, list[int]] = field(default_factory=dict)
    shapes: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def of(self, key: Any, size: int) -> tuple[list[int], list[int]]:
        """Base levels and history of a parameter; zeros where nothing of this size came before."""
        found = self.levels.get(key, []), self.history.get(key, [])
        return found if len(found[0]) == size else ([0] * size, [0] * size)


def step(qp: int, density: int) -> np.float32:
    """Spec, section 8."""
    mantissa = 2**density + (qp & (2**density - 1))
    with np.errstate(over="ignore"):
        return np.float32(math.ldexp(mantissa, max(min((qp >> density) - density, 1000), -1000)))


def pieces(unit: dict[str, Any]) -> list[tuple[str | int, tuple[int, ...], dict[str, Any] | None]]:
    """(name, shape, codebook) of each tensor in coding order. Spec, section 2, NDU payload."""
    names = list(unit["ids"])
    shapes = matrices(unit)
    books = unit["codebooks"] or [None] * len(shapes)
    if unit["payload_type"] != BLOCK:
        if len(names) != 1:
            raise DamagedError("several elements outside a block")
        return [(names[0], shapes[0], books[0])]
    vector = (unit["dims"][0],)
    kinds = [LS] * bool(unit["types"] & LS) + [BN] * 4 * bool(unit["types"] & BN) + [BI] * bool(unit["types"] & BI)
    if len(names) != len(shapes) + len(kinds):
        raise DamagedError(f"block of {len(shapes) + len(kinds)} tensors has {len(names)} names")
    vectors = list(zip(kinds, names[len(shapes) :], strict=True))
    ordered = [name for kind in (LS, BI, BN) for k, name in vectors if k == kind]
    return [(name, vector, None) for name in ordered] + list(zip(names, shapes, books, strict=False))


class Decoder:
    """One pass over the units of a stream."""

    def __init__(self, memory: Memory | None) -> None:
        self.memory = memory if memory is not None else Memory()
        self.profile: int | None = None
        self.mps: dict[str, Any] | None = None
        self.quant: dict[str, Any] = {}
        self.arrays: dict[Any, np.ndarray] = {}
        self.headers: list[dict[str, Any]] = []

    def unit(self, unit: Unit) -> None:
        bits = unit.bits
        if self.profile is None and unit.type != STR:
            raise DamagedError("the first unit is not NNR_STR")
        if unit.type == STR:
            self.profile = bits.u(8)
            if self.profile > 1:
                raise DamagedError(f"unknown profile {self.profile}")
        elif unit.type == MPS:
            self.mps = self.quant = read_mps(bits, self.profile or 0)
        elif unit.type == LPS:
            self.quant = read_lps(bits)
        elif unit.type == TPL:
            bits.u(16)
            bits.take(bits.left)
        elif unit.type == NDU:
            self.ndu(unit)
        else:
            raise DamagedError(f"unit type {unit.type} is not transcribed")
        if bits.pos != 8 * unit.size:
            raise DamagedError(f"unit of {unit.size} bytes ends at bit {bits.pos}")

    def ndu(self, unit: Unit) -> None:
        if self.mps is None or unit.partial is not None:
            raise DamagedError("NDU without MPS, or in parts")
        header = read_ndu(unit.bits, self.profile or 0, self.mps, self.memory.shapes)
        self.headers.append(header)
        payload = unit.bits.take(unit.bits.left)
        if header["payload_type"] == RAW_FLOAT:
            if len(payload) != 4 * math.prod(header["dims"]):
                raise DamagedError("RAW_FLOAT payload has the wrong size")
            self.arrays[header["ids"][0]] = np.frombuffer(payload, "<f4").reshape(header["dims"])
            return
        engine = Engine(payload)
        points: list[tuple[int, int, int]] = []
        for index, (name, shape, book) in enumerate(pieces(header)):
            points += self.tensor(engine, header, index, name, shape, book)
        engine.finish()
        check_points(points, header)

    def tensor(
        self,
        engine: Engine,
        header: dict[str, Any],
        index: int,
        name: str | int,
        shape: tuple[int, ...],
        book: dict[str, Any] | None,
    ) -> list[tuple[int, int, int]]:
        delta = engine.iae(6 + self.quant["qp_density"]) if header["payload_type"] != INT else 0
        key = (header["node"][:2] if "node" in header else header["ids"][0], index)
        base, history = self.memory.of(key, math.prod(shape))
        layer = LayerShape(
            shape,
            dq=header["dq"],
            unary_length=header["unary_length"],
            scan=header["scan"],
            profile=self.profile or 0,
            parent="parent" in header,
            temporal=header["temporal"],
            codebook_size=len(book["values"]) if book else 0,
            codebook_zero=book["zero"] if book else 0,
            base=base,
            history=history,
        )
        decoded = decode_layer(engine, layer)
        self.memory.levels[key] = decoded.levels
        self.memory.history[key] = [int(bool(a or b)) for a, b in zip(history, decoded.levels, strict=True)]
        self.arrays[name] = self.values(header, delta, decoded.levels, book).reshape(shape)
        self.memory.shapes.setdefault(name, {"dims": shape})
        return decoded.points

    def values(self, header: dict[str, Any], delta: int, levels: list[int], book: dict[str, Any] | None) -> np.ndarray:
        """Spec, section 8. Codebook values as float64, the way NNCodec returns them."""
        if header["payload_type"] == INT:
            return np.array(levels, np.int32)
        size = step(delta + self.quant["qp"], self.quant["qp_density"])
        if book:
            if any(not 0 <= level + book["zero"] < len(book["values"]) for level in levels):
                raise DamagedError("a level is outside the codebook")
            chosen = np.array([book["values"][level + book["zero"]] for level in levels])
            return np.float64(size) * chosen.astype(np.float64)
        return size * np.array(levels, np.float64).astype(np.float32)


def multiply_scaling(header: dict[str, Any], arrays: dict[Any, np.ndarray]) -> None:
    """Local scaling goes into the rows of W (or of G), and its tensor is gone. Spec, section 9."""
    if header["payload_type"] != BLOCK or not header["types"] & LS:
        return
    matrices_of_block = len(matrices(header))
    scaled, scaling = header["ids"][0], header["ids"][matrices_of_block]
    rows = arrays.pop(scaling)
    arrays[scaled] = arrays[scaled] * rows.reshape(-1, *[1] * (arrays[scaled].ndim - 1))


def shift_dimensions(header: dict[str, Any], arrays: dict[Any, np.ndarray]) -> None:
    """Dimension 0 is coded first and moves to its place. Spec, section 11."""
    name = header["ids"][0]
    if header["shift"] and len(matrices(header)) == 1:
        arrays[name] = np.moveaxis(arrays[name], 0, header["shift"])


def check_points(found: list[tuple[int, int, int]], header: dict[str, Any]) -> None:
    """The listed entry points are where decoding met them."""
    if not header["scan"]:
        return
    if header["points"] != found:
        raise DamagedError(f"entry points {header['points']} but decoding met {found}")


def decode(data: bytes, memory: Memory | None = None, *, parts: bool = False) -> dict[Any, np.ndarray]:
    """All tensors of a stream by name, in coding order.

    `memory` carries base levels and history from one stream of updates to the next. With `parts` tensors come as they
    are coded; else local scaling is multiplied into the weights and dimensions are shifted. G and H come apart always.
    """
    decoder = Decoder(memory)
    for unit in split(bytes(data)):
        decoder.unit(unit)
    if decoder.mps is None:
        raise DamagedError("no NNR_MPS")
    for header in [] if parts else decoder.headers:
        multiply_scaling(header, decoder.arrays)
        shift_dimensions(header, decoder.arrays)
    return decoder.arrays


def headers(data: bytes, memory: Memory | None = None) -> list[dict[str, Any]]:
    """The NDU headers of a stream."""
    decoder = Decoder(memory)
    for unit in split(bytes(data)):
        decoder.unit(unit)
    return decoder.headers
