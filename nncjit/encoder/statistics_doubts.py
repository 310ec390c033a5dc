"""What speaks against the statistics that a model was coded with, seen when it is coded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nncjit.encoder.calibrated_parts import ALONE, OF_OTHERS
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.plan import Plan
from nncjit.stream.reports import TensorReport

NOTHING_LEFT = 0.5
"""dB of a matrix of which next to nothing is left."""
NOTHING_LOST = 1e-3
"""Of the output's power: no network has lost less when next to nothing is left of all its matrices."""


def doubts(rows: Sequence[TensorReport], plan: Plan, *, loss: float | None) -> Iterator[str]:
    """Sentences for the user.

    Parameters
    ----------
    rows : sequence of TensorReport
        Of all tensors.
    plan : Plan
    loss : float or None
        Expected error of the output, as a share of its power; None where the user set a target.
    """
    metrics = plan.data.metrics
    if metrics is None:
        return
    others = [row.name for row in rows if row.note.startswith(OF_OTHERS)]
    compared = sum(metrics.can_compare(row.name) for row in rows) if others else 0
    if 2 * len(others) > compared:  # training may have changed some weights much
        yield (
            f"the statistics are of other values than those of {len(others)} of {compared} weights, {others[0]} among "
            "them: of another model, or of this one before more training"
        )
    if loss is None:
        return
    if loss > 1:
        yield f"by the statistics, the output's error is {loss:.3g} times its power: too coarse, or of another model"
    followed = [
        row.snr
        for row in rows
        if row.name in metrics.statistics and is_matrix(row.shape) and row.snr is not None and ALONE not in row.note
    ]
    if followed and max(followed) < NOTHING_LEFT and loss < NOTHING_LOST:
        yield (
            f"by the statistics, the output loses {loss:.3g} of its power without all these weights, so next to "
            "nothing is left of them: the statistics are damaged, or of another model"
        )
