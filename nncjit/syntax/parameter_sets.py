"""NNR_STR, NNR_MPS and NNR_LPS: the start of a stream and the parameter sets. Spec, section 2."""

from __future__ import annotations

from typing import Any

from nncjit.syntax.codes import FLAG, Float, I, Nested, Text, U, zero
from nncjit.syntax.constants import LAST_PROFILE
from nncjit.syntax.performance_maps import DecompositionMap, PruningMap, SparsificationMap, UnificationMap
from nncjit.syntax.syntax_tables import Table, row, table


def _known_profile(value: int, t: Any, c: Any) -> str | None:
    return f"profile {value} is not known (0 to {LAST_PROFILE} are)" if value > LAST_PROFILE and not c.lenient else None


@table
class StrHeader(Table):
    """Start unit header. Spec, section 2."""

    general_profile_idc: int = row(U(8), check=_known_profile)


def _second_edition(t: Any, c: Any) -> bool:
    return bool(c.edition)


def _has_metric(t: Any, c: Any) -> bool:
    return bool(t.validation_set_performance_present_flag or t.metric_type_performance_map_valid_flag)


def _has_step(flags: str) -> Any:
    return lambda t, c: getattr(t, flags) & 3


@table
class MpsPayload(Table):
    """Model parameter set. Spec, sections 2 and 11.

    Where they are not given, mps_quantization_method_flags follows from mps_qp_density, and the flags that announce a
    map or a text from that.
    """

    aligned = True

    topology_carriage_flag: int = row(FLAG, derive=lambda t: 0)
    mps_sparsification_flag: int = row(FLAG, derive=lambda t: int(t.sparsification_map is not None))
    mps_pruning_flag: int = row(FLAG, derive=lambda t: int(t.pruning_map is not None))
    mps_unification_flag: int = row(FLAG, derive=lambda t: int(t.unification_map is not None))
    mps_decomposition_performance_map_flag: int = row(FLAG, derive=lambda t: int(t.decomposition_map is not None))
    mps_quantization_method_flags: int = row(U(3), derive=lambda t: int(t.mps_qp_density is not None))
    mps_topology_indexed_reference_flag: int = row(FLAG, derive=lambda t: 0)
    nnr_reserved_zero_7bits: int = row(U(7), when=lambda t, c: c.edition == 0, check=zero, derive=lambda t: 0)
    base_model_id_present_flag: int = row(FLAG, when=_second_edition, derive=lambda t: int(t.base_model_id is not None))
    validation_set_performance_present_flag: int = row(
        FLAG, when=_second_edition, derive=lambda t: int(t.validation_set_performance is not None)
    )
    metric_type_performance_map_valid_flag: int = row(FLAG, when=_second_edition, derive=lambda t: 0)
    mps_parent_signalling_enabled_flag: int = row(FLAG, when=_second_edition, derive=lambda t: 0)
    nnr_pre_flag: int = row(
        FLAG, when=lambda t, c: c.edition and t.mps_parent_signalling_enabled_flag, derive=lambda t: 0
    )
    nnr_reserved_zero_1bit: int = row(
        FLAG,
        when=lambda t, c: c.edition and not t.mps_parent_signalling_enabled_flag,
        check=zero,
        derive=lambda t: 0,
    )
    nnr_reserved_zero_2bits: int = row(U(2), when=_second_edition, check=zero, derive=lambda t: 0)
    base_model_id: str | None = row(Text(), when=lambda t, c: t.base_model_id_present_flag)
    performance_metric_type: str | None = row(Text(), when=_has_metric)
    mps_qp_density: int | None = row(U(3), when=_has_step("mps_quantization_method_flags"))
    mps_quantization_parameter: int | None = row(I(13), when=_has_step("mps_quantization_method_flags"))
    sparsification_map: SparsificationMap | None = row(
        Nested(SparsificationMap), when=lambda t, c: t.mps_sparsification_flag
    )
    pruning_map: PruningMap | None = row(Nested(PruningMap), when=lambda t, c: t.mps_pruning_flag)
    unification_map: UnificationMap | None = row(Nested(UnificationMap), when=lambda t, c: t.mps_unification_flag)
    decomposition_map: DecompositionMap | None = row(
        Nested(DecompositionMap), when=lambda t, c: t.mps_decomposition_performance_map_flag
    )
    validation_set_performance: float | None = row(
        Float(), when=lambda t, c: c.edition and t.validation_set_performance_present_flag
    )


@table
class LpsHeader(Table):
    """Layer parameter set header. Spec, section 2."""

    lps_self_contained_flag: int = row(FLAG, derive=lambda t: 0)
    nnr_reserved_zero_7bits: int = row(U(7), check=zero, derive=lambda t: 0)


@table
class LpsPayload(Table):
    """Layer parameter set: holds for the data units after it. Spec, section 2."""

    aligned = True

    nnr_reserved_zero_1bit: int = row(FLAG, check=zero, derive=lambda t: 0)
    lps_sparsification_flag: int = row(FLAG, derive=lambda t: int(t.sparsification_map is not None))
    lps_pruning_flag: int = row(FLAG, derive=lambda t: int(t.pruning_map is not None))
    lps_unification_flag: int = row(FLAG, derive=lambda t: int(t.unification_map is not None))
    lps_quantization_method_flags: int = row(U(3), derive=lambda t: int(t.lps_qp_density is not None))
    nnr_reserved_zero_1bit_2: int = row(FLAG, check=zero, derive=lambda t: 0)
    lps_qp_density: int | None = row(U(3), when=_has_step("lps_quantization_method_flags"))
    lps_quantization_parameter: int | None = row(I(13), when=_has_step("lps_quantization_method_flags"))
    sparsification_map: SparsificationMap | None = row(
        Nested(SparsificationMap), when=lambda t, c: t.lps_sparsification_flag
    )
    pruning_map: PruningMap | None = row(Nested(PruningMap), when=lambda t, c: t.lps_pruning_flag)
    unification_map: UnificationMap | None = row(Nested(UnificationMap), when=lambda t, c: t.lps_unification_flag)
