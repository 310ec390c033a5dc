"""Parameter reduction: fewer or simpler numbers, and how to undo it.

Functions take arrays and return frozen dataclasses; they do not change their input. The stream records what a tool did
(spec, sections 9 and 11). `nncjit.encoder` decides which tools are used.
"""

from nncjit.reduce.batchnorm import BatchNorm, Folded, fold_batchnorm, unfold_batchnorm
from nncjit.reduce.blocks import Block, check_blocks, find_blocks
from nncjit.reduce.channels import channel_scores
from nncjit.reduce.graph import Axis, Group, check_groups
from nncjit.reduce.lowrank import LowRank, compose, decompose, saving_rank
from nncjit.reduce.prune import Pruning, kept_positions, plan_pruning, rebuild_from_mask
from nncjit.reduce.scaling import Scaled, divide_rows, multiply_rows, scale_rows
from nncjit.reduce.sparsify import Sparsified, sparsify, sparsify_model, sparsify_n_m, zeros_by_rank
from nncjit.reduce.unify import Unified, unify

__all__ = [
    "Axis",
    "BatchNorm",
    "Block",
    "Folded",
    "Group",
    "LowRank",
    "Pruning",
    "Scaled",
    "Sparsified",
    "Unified",
    "channel_scores",
    "check_blocks",
    "check_groups",
    "compose",
    "decompose",
    "divide_rows",
    "find_blocks",
    "fold_batchnorm",
    "kept_positions",
    "multiply_rows",
    "plan_pruning",
    "rebuild_from_mask",
    "saving_rank",
    "scale_rows",
    "sparsify",
    "sparsify_model",
    "sparsify_n_m",
    "unfold_batchnorm",
    "unify",
    "zeros_by_rank",
]
