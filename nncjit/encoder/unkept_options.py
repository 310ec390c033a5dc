"""What became of tensors otherwise than the options say: told once for all tensors to which it happened.

It is seen in the rows of a report, so it is the same for a model in one stream and in several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nncjit.encoder.calibrated_parts import ALONE, LEFT_OUT
from nncjit.encoder.decide import AS_ASKED, NO_STEP, NOT_FINITE
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.plan import Plan
from nncjit.encoder.unit_encoder import NO_BOOK
from nncjit.quant import steps
from nncjit.stream.reports import TensorReport

LEFT = 1e-4
"""dB of a tensor of which anything is left: zeros have none but for rounding."""


def unkept(rows: Sequence[TensorReport], plan: Plan) -> Iterator[str]:
    """Sentences for the user.

    Parameters
    ----------
    rows : sequence of TensorReport
        Of all tensors.
    plan : Plan
    """
    for why in (NOT_FINITE, NO_STEP):
        raw = [row for row in rows if row.step is None and why in row.note]
        if why == NO_STEP:  # vectors are cheap: nobody asks for one to be small
            raw = [row for row in raw if plan.gives(row.name, row.shape)]
        if raw[1:]:
            yield f"{len(raw)} tensors are stored as they are, {raw[0].name} among them: {raw[0].note}"
        elif raw:
            yield f"{raw[0].name}: {raw[0].note}; the tensor is stored as it is"
    coarser = [row for row in rows if _is_coarser(row, plan)]
    if coarser:
        qp = plan.choices[coarser[0].name].fineness.qp
        steps_are = f"the step is {coarser[0].step:.3g} instead of {_given(coarser[0], plan):.3g}"
        yield f"{_names(coarser)}: with qp {qp} the levels would not fit, so {steps_are}"
    uniform = [row for row in rows if NO_BOOK in row.note]
    if uniform:
        yield f"{_names(uniform)}: {NO_BOOK}, so the levels are coded without one"
    gone = [row for row in rows if _is_gone(row, plan)]
    if gone:
        yield f"{_names(gone)}: nothing is left, all values become zero"
    idle = _without_statistics(rows, plan)
    if idle:
        yield f"calibration has no effect on {_names(idle)}: {idle[0].note.removeprefix(ALONE) or AS_ASKED}"


def _is_coarser(row: TensorReport, plan: Plan) -> bool:
    """Whether a tensor has another step than that of the qp which was given for it."""
    if row.step is None or "DC" in row.tool or not plan.has_qp(row.name, row.shape):  # factors may be vectors
        return False
    return row.step > _given(row, plan)


def _given(row: TensorReport, plan: Plan) -> float:
    """The step that was given for a tensor by its qp."""
    return float(steps.step(plan.given_qp(row.name), plan.density))


def _is_gone(row: TensorReport, plan: Plan) -> bool:
    """Whether nothing is left of a tensor that should not be zero.

    Of a vector, a calibration may say that the output does not feel it.
    """
    metrics = plan.data.metrics
    wanted = plan.choices[row.name].reducing.zeros == 1.0 or row.name in plan.zero_counts or LEFT_OUT in row.note
    wanted |= metrics is not None and not is_matrix(row.shape) and metrics.statistics.get(row.name) is not None
    return row.step is not None and row.snr is not None and abs(row.snr) < LEFT and not wanted


def tells_loss(rows: Sequence[TensorReport], plan: Plan) -> bool:
    """Whether statistics tell what is lost: not where no matrix uses its own, but for what is exact."""
    return all(row.step is None for row in _without_statistics(rows, plan))


def _without_statistics(rows: Sequence[TensorReport], plan: Plan) -> Sequence[TensorReport]:
    """The matrices with statistics, or whatever has some, where the options are such that none of these count."""
    metrics = plan.data.metrics
    known = [] if metrics is None else [row for row in rows if metrics.statistics.get(row.name) is not None]
    known = [row for row in known if is_matrix(row.shape)] or known
    idle = [row for row in known if row.note.startswith(ALONE) or row.note == AS_ASKED or row.tool == "lossless"]
    return idle if len(idle) == len(known) else []


def named(names: Sequence[str]) -> str:
    """Tensors in a sentence about all of them: the first, and how many more there are."""
    return f"{names[0]} and {len(names) - 1} more" if names[1:] else names[0]


def _names(rows: Sequence[TensorReport]) -> str:
    return named([row.name for row in rows])
