"""The units of a stream, split and parsed into plain dicts. Spec, section 2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from oracle.bits import Bits, DamagedError

STR, MPS, LPS, TPL, QNT, NDU, AGG = range(7)
INT, FLOAT, RAW_FLOAT, BLOCK = range(4)
DC, LS, BN, BI = 1, 2, 4, 8


class Unit:
    """One unit: its type, its place, and a reader over its own bytes that stands behind the unit header."""

    def __init__(self, data: bytes, offset: int) -> None:
        bits = Bits(data[offset:])
        long_form = bits.bit()
        self.offset = offset
        self.size = bits.u(31 if long_form else 15)
        if offset + self.size > len(data):
            raise DamagedError(f"unit at byte {offset} has size {self.size}, {len(data) - offset} bytes left")
        self.bits = Bits(data[offset : offset + self.size])
        self.bits.pos = bits.pos
        self.type = self.bits.u(6)
        self.independent = self.bits.bit()
        self.partial = self.bits.u(8) if self.bits.bit() else None


def split(data: bytes) -> Iterator[Unit]:
    offset = 0
    while offset < len(data):
        unit = Unit(data, offset)
        yield unit
        offset += unit.size


def parameter_set(bits: Bits, out: dict[str, Any], flags: int) -> None:
    out["qp_density"] = bits.u(3) if flags & 3 else 0
    out["qp"] = bits.i(13) if flags & 3 else 0


def read_mps(bits: Bits, profile: int) -> dict[str, Any]:
    out: dict[str, Any] = {"topology_carriage_flag": bits.bit()}
    maps = [bits.bit() for _ in range(4)]
    flags = bits.u(3)
    out["indexed"] = bits.bit()
    out["parent_signalling"] = out["pre"] = performance = 0
    if profile == 0:
        bits.zeros(7)
    else:
        base_model, performance, metric = bits.bit(), bits.bit(), bits.bit()
        out["parent_signalling"] = bits.bit()
        if out["parent_signalling"]:
            out["pre"] = bits.bit()
        else:
            bits.zeros(1)
        bits.zeros(2)
        if base_model:
            out["base_model_id"] = bits.st()
        if performance or metric:
            out["performance_metric_type"] = bits.st()
    parameter_set(bits, out, flags)
    if any(maps):
        raise DamagedError("performance maps are not transcribed")
    if profile and performance:
        bits.u(32)
    bits.align()
    return out


def read_lps(bits: Bits) -> dict[str, Any]:
    out: dict[str, Any] = {"self_contained": bits.bit()}
    bits.zeros(7)
    bits.zeros(1)
    maps = [bits.bit() for _ in range(3)]
    flags = bits.u(3)
    bits.zeros(1)
    parameter_set(bits, out, flags)
    if any(maps):
        raise DamagedError("performance maps are not transcribed")
    bits.align()
    return out


def read_codebook(bits: Bits) -> dict[str, Any]:
    k = bits.u(4)
    size = bits.ue(2)
    zero = (size >> 1) + bits.ie(2)
    if not 0 <= zero < size:
        raise DamagedError(f"codebook of {size} values has its zero at {zero}")
    values = [0] * size
    values[zero] = bits.ie(7)
    for j in range(zero - 1, -1, -1):
        values[j] = values[j + 1] - bits.ue(k) - 1
    for j in range(zero + 1, size):
        values[j] = values[j - 1] + bits.ue(k) + 1
    return {"values": values, "zero": zero}


def read_element_ids(bits: Bits, indexed: bool) -> list[str | int]:
    count = bits.ue(7) + 2
    if indexed:
        ids: list[str | int] = [bits.ue(7) for _ in range(count)]
        bits.align()
        return ids
    bits.align()
    return [bits.st() for _ in range(count)]


def read_nodes(bits: Bits, out: dict[str, Any], parent_signalling: bool) -> None:
    if bits.bit():
        out["node"] = (bits.ue(1), bits.ue(5), bits.ue(4))
    if not parent_signalling or not bits.bit():
        return
    kind = bits.u(2)
    out["temporal"] = bool(bits.bit())
    if kind == 0:
        device = bits.ue(1)
        out["parent"] = (device,) if "node" in out else (device, bits.ue(5), bits.ue(4))
    elif kind == 3:
        raise DamagedError("unknown parent_node_id_type 3")
    else:
        out["parent"] = bits.u(256 * kind)


def read_ndu(bits: Bits, profile: int, mps: dict[str, Any], outside: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Header of an NDU, up to the payload. `outside` gives shapes by name where they are not in the unit."""
    out: dict[str, Any] = {"payload_type": bits.u(5), "temporal": False, "types": 0, "unary_length": 10, "scan": 0}
    kind = out["payload_type"]
    if kind > BLOCK:
        raise DamagedError(f"unknown payload type {kind}")
    multiple, has_format, has_input = bits.bit(), bits.bit(), bits.bit()
    if multiple:
        out["ids"] = read_element_ids(bits, mps["indexed"])
    else:
        out["ids"] = [bits.ue(7) if mps["indexed"] else bits.st()]
    if profile:
        read_nodes(bits, out, mps["parent_signalling"])
    has_codebook = kind in (FLOAT, BLOCK) and bits.bit() == 1
    out["codebooks"] = [read_codebook(bits)] if has_codebook else []
    out["dq"] = bool(bits.bit()) if kind != RAW_FLOAT else False
    out["format"] = bits.u(7) if has_format else None
    known = outside.get(out["ids"][0], {})
    out.update({key: known[key] for key in ("dims", "types", "rank", "g_rows", "unary_length") if key in known})
    if has_input:
        read_input_parameters(bits, out, multiple == 1)
    if "dims" not in out:
        raise DamagedError("no tensor dimensions")
    if kind == BLOCK and out["types"] & DC and has_codebook:
        out["codebooks"].append(read_codebook(bits))
    out["shift"] = 0
    out["points"] = []
    if len(out["dims"]) > 1:
        if profile:
            out["shift"] = bits.ue(1)
            if out["shift"] >= len(out["dims"]):
                raise DamagedError(f"dimension 0 moves by {out['shift']} in {out['dims']}")
        out["scan"] = bits.u(4)
        if out["scan"] > 4:
            raise DamagedError(f"unknown scan order {out['scan']}")
        if out["scan"]:
            read_points(bits, out)
    bits.align()
    return out


