"""nncjit for Hugging Face transformers: after ``import nncjit.hf``, ``from_pretrained`` reads folders with NNC streams.

`compress_folder` makes such folders; ``nncjit compress FOLDER -o FOLDER2 --layout hf`` does the same. `lazy_state_dict`
gives the tensors of an .nnc file to ``from_pretrained`` without a folder.
"""

from __future__ import annotations

from nncjit.convert.hf_layout import compress_folder
from nncjit.extras import require
from nncjit.hf.lazy_tensors import lazy_state_dict

require("torch", "models of transformers")
require("transformers.quantizers", "nncjit.hf", distribution="transformers")

from nncjit.hf.quantizer import NncConfig, NncQuantizer  # noqa: E402 - only where transformers is there

__all__ = ["NncConfig", "NncQuantizer", "compress_folder", "lazy_state_dict"]
