"""The performance maps of the parameter sets. They tell what reduction costs in accuracy and do not change decoding.

Known from public drafts only (spec, section 11): each width stands in exactly one row here.
"""

from __future__ import annotations

from nncjit.syntax.codes import UE, Float, Nested, U
from nncjit.syntax.syntax_tables import Table, row, table


@table
class SparsificationEntry(Table):
    """One threshold of a sparsification map. Spec, section 11."""

    sparsification_threshold: float = row(Float())
    non_zero_ratio: float = row(Float())
    spm_nn_accuracy: float = row(Float())
    spm_count_classes: int = row(U(8), derive=lambda t: len(t.spm_nn_class_accuracy or ()))
    spm_class_bitmask: int = row(UE(7), derive=lambda t: 0)
    spm_nn_class_accuracy: tuple[float, ...] = row(Float(), count=lambda t, c: t.spm_count_classes, derive=lambda t: ())


@table
class SparsificationMap(Table):
    """Sparsification performance map. The list has count - 1 entries. Spec, section 11."""

    spm_count_thresholds: int = row(U(8), derive=lambda t: len(t.entries or ()) + 1)
    entries: tuple[SparsificationEntry, ...] = row(
        Nested(SparsificationEntry), count=lambda t, c: max(t.spm_count_thresholds - 1, 0), derive=lambda t: ()
    )


@table
class PruningEntry(Table):
    """One ratio of a pruning map. Spec, section 11."""

    pruning_ratio: float = row(Float())
    ppm_nn_accuracy: float = row(Float())
    ppm_count_classes: int = row(U(8), derive=lambda t: len(t.ppm_nn_class_accuracy or ()))
    ppm_class_bitmask: int = row(UE(7), derive=lambda t: 0)
    ppm_nn_class_accuracy: tuple[float, ...] = row(Float(), count=lambda t, c: t.ppm_count_classes, derive=lambda t: ())


@table
class PruningMap(Table):
    """Pruning performance map. The list has count - 1 entries. Spec, section 11."""

    ppm_count_pruning_ratios: int = row(U(8), derive=lambda t: len(t.entries or ()) + 1)
    entries: tuple[PruningEntry, ...] = row(
        Nested(PruningEntry), count=lambda t, c: max(t.ppm_count_pruning_ratios - 1, 0), derive=lambda t: ()
    )


@table
class ReshapedTensor(Table):
    """The dimensions of a reshaped tensor, closed by alignment bits; count - 1 of them. Spec, section 11."""

    aligned = True

    count_reshaped_tensor_dimension: int = row(UE(1), derive=lambda t: len(t.reshaped_tensor_dimensions or ()) + 1)
    reshaped_tensor_dimensions: tuple[int, ...] = row(
        UE(7), count=lambda t, c: max(t.count_reshaped_tensor_dimension - 1, 0), derive=lambda t: ()
    )


@table
class UnificationEntry(Table):
    """One threshold of a unification map; dimension lists have count - 1 values. Spec, section 11."""

    reshaped_tensor: ReshapedTensor = row(Nested(ReshapedTensor), derive=lambda t: ReshapedTensor())
    count_super_block_dimension: int = row(U(8), derive=lambda t: len(t.super_block_dimensions or ()) + 1)
    super_block_dimensions: tuple[int, ...] = row(
        U(8), count=lambda t, c: max(t.count_super_block_dimension - 1, 0), derive=lambda t: ()
    )
    count_block_dimension: int = row(U(8), derive=lambda t: len(t.block_dimensions or ()) + 1)
    block_dimensions: tuple[int, ...] = row(
        U(8), count=lambda t, c: max(t.count_block_dimension - 1, 0), derive=lambda t: ()
    )
    unification_threshold: float = row(Float())
    upm_nn_accuracy: float = row(Float())
    upm_count_classes: int = row(U(8), derive=lambda t: len(t.upm_nn_class_accuracy or ()))
    upm_class_bitmask: int = row(UE(7), derive=lambda t: 0)
    upm_nn_class_accuracy: tuple[float, ...] = row(Float(), count=lambda t, c: t.upm_count_classes, derive=lambda t: ())


@table
class UnificationMap(Table):
    """Unification performance map. The list has count - 1 entries. Spec, section 11."""

    upm_count_thresholds: int = row(U(8), derive=lambda t: len(t.entries or ()) + 1)
    entries: tuple[UnificationEntry, ...] = row(
        Nested(UnificationEntry), count=lambda t, c: max(t.upm_count_thresholds - 1, 0), derive=lambda t: ()
    )


@table
class DecompositionEntry(Table):
    """One threshold of a decomposition map. Spec, section 11."""

    mse_threshold: float = row(Float())
    dpm_nn_accuracy: float = row(Float())
    nn_reduction_ratio: float = row(Float())
    dpm_count_classes: int = row(U(16), derive=lambda t: len(t.dpm_nn_class_accuracy or ()))
    dpm_nn_class_accuracy: tuple[float, ...] = row(Float(), count=lambda t, c: t.dpm_count_classes, derive=lambda t: ())


@table
class DecompositionMap(Table):
    """Decomposition performance map. The list has count - 1 entries. Spec, section 11."""

    dpm_count_thresholds: int = row(U(8), derive=lambda t: len(t.entries or ()) + 1)
    entries: tuple[DecompositionEntry, ...] = row(
        Nested(DecompositionEntry), count=lambda t, c: max(t.dpm_count_thresholds - 1, 0), derive=lambda t: ()
    )
