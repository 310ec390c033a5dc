"""What transformers calls a quantizer: it decodes the streams of a folder while the model is loaded.

The loader hands each stream over as a tensor of bytes, and gets the parameter in its stead. Afterwards the model is an
ordinary one, and ``save_pretrained`` writes an ordinary folder.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.utils.quantization_config import QuantizationConfigMixin

from nncjit.convert.hf_layout import CODED, METHOD, SUFFIX
from nncjit.errors import ModelError, NncError
from nncjit.torch import load_file

__all__ = ["NncConfig", "NncQuantizer"]


class NncConfig(QuantizationConfigMixin):  # type: ignore[misc] # transformers is optional
    """quantization_config of a folder with NNC streams.

    Parameters
    ----------
    parameters : sequence of str
        Last parts of the names of coded parameters.
    **more
        Whatever else config.json says there.
    """

    def __init__(self, parameters: Any = CODED, **more: Any) -> None:  # noqa: ARG002 - of no use to the loader
        if not isinstance(parameters, list | tuple) or not all(isinstance(p, str) and p for p in parameters):
            raise ModelError(f"config.json: quantization_config has parameters {parameters!r}, must be a list of names")
        self.quant_method = METHOD
        self.parameters = list(parameters)
        self.dequantize = True


class NncQuantizer(HfQuantizer):  # type: ignore[misc] # transformers is optional
    """Loads parameters from NNC streams."""

    def __init__(self, quantization_config: Any, **more: Any) -> None:
        super().__init__(quantization_config, **more)
        if not self.pre_quantized:
            raise ModelError("nncjit.hf loads models that are compressed already: nncjit compress FOLDER --layout hf")
        self.serialized_names = {name: [f"{name}{SUFFIX}"] for name in quantization_config.parameters}

    def get_load_operations(self) -> dict[str, type[Decode]]:
        """Parameters come decoded, and can then be merged by the model's own conversions."""
        return {"dequantize": Decode}

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        # otherwise save_pretrained would give parameters the names of their streams
        model._weight_conversions = None  # noqa: SLF001 - as the quantizers of transformers do
        return model

    def is_serializable(self) -> bool:
        """The loaded model is saved as an ordinary one."""
        return True

    @property
    def is_trainable(self) -> bool:
        """It is an ordinary one."""
        return True


class Decode(ConversionOps):  # type: ignore[misc] # transformers is optional
    """Streams to parameters.

    Parameters
    ----------
    quantizer : NncQuantizer
    """

    def __init__(self, quantizer: NncQuantizer) -> None:
        self.hf_quantizer = quantizer

    def convert(self, input_dict: Any, model: Any = None, full_layer_name: str = "", **_: Any) -> dict[str, Any]:
        """Decode what was collected: one stream for a parameter, or lists of them that are merged afterwards."""
        dtype = _dtype_of(model, full_layer_name)
        decoded = {
            key: [_decode(item, full_layer_name, dtype) for item in _list(given)] for key, given in input_dict.items()
        }
        if len(decoded) == 1:
            ((key, tensors),) = decoded.items()
            if len(tensors) == 1 and not any(c in key for c in "*\\"):
                return {full_layer_name: tensors[0]}
        return decoded

    @property
    def reverse_op(self) -> ConversionOps:
        """Parameters are saved as they are."""
        return _Nothing()


class _Nothing(ConversionOps):  # type: ignore[misc] # transformers is optional
    """Leaves tensors alone."""

    def convert(self, input_dict: Any, **_: Any) -> Any:
        return input_dict


def _list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _dtype_of(model: Any, name: str) -> Any:
    """The dtype that the parameter shall have."""
    try:
        return model.get_parameter_or_buffer(name).dtype
    except AttributeError:
        return model.dtype


def _decode(stream: Any, name: str, dtype: Any) -> Any:
    data = memoryview(stream.contiguous().view(torch.uint8).cpu().numpy())
    try:
        tensors = list(load_file(data, device=stream.device).values())
    except NncError as error:
        raise ModelError(f"{name}: {error}") from None
    if len(tensors) != 1:
        raise ModelError(f"{name}: its stream holds {len(tensors)} tensors, must be one")
    return tensors[0].to(dtype)


if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
    register_quantization_config(METHOD)(NncConfig)
    register_quantizer(METHOD)(NncQuantizer)
