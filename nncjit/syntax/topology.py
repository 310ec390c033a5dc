"""NNR_TPL and NNR_QNT: topology and quantisation data carried beside the tensors. Spec, sections 2 and 11."""

from __future__ import annotations

from nncjit.syntax.codes import FLAG, UE, Counted, Named, Nested, Packed, Text, U, at_most, known, zero
from nncjit.syntax.constants import PRIVATE_STORAGE_FORMAT, CompressionFormat, QuantizationFormat, TopologyFormat
from nncjit.syntax.element_lists import NameList, distinct
from nncjit.syntax.syntax_tables import Table, row, table


@table
class TplHeader(Table):
    """Topology unit header. Spec, section 2."""

    topology_storage_format: int = row(
        Named(8, TopologyFormat),
        check=known(TopologyFormat, private_from=PRIVATE_STORAGE_FORMAT),
        derive=lambda t: TopologyFormat.UNRECOGNISED,
    )
    topology_compression_format: int = row(
        Named(8, CompressionFormat), check=known(CompressionFormat), derive=lambda t: CompressionFormat.RAW
    )


@table
class QntHeader(Table):
    """Quantisation unit header. Spec, section 2."""

    quantization_storage_format: int = row(
        Named(8, QuantizationFormat),
        check=known(QuantizationFormat, private_from=PRIVATE_STORAGE_FORMAT),
        derive=lambda t: QuantizationFormat.UNRECOGNISED,
    )
    quantization_compression_format: int = row(
        Named(8, CompressionFormat), check=known(CompressionFormat), derive=lambda t: CompressionFormat.RAW
    )


@table
class ReferenceList(Table):
    """TPL format 6: the names that data units refer to by index. Spec, section 2."""

    count_topology_elements_minus2: int = row(UE(7), derive=lambda t: len(t.topology_elem_ids or ()) - 2)
    topology_elem_ids: tuple[str, ...] = row(NameList(), check=distinct)


@table
class BitMask(Table):
    """`count` bits, the first on top of the first byte; 1 = pruned or zeroed. Spec, section 11."""

    aligned = True

    count: int = row(U(32))
    bits: bytes = row(Packed(lambda t: t.count))


@table
class PrunedTensor(Table):
    """A tensor's shape after pruning. Spec, section 11."""

    topology_elem_id: str = row(Text())
    dimensions: tuple[int, ...] = row(Counted(U(8), U(8)))


@table
class PruningContainer(Table):
    """TPL format 5: what was pruned. Spec, section 11.

    A mask runs over the weights of the stream's tensors in their order. `prune_flag` and the representation (0 bit
    mask, 1 dictionary) follow from which of `prune_mask` and `pruned` is given.
    """

    pruning_rep_type: int = row(U(2), check=at_most(1), derive=lambda t: int(t.pruned is not None))
    prune_flag: int = row(FLAG, derive=lambda t: int(t.pruned is not None or t.prune_mask is not None))
    order_flag: int = row(FLAG, derive=lambda t: 0)
    sparse_flag: int = row(FLAG, derive=lambda t: int(t.sparse_mask is not None))
    nnr_reserved_zero_3bits: int = row(U(3), check=zero, derive=lambda t: 0)
    prune_mask: BitMask | None = row(Nested(BitMask), when=lambda t, c: t.prune_flag and t.pruning_rep_type == 0)
    pruned: tuple[PrunedTensor, ...] | None = row(
        Counted(U(8), Nested(PrunedTensor)), when=lambda t, c: t.prune_flag and t.pruning_rep_type == 1
    )
    sparse_mask: BitMask | None = row(Nested(BitMask), when=lambda t, c: t.sparse_flag)
