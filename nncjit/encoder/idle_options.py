"""Options and data that change nothing, because what they need is not there: it is said, since nobody asks for nothing.

What an option needs stands in its row of the table (`Option.needs`): a word of `NEEDS`, or the names of other options
of which one must be given too.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nncjit.encoder.choices import CHOICE_GROUPS, TABLE, Choices, FinenessKinds
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.grouping import Item, items_of
from nncjit.encoder.plan import Plan
from nncjit.encoder.rules import Rule
from nncjit.errors import ModelError, NncWarning, did_you_mean
from nncjit.model import Model, TensorInfo
from nncjit.option_values import shown

__all__ = ["warn_of_idle"]


def _is_coded(info: TensorInfo, plan: Plan) -> bool:
    return plan.choices[info.name].quantising.quantizer != "raw"


_OF_TENSORS: dict[str, tuple[str, Callable[[TensorInfo, Plan], bool]]] = {
    "quantised": ("a tensor that is quantised", lambda info, plan: plan.is_lossy(info)),
    "matrix": ("a matrix that is quantised", lambda info, plan: plan.is_lossy(info) and is_matrix(info.shape)),
    "saving": (
        "a matrix that is quantised",
        lambda info, plan: plan.is_lossy(info) and plan.gives(info.name, info.shape),
    ),
    "coded": ("a tensor that is coded", _is_coded),
    "rows": ("a matrix that is coded", lambda info, plan: _is_coded(info, plan) and is_matrix(info.shape)),
    "calibration": ("a calibration", lambda _, plan: plan.data.calibration is not None),
}
_OF_ITEMS: dict[str, tuple[str, Callable[[Item], bool]]] = {
    "block": ("a weight with vectors that belong to it", lambda item: item.block is not None),
    "batch norm": ("a batch norm after its layer", lambda item: item.block is not None and item.block.var is not None),
    "label": ("a second tensor with its label", lambda item: item.joined),
}
_GIVES_IMPORTANCE = ("zeros", "pattern")
"""Options that weights are left out by."""


def warn_of_idle(model: Model, plan: Plan) -> None:
    """Warn of each option that changes no tensor of a model, and of a sensitivity that nothing asks for.

    Raises
    ------
    ModelError
        The sensitivity is of another model.
    """
    infos = [tensor.info for tensor in model if tensor.same_as is None]
    if not infos:
        return
    options = plan.options
    for name, value in options.keywords().items():
        if name in TABLE:
            _check(name, TABLE[name].check(value), infos, model, plan, "")
    for number, rule in enumerate(options.rules):
        for name, value in rule.changes:
            if TABLE[name].needs and value != TABLE[name].default:
                _check(name, value, _first_matched(infos, options.rules, number), model, plan, rule.pattern)
    if plan.data.sensitivity is not None:
        _check_sensitivity(plan.data.sensitivity, infos, plan)


def _check(name: str, value: Any, infos: Iterable[TensorInfo], model: Model, plan: Plan, pattern: str) -> None:
    """Warn if an option has no effect on these tensors, which a rule's pattern may have chosen."""
    needs = TABLE[name].needs
    if not needs:
        return
    if needs[0] in _OF_ITEMS:
        words, holds = _OF_ITEMS[needs[0]]
        works = any(map(holds, items_of(model, plan)))
    elif needs[0] in _OF_TENSORS:
        words, fits = _OF_TENSORS[needs[0]]
        works = any(fits(info, plan) for info in infos if _has(plan.choices[info.name], name, value))
    else:
        words = " or ".join(needs)
        works = any(_is_given(plan.choices[info.name], other) for info in infos for other in needs)
    if not works:
        where = f"rule {shown(pattern)}: " if pattern else ""
        warnings.warn(f"{where}{name} has no effect without {words}", NncWarning, stacklevel=5)


def _first_matched(infos: Iterable[TensorInfo], rules: tuple[Rule, ...], number: int) -> Iterator[TensorInfo]:
    """The tensors that take this rule: the first that matches wins."""
    patterns = [re.compile(rule.pattern) for rule in rules[: number + 1]]
    for info in infos:
        if next((k for k, pattern in enumerate(patterns) if pattern.fullmatch(info.name)), None) == number:
            yield info


def _has(choices: Choices, name: str, value: Any) -> bool:
    """Whether a tensor's choices have this value; those of the stream hold for all tensors."""
    if name in FinenessKinds.rows():
        return choices.fineness.kind == name and choices.fineness.value == value
    return all(getattr(getattr(choices, group), name, value) == value for group in CHOICE_GROUPS)


def _is_given(choices: Choices, name: str) -> bool:
    if name in FinenessKinds.rows():
        return choices.fineness.kind == name
    return not _has(choices, name, TABLE[name].default)


def _check_sensitivity(sensitivity: Mapping[str, Any], infos: list[TensorInfo], plan: Plan) -> None:
    sized = [
        i for i in infos if any(_is_given(plan.choices[i.name], o) for o in _GIVES_IMPORTANCE) and _is_sparse(i, plan)
    ]
    if not sized:
        said = f"sensitivity has no effect without {' or '.join(_GIVES_IMPORTANCE)} of a matrix that is quantised"
        warnings.warn(said, NncWarning, stacklevel=5)
        return
    names = {info.name for info in infos}
    other = [name for name in sensitivity if name not in names]
    if other and len(other) == len(sensitivity):
        raise ModelError(
            f"the sensitivity is of another model: it has no {shown(other[0])}{did_you_mean(other[0], names)}"
        )
    if other:
        said = f"the sensitivity is of {len(other)} tensors more than the model has, {shown(other[0])} among them"
        warnings.warn(f"{said}{did_you_mean(other[0], names)}", NncWarning, stacklevel=5)
    without = [info.name for info in sized if info.name not in sensitivity]
    if without:
        said = f"the sensitivity tells nothing of {len(without)} matrices, {shown(without[0])} among them"
        warnings.warn(f"{said}: their magnitudes alone count", NncWarning, stacklevel=5)


def _is_sparse(info: TensorInfo, plan: Plan) -> bool:
    return plan.is_lossy(info) and len(info.shape) > 1
