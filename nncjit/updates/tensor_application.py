"""Tensors of an update on their way back: units decoded together, each then added to what the receiver has.

What follows from an update is known from its headers, so the tensor after it can be named, checked, and built on by the
update after, before anything is decoded. An `AppliedUnit` that was not decoded with others is decoded when its values
are first asked for.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Collection

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
    (opened,) = StreamReader(as_source(stream.getvalue())).data_units()
    part = opened.results()[0]
    made = AppliedUnit(opened, None, TensorInfo(part.name, part.shape, part.dtype), 0, predict=False)
    decode_together([made], threads=1)
    after = made.after()
    return after.read(), None if after.levels is None else after.levels()


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
    max_bytes : int, optional
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
        max_bytes: int | None = None,
    ) -> None:
        self.opened, self._origin, self._info, self._number = opened, origin, info, number
        self._predict, self._max_bytes = predict, max_bytes
        self.wants_levels = True
        """Whether the next update may build on its levels, or they are kept."""
        self.levels: Array | None = None
        """int32[n], once it is decoded."""
        self._item: Decoded | None = None
        self._lock = threading.Lock()
        self._after: Parameter | None = None

    @property
    def waits(self) -> bool:
        """Whether it is not decoded."""
        return self._item is None and self._after is None

    def take(self, item: Decoded) -> None:
        """Become decoded."""
        self._item = item

    def base_levels(self) -> tuple[Array, Array]:
        """Those that contexts depend on, and the history."""
        parent, size = self._origin, self.opened.parts[0].size
        if parent is None or parent.levels is None or parent.touched is None or parent.n_levels != size:
            return np.zeros(size, np.int32), np.zeros(size, np.uint8)
        return parent.levels(), parent.touched()

    def after(self, base: Array | None = None) -> Parameter:
        """The tensor, decoded. `base`: the values of what the receiver has, where they were read already."""
        with self._lock:
            if self._after is None:
                if self._item is None:
                    decode_together([self], self._max_bytes)
                self._after = self._added(base)
            return self._after

    def release(self) -> None:
        """Forget the values."""
        self._after = self._item = self.levels = None

    def outline(self) -> Parameter:
        """The tensor, decoded only when it is read."""
        origin = self._origin
        n_levels = self.opened.parts[0].size if self._is_coded else 0 if origin is None else origin.n_levels
        known = self._is_coded or (origin is not None and origin.levels is not None)
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
    def _is_coded(self) -> bool:
        """Whether its payload has levels."""
        return bool(self.opened.unit.header.nnr_compressed_data_unit_payload_type != PayloadType.RAW_FLOAT)

    @property
    def _is_difference(self) -> bool:
        return bool(self.opened.unit.header.parent_node_id_present_flag)

    @property
    def _adds_floats(self) -> bool:
        return self._is_difference and dtypes.find(self.opened.parts[0].dtype).kind == "f"

    def _added(self, base: Array | None) -> Parameter:
        """What was decoded, added to what the receiver has."""
        item, change = self._item, None
        assert item is not None
        values, self._item = item.storage, None
        if self._is_difference:
            assert self._origin is not None
            base = fitted(self._origin.read() if base is None else base, self._info.shape)
            if self._adds_floats:
                change = dtypes.to_float32(values, item.part.dtype)
                if self._predict and self._origin.change is not None:
                    change = change + fitted(self._origin.change(), self._info.shape)
                # values that are not coded may be the source's own bytes
                values = added(base, change, self._info.dtype, spare=self._is_coded and not self._predict)
            else:
                values = bit_patterns.add(base, values, self._info.dtype)
        after = after_unit(
            self._origin,
            self._info,
            self._number,
            self._payload,
            values,
            self.levels,
            change if self._predict else None,
        )
        if self.levels is not None:
            kept(after.touched)  # what it follows from is let go
        return after

    def _payload(self) -> bytes:
        return bytes(self.opened.unit.payload())


class _Levels:
    """The levels that units of one update build on, and those that they leave; see `LevelStore`."""

    def __init__(self, units: Collection[AppliedUnit]) -> None:
        self._units = {unit.opened.unit.offset: unit for unit in units}

    def base_of(self, unit: Unit, part: Part) -> tuple[Array, Array]:  # noqa: ARG002
        return self._units[unit.offset].base_levels()

    def wants(self, unit: Unit, part: Part) -> bool:  # noqa: ARG002
        return self._units[unit.offset].wants_levels

    def record(self, unit: Unit, part: Part, levels: Array) -> None:  # noqa: ARG002
        self._units[unit.offset].levels = levels


def decode_together(
    units: Collection[AppliedUnit], max_bytes: int | None = None, *, threads: int | None = None
) -> None:
    """Decode those units of one update that are not decoded yet.

    Raises
    ------
    BitstreamError
        A payload is damaged.
    """
    waiting = {unit.opened.unit.offset: unit for unit in units if unit.waits}
    budget = MemoryBudget(max_bytes, next((u.opened.unit.source.size for u in waiting.values()), 0))
    opened = [unit.opened for unit in waiting.values()]
    for item in decode_units(opened, budget, threads=threads, state=_Levels(waiting.values())):
        waiting[item.opened.unit.offset].take(item)


def kept(read: Reader | None) -> Array:
    """What a reader gives that is known to be there."""
    assert read is not None
    return read()
