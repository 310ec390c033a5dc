"""nncjit for PyTorch: tensors of torch in, tensors of torch out.

Importing this package imports no torch; each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nncjit.extras import require

if TYPE_CHECKING:
    from nncjit.torch.attachment import attach
    from nncjit.torch.bias_matching import match_biases
    from nncjit.torch.calibration import calibrate
    from nncjit.torch.error_compensation import compensate
    from nncjit.torch.finetuning import finetune
    from nncjit.torch.norm_statistics import match_norms, merge_norms
    from nncjit.torch.state_files import load_file, load_model, save_file

_HOMES = {
    "attach": "nncjit.torch.attachment",
    "calibrate": "nncjit.torch.calibration",
    "compensate": "nncjit.torch.error_compensation",
    "finetune": "nncjit.torch.finetuning",
    "load_file": "nncjit.torch.state_files",
    "load_model": "nncjit.torch.state_files",
    "match_biases": "nncjit.torch.bias_matching",
    "match_norms": "nncjit.torch.norm_statistics",
    "merge_norms": "nncjit.torch.norm_statistics",
    "save_file": "nncjit.torch.state_files",
}
"""Public name -> the module that defines it."""

__all__ = [
    "attach",
    "calibrate",
    "compensate",
    "finetune",
    "load_file",
    "load_model",
    "match_biases",
    "match_norms",
    "merge_norms",
    "save_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nncjit.torch' has no attribute {name!r}")
    require("torch", "functions of nncjit.torch")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