def read_input_parameters(bits: Bits, out: dict[str, Any], multiple: bool) -> None:
    has_dims, has_unary = bits.bit(), bits.bit()
    out["types"] = bits.u(4)
    if out["types"] & DC:
        out["rank"], out["g_rows"] = bits.ue(3), bits.ue(3)
    if has_dims:
        out["dims"] = tuple(bits.ue(7) for _ in range(bits.ue(1)))
    if out["payload_type"] != BLOCK and multiple:
        raise DamagedError("tensor mapping is not transcribed")
    if has_unary:
        out["unary_length"] = bits.u(8) + 1


def matrices(out: dict[str, Any]) -> list[tuple[int, ...]]:
    """Shapes of W, or of G and H."""
    if out["payload_type"] == BLOCK and out["types"] & DC:
        g = (out["g_rows"], out["rank"])
        return [g, (out["rank"], math.prod(out["dims"]) // max(out["g_rows"], 1))]
    return [out["dims"]]


def read_points(bits: Bits, out: dict[str, Any]) -> None:
    side = 4 * 2 ** out["scan"]
    offset = None
    for shape in matrices(out):
        for _ in range(-(-shape[0] // side) - 1):
            value = bits.u(8)
            state = bits.u(3) if out["dq"] else 0
            offset = bits.ue(11) if offset is None else offset + bits.ie(7)
            out["points"].append((value, state, offset))
