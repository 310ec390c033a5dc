"""One tensor of an update on its way back: a unit decoded and added to what the receiver has.

What follows from an update is known from its headers, so the tensor after it can be named, checked, and built on by the
update after, before anything is decoded. `AppliedUnit` decodes when its values are first asked for.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass

import numpy as np

from nncjit import dtypes
from nncjit.bits import as_source
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import Decoded, decode_units
from nncjit.encoder.unit_encoder import CodedUnit
from nncjit.model import TensorInfo
from nncjit.stream.data_units import DataUnit, StreamReader
from nncjit.stream.unit_parts import Part
from nncjit.syntax import Context, MpsPayload, PayloadType, StrHeader, Unit, UnitType, write_unit
from nncjit.updates import bit_patterns
from nncjit.updates.chain_state import Array, Parameter, Reader, after_unit
from nncjit.updates.common_part import fitted


@dataclass(slots=True)
class _Levels:
    """The levels of one tensor: those of its parent, and those that its unit leaves."""

    parent: Parameter | None
    left: Array | None = None

    def base_of(self, unit: Unit, part: Part) -> tuple[Array, Array]:  # noqa: ARG002
        """See `LevelStore`."""
        parent = self.parent
        if parent is None or parent.levels is None or parent.touched is None or parent.n_levels != part.size:
            return np.zeros(part.size, np.int32), np.zeros(part.size, np.uint8)
        return parent.levels(), parent.touched()

    def record(self, unit: Unit, part: Part, levels: Array) -> None:  # noqa: ARG002
        """See `LevelStore`."""
        self.left = levels


def decoded(
    opened: DataUnit, parent: Parameter | None, *, threads: int | None, max_bytes: int | None = None
) -> tuple[Decoded, Array | None]:
    """The one tensor of a unit as it is coded, and its levels."""
    levels = _Levels(parent)
    budget = MemoryBudget(max_bytes, opened.unit.source.size)
    (item,) = decode_units([opened], budget, threads=threads, state=levels)
    return item, levels.left


def decoded_alone(unit: CodedUnit, density: int) -> tuple[Array, Array | None]:
    """What a receiver makes of a unit without a parent: its values, and its levels."""
    context, stream = Context(), io.BytesIO()
    parameters = MpsPayload(mps_qp_density=density, mps_quantization_parameter=0)
    for unit_type, header, body in (
        (UnitType.STR, StrHeader(general_profile_idc=1), b""),
        (UnitType.MPS, None, parameters),
        (UnitType.NDU, unit.header, unit.payload),
    ):
        stream.write(write_unit(unit_type, header, body, context))
        context = context.after(unit_type, header, body)
    reader = StreamReader(as_source(stream.getvalue()))
    (opened,) = reader.data_units()
    item, levels = decoded(opened, None, threads=1)
    return item.storage, levels


def added(base: Array, change: Array, dtype: str, *, spare: bool = False) -> Array:
    """The storage array of a tensor to which a float32 change is added, rounded to its dtype once.

    `spare` tells that nobody needs the change any more: the sum may take its place.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "float64":
            return np.asarray(base + change)
        total = np.add(dtypes.to_float32(base, dtype), change, out=change if spare else None)
        return dtypes.from_float32(np.asarray(total), dtype)


class AppliedUnit:
    """A tensor after a unit, worked out when it is first asked for and kept until `release`.

    Parameters
    ----------
    opened : DataUnit
        Of one tensor, checked against its parent.
    origin : Parameter or None
        What the receiver has of the tensor.
    info : TensorInfo
        The tensor after.
    number : int
        parameter_id.
    predict : bool
        nnr_pre_flag: the unit says how the change differs from the one before.
    threads, max_bytes : int, optional
        For decoding.
    """

    def __init__(
        self,
        opened: DataUnit,
        origin: Parameter | None,
        info: TensorInfo,
        number: int,
        *,
        predict: bool,
        threads: int | None,
        max_bytes: int | None,
    ) -> None:
        self._opened, self._origin, self._info, self._number = opened, origin, info, number
        self._predict, self._threads, self._max_bytes = predict, threads, max_bytes
        self._lock = threading.Lock()
        self._after: Parameter | None = None

    def after(self) -> Parameter:
        """The tensor, decoded."""
        with self._lock:
            if self._after is None:
                self._after = self._decoded()
            return self._after

    def release(self) -> None:
        """Forget the values."""
        self._after = None

    def outline(self) -> Parameter:
        """The tensor, decoded only when it is read."""
        header, origin = self._opened.unit.header, self._origin
        coded = header.nnr_compressed_data_unit_payload_type != PayloadType.RAW_FLOAT
        n_levels = self._opened.parts[0].size if coded else 0 if origin is None else origin.n_levels
        known = coded or (origin is not None and origin.levels is not None)
        return Parameter(
            info=self._info,
            number=self._number,
            read=lambda: self.after().read(),
            depth=0 if origin is None else origin.depth + 1,
            payload=self._payload,
            levels=(lambda: kept(self.after().levels)) if known else None,
            touched=(lambda: kept(self.after().touched)) if known else None,
            n_levels=n_levels,
            change=(lambda: kept(self.after().change)) if self._predict and self._adds_floats else None,
            release=self.release,
        )

    @property
    def _adds_floats(self) -> bool:
        part = self._opened.parts[0]
        return bool(self._opened.unit.header.parent_node_id_present_flag) and dtypes.find(part.dtype).kind == "f"

    def _decoded(self) -> Parameter:
        item, levels = decoded(self._opened, self._origin, threads=self._threads, max_bytes=self._max_bytes)
        values, change = item.storage, None
        if self._opened.unit.header.parent_node_id_present_flag:
            assert self._origin is not None
            base = fitted(self._origin.read(), self._info.shape)
            if self._adds_floats:
                change = dtypes.to_float32(values, item.part.dtype)
                if self._predict and self._origin.change is not None:
                    change = change + fitted(self._origin.change(), self._info.shape)
                own = levels is not None  # values that are not coded may be the source's own bytes
                values = added(base, change, self._info.dtype, spare=own and not self._predict)
            else:
                values = bit_patterns.add(base, values, self._info.dtype)
        return after_unit(
            self._origin, self._info, self._number, self._payload, values, levels, change if self._predict else None
        )

    def _payload(self) -> bytes:
        return bytes(self._opened.unit.payload())


def kept(read: Reader | None) -> Array:
    """What a reader gives that is known to be there."""
    assert read is not None
    return read()
