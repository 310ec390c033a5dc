"""Small streams to break rules with."""

from __future__ import annotations

from nncjit.errors import BitstreamError
from nncjit.syntax import (
    Context,
    MpsPayload,
    NduHeader,
    PayloadType,
    StrHeader,
    TplHeader,
    UnitType,
    read_units,
    write_unit,
)


def error_of(call):
    """The BitstreamError that the call raises, or None."""
    try:
        call()
    except BitstreamError as err:
        return err
    return None


def ndu(name="w", **more):
    """A small data unit header."""
    given = {"topology_elem_id": name, "tensor_dimensions": (3, 4), **more}
    if {"topology_elem_ids", "topology_elem_id_index", "topology_elem_id_indices"} & more.keys():
        del given["topology_elem_id"]
    return NduHeader(**{"nnr_compressed_data_unit_payload_type": PayloadType.FLOAT, **given})


def started(profile=1, **mps):
    """The context in which data units stand."""
    given = {"mps_qp_density": 2, "mps_quantization_parameter": 0, **mps}
    return Context(profile=profile, mps=MpsPayload(**given))


class Stream:
    """Units written one after the other, each in the context of those before."""

    def __init__(self, profile=1, **mps):
        self.context, self.pieces = Context(), []
        self.put(UnitType.STR, StrHeader(general_profile_idc=profile))
        self.put(UnitType.MPS, None, started(profile, **mps).mps)
        if mps.get("topology_carriage_flag"):
            self.put(UnitType.TPL, TplHeader(), b"")

    def put(self, kind, header=None, body=None):
        """Append a unit and go on after it."""
        self.pieces.append(write_unit(kind, header, body, self.context))
        self.context = self.context.after(kind, header, body)
        return self

    def raw(self, *pieces):
        """Append bytes as they are."""
        self.pieces.extend(pieces)
        return self

    @property
    def data(self):
        """The stream so far."""
        return b"".join(self.pieces)

    def units(self, **options):
        """The stream so far, read."""
        return list(read_units(self.data, **options))


def unit_bytes(kind, content, *, size=None, counter=None):
    """A unit with any type number and any content."""
    head = (kind << 2 | 2 | (counter is not None)).to_bytes(1, "big")
    head += b"" if counter is None else bytes([counter])
    size = 2 + len(head) + len(content) if size is None else size
    return size.to_bytes(2, "big") + head + content
