"""Options that change nothing in an update, because what they need is not there: it is said, as for whole models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from nncjit.encoder.choices import TABLE
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.idle_options import warn_of_idle
from nncjit.encoder.options import Options
from nncjit.encoder.plan import EXACT, Plan
from nncjit.errors import NncWarning
from nncjit.model import Model, TensorInfo
from nncjit.updates.structure import Structure
from nncjit.updates.tensor_update import are_comparable
from nncjit.updates.update_options import DEFAULT_RATE_WEIGHT, UpdateOptions

__all__ = ["warn_of_idle_in_update"]


@dataclass(frozen=True, slots=True)
class _Given:
    """What options can have an effect on."""

    differences: tuple[TensorInfo, ...]
    """Tensors of which a difference is quantised."""
    plan: Plan
    in_session: bool

    def has_matrix(self) -> bool:
        return any(len(info.shape) > 1 for info in self.differences)

    def has_matrix_without_qp(self) -> bool:
        return any(is_matrix(i.shape) and not self.plan.has_qp(i.name, i.shape) for i in self.differences)


_DIFFERENCE = ("a tensor of which a difference is quantised", lambda given: bool(given.differences))
_SESSION = ("a session: it needs the update before", lambda given: given.in_session)
_NEEDS: dict[str, tuple[tuple[str, Callable[[_Given], bool]], ...]] = {
    "temporal": (_SESSION,),
    "history": (_SESSION,),
    "predict": (_SESSION, _DIFFERENCE),
    "zero_rows": (("a matrix of which a difference is quantised", _Given.has_matrix),),
    "one_step": (
        ("a matrix of which a difference is quantised, and that no qp is given for", _Given.has_matrix_without_qp),
    ),
    "carry": (_DIFFERENCE,),
}
"""What options of an update have no effect without. Those that are not here have one on every update, or, as
`lossless`, ask for what may be so anyway."""


def warn_of_idle_in_update(
    new: Model, plan: Plan, structure: Structure, options: UpdateOptions, *, in_session: bool
) -> None:
    """Warn of each option, of the update's and of the encoder's, that changes nothing of an update.

    Parameters
    ----------
    new : Model
    plan : Plan
        Of the new model.
    structure : Structure
    options : UpdateOptions
    in_session : bool
        Whether this update has one before it or is followed by one.
    """
    infos = [tensor.info for tensor in new if tensor.same_as is None]
    if not infos:
        return
    differ = {i.name for i in infos if (origin := structure.origins[i.name]) is not None and are_comparable(i, origin)}
    plan = _as_coded(plan, differ, options)
    given = _Given(tuple(i for i in infos if i.name in differ and plan.is_lossy(i)), plan, in_session)
    for name, needs in _NEEDS.items():
        if getattr(options, name) not in (False, 0.0, "auto"):
            lacking = next((words for words, holds in needs if not holds(given)), None)
            if lacking is not None:
                warnings.warn(f"{name} has no effect without {lacking}", NncWarning, stacklevel=4)
    asked = options.encoder.quantising.quantizer
    if options.lossless and asked not in (TABLE["quantizer"].default, *EXACT):
        warnings.warn(f"quantizer {asked} has no effect with lossless", NncWarning, stacklevel=4)
    warn_of_idle(new, plan)


def _as_coded(plan: Plan, differ: set[str], options: UpdateOptions) -> Plan:
    """The plan with what is done to each tensor in fact, and without the default of updates among its options."""
    choices = {}
    for name, chosen in plan.choices.items():
        coded = chosen.replace(quantizer="raw") if options.lossless else chosen
        if name not in differ:
            coded = coded.replace(zeros=0.0, pattern=None, unify=0.0, block_shape=None)
        choices[name] = coded
    asked = plan.options
    if asked.quantising.rate_weight == DEFAULT_RATE_WEIGHT:
        asked = Options.of(asked, {"rate_weight": 0.0})
    return replace(plan, choices=choices, options=asked)
