"""NNC streams: each unit a declarative table, read and written by the same functions. Spec, sections 2 and 11."""

from nncjit.syntax.aggregate import AggHeader
from nncjit.syntax.codebook_syntax import CodebookSyntax
from nncjit.syntax.constants import (
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    MAX_INFLATED,
    MAX_UNIT_SIZE,
    AggregateType,
    CompressionFormat,
    DataFormat,
    ParameterTypes,
    ParentNodeIdType,
    PayloadType,
    QuantizationFormat,
    QuantizationMethod,
    TopologyFormat,
    UnitType,
)
from nncjit.syntax.context import Context
from nncjit.syntax.data_unit_writer import DataUnitWriter
from nncjit.syntax.input_parameters import InputParameters, block_roles
from nncjit.syntax.ndu import NduHeader
from nncjit.syntax.parameter_sets import LpsHeader, LpsPayload, MpsPayload, StrHeader
from nncjit.syntax.performance_maps import (
    DecompositionEntry,
    DecompositionMap,
    PruningEntry,
    PruningMap,
    ReshapedTensor,
    SparsificationEntry,
    SparsificationMap,
    UnificationEntry,
    UnificationMap,
)
from nncjit.syntax.syntax_tables import Table
from nncjit.syntax.topology import BitMask, PrunedTensor, PruningContainer, QntHeader, ReferenceList, TplHeader
from nncjit.syntax.unit import Unit, UnitHeader, describe
from nncjit.syntax.unit_reader import read_units
from nncjit.syntax.unit_writer import PartHead, aggregate_units, split_heads, split_unit, unit_head, write_unit

__all__ = [
    "MAX_DIMENSIONS",
    "MAX_ELEMENTS",
    "MAX_INFLATED",
    "MAX_UNIT_SIZE",
    "AggHeader",
    "AggregateType",
    "BitMask",
    "CodebookSyntax",
    "CompressionFormat",
    "Context",
    "DataFormat",
    "DataUnitWriter",
    "DecompositionEntry",
    "DecompositionMap",
    "InputParameters",
    "LpsHeader",
    "LpsPayload",
    "MpsPayload",
    "NduHeader",
    "ParameterTypes",
    "ParentNodeIdType",
    "PartHead",
    "PayloadType",
    "PrunedTensor",
    "PruningContainer",
    "PruningEntry",
    "PruningMap",
    "QntHeader",
    "QuantizationFormat",
    "QuantizationMethod",
    "ReferenceList",
    "ReshapedTensor",
    "SparsificationEntry",
    "SparsificationMap",
    "StrHeader",
    "Table",
    "TopologyFormat",
    "TplHeader",
    "UnificationEntry",
    "UnificationMap",
    "Unit",
    "UnitHeader",
    "UnitType",
    "aggregate_units",
    "block_roles",
    "describe",
    "read_units",
    "split_heads",
    "split_unit",
    "unit_head",
    "write_unit",
]
