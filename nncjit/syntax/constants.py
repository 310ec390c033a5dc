"""The standard's enumerations, and the limits that keep damaged streams from asking for too much."""

from __future__ import annotations

from enum import IntEnum, IntFlag

MAX_ELEMENTS = 1 << 40
"""Most elements of one tensor."""

MAX_DIMENSIONS = 32
"""Most dimensions of one tensor (what every NumPy can hold)."""

MAX_UNIT_SIZE = (1 << 31) - 1
"""Largest unit in bytes: what nnr_unit_size can say."""

SHORT_UNIT_SIZE = 1 << 15
"""Units below this many bytes are written with the short size field. Spec, section 2."""

MAX_INFLATED = 1 << 28
"""Most bytes that compressed topology or quantisation data may inflate to, unless the caller allows more."""

MAX_INFLATION = 64
"""How many times their size deflated names of elements may become. Names of real models shrink to a twentieth."""

FREE_INFLATION = 1 << 16
"""Bytes that they may inflate to whatever their size."""

LAST_PROFILE = 1
"""The newest general_profile_idc that is known: the second edition."""


class UnitType(IntEnum):
    """nnr_unit_type. Spec, section 2."""

    STR = 0
    MPS = 1
    LPS = 2
    TPL = 3
    QNT = 4
    NDU = 5
    AGG = 6


class PayloadType(IntEnum):
    """nnr_compressed_data_unit_payload_type. Spec, section 2."""

    INT = 0
    FLOAT = 1
    RAW_FLOAT = 2
    BLOCK = 3


class ParameterTypes(IntFlag):
    """The bits of compressed_parameter_types. Spec, section 2."""

    DC = 1
    LS = 2
    BN = 4
    BI = 8


class QuantizationMethod(IntFlag):
    """The bits of mps_ and lps_quantization_method_flags. Spec, section 2."""

    UNIFORM = 1
    CODEBOOK = 2


class DataFormat(IntEnum):
    """nnr_decompressed_data_format; 10 to 63 are reserved, above is private. Spec, section 2."""

    INT32 = 0
    FLOAT32 = 1
    INT2 = 2
    INT3 = 3
    INT4 = 4
    INT8 = 5
    INT16 = 6
    INT64 = 7
    FLOAT16 = 8
    FLOAT64 = 9


PRIVATE_DATA_FORMAT = 64
"""The first private nnr_decompressed_data_format."""


class TopologyFormat(IntEnum):
    """topology_storage_format. Spec, sections 2 and 11."""

    UNRECOGNISED = 0
    NNEF = 1
    ONNX = 2
    PYTORCH = 3
    TENSORFLOW = 4
    PRUN = 5
    REFLIST = 6


class QuantizationFormat(IntEnum):
    """quantization_storage_format. Spec, section 11."""

    UNRECOGNISED = 0
    NNEF = 1
    ONNX = 2
    PYTORCH = 3
    TENSORFLOW = 4


PRIVATE_STORAGE_FORMAT = 128
"""The first private topology_ or quantization_storage_format."""


class CompressionFormat(IntEnum):
    """topology_ and quantization_compression_format. Spec, section 2."""

    RAW = 0
    DEFLATE = 1


class ParentNodeIdType(IntEnum):
    """parent_node_id_type. Spec, section 2."""

    IDS = 0
    SHA256 = 1
    SHA512 = 2


class AggregateType(IntEnum):
    """nnr_aggregate_unit_type. Spec, section 11."""

    GENERIC = 0
    SELF_CONTAINED = 1
