"""Whatever is given for an argument of a reduction, it works or raises an `NncError`: never anything else."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from wrong_values import WRONG, refuses_or_works

from nncjit import reduce

W, VECTOR, MASK = np.arange(32, dtype=np.float32).reshape(4, 8), np.ones(4, np.float32), np.zeros((4, 8), np.bool_)
GROUP = reduce.Group("g", 4, (reduce.Axis("w", 0), reduce.Axis("g", 0)), gamma=("g",))
TENSORS, SHAPES = {"w": W, "g": VECTOR}, {"w": (4, 8), "g": (4,)}
PRUNING = reduce.plan_pruning(TENSORS, [GROUP], {"g": np.arange(4)}, count=1)
FACTORS = reduce.decompose(W, rank=2)

RIGHT = {
    reduce.Axis: {"tensor": "w", "axis": 0},
    reduce.Block: {"weight": "w"},
    reduce.Group: {"name": "g", "size": 4, "members": GROUP.members},
    reduce.channel_scores: {"tensors": TENSORS, "groups": [GROUP]},
    reduce.check_blocks: {"blocks": [reduce.Block(weight="w", bias="g")], "shapes": SHAPES},
    reduce.check_groups: {"groups": [GROUP], "shapes": SHAPES},
    reduce.compose: {"g": FACTORS.g, "h": FACTORS.h, "shape": (4, 8)},
    reduce.decompose: {"values": W, "rank": 2},
    reduce.divide_rows: {"values": W, "scale": VECTOR},
    reduce.find_blocks: {"shapes": SHAPES},
    reduce.fold_batchnorm: {"mean": VECTOR, "var": VECTOR},
    reduce.kept_positions: {"mask": MASK},
    reduce.multiply_rows: {"values": W, "scale": VECTOR},
    reduce.plan_pruning: {"tensors": TENSORS, "groups": [GROUP], "scores": {"g": np.arange(4)}, "share": 0.5},
    reduce.rebuild_from_mask: {"values": W, "mask": MASK},
    reduce.saving_rank: {"rows": 4, "cols": 8},
    reduce.scale_rows: {"values": W},
    reduce.sparsify: {"values": W, "share": 0.5},
    reduce.sparsify_model: {"tensors": TENSORS, "share": 0.5},
    reduce.sparsify_n_m: {"values": W, "n": 2, "m": 4},
    reduce.unfold_batchnorm: {"bias": VECTOR},
    reduce.unify: {"values": W, "block": (2, 2), "threshold": 0.5},
    reduce.zeros_by_rank: {"tensors": TENSORS, "share": 0.5},
    FACTORS.saves: {},
    PRUNING.mask: {"name": "w"},
    PRUNING.rebuild: {"name": "w", "values": W[:3]},
    PRUNING.shrink: {"name": "w", "values": W},
}
"""Public functions, each with arguments that it takes."""
INSTEAD = {"count": {"share": None}, "energy": {"rank": None}, "error": {"rank": None}, "margin": {"rank": None}}
"""What must be left out where these are given."""


def test_every_public_function_is_tried():
    results = {"BatchNorm", "Folded", "LowRank", "Pruning", "Scaled", "Sparsified", "Unified"}
    assert {getattr(reduce, name) for name in set(reduce.__all__) - results} <= set(RIGHT)


@pytest.mark.parametrize("function", RIGHT, ids=lambda function: function.__name__)
def test_any_argument_of_a_reduction_gives_a_result_or_our_error(function):
    function(**RIGHT[function])
    for name in inspect.signature(function).parameters:
        instead = {key: value for key, value in INSTEAD.get(name, {}).items() if key in RIGHT[function]}
        for value in WRONG:
            refuses_or_works(lambda x, name=name, more=instead: function(**RIGHT[function] | more | {name: x}), value)


@pytest.mark.parametrize("function", RIGHT, ids=lambda function: function.__name__)
def test_any_item_of_a_mapping_or_sequence_gives_a_result_or_our_error(function):
    for name, right in RIGHT[function].items():
        for value in WRONG if isinstance(right, dict | list | tuple) else ():
            changed = {**right, "w": value} if isinstance(right, dict) else [value]
            refuses_or_works(lambda x, name=name: function(**RIGHT[function] | {name: x}), changed)
            if isinstance(right, dict) and value.__hash__ is not None and not isinstance(value, tuple):
                refuses_or_works(lambda x, name=name: function(**RIGHT[function] | {name: x}), {**right, value: W})
