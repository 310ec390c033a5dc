"""Arrays of NumPy, ml_dtypes, PyTorch and JAX, and whatever NumPy can convert, without importing these libraries. Only
`to_torch` and `torch_device`, which are asked for tensors, import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from nncjit.dtypes import DTYPES, as_storage, numpy_name
from nncjit.errors import ModelError, OptionError
from nncjit.extras import require
from nncjit.option_values import shown

__all__ = ["adopt", "describe", "is_torch", "part_reader", "place", "to_storage", "to_torch", "torch_device"]


def is_torch(value: Any) -> bool:
    """Whether this is a PyTorch tensor. If there is one, torch has already been imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def adopt(value: Any, name: str) -> Any:
    """`value` itself if it is an array of some kind, else what NumPy makes of it (numbers, lists); ModelError if that
    is no array.
    """
    if isinstance(value, np.ndarray) or is_torch(value) or (hasattr(value, "shape") and hasattr(value, "dtype")):
        return value
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{name}: {type(value).__name__} is no array of numbers") from error


def describe(array: Any, name: str) -> tuple[tuple[int, ...], str]:
    """Shape and dtype name; ModelError, naming the tensor, for a dtype that nncjit cannot hold."""
    if is_torch(array):
        if sys.modules["torch"].nn.parameter.is_lazy(array):
            raise ModelError(f"{name}: has no values yet: run the module once, which makes its lazy layers")
        dtype = str(array.dtype).removeprefix("torch.")
        if str(array.layout) != "torch.strided" or array.is_meta:
            kind = "on the meta device" if array.is_meta else f"of layout {array.layout}"
            raise ModelError(f"{name}: a tensor {kind} has no plain values")
    else:
        dtype = (
            numpy_name(array.dtype) if isinstance(array, np.ndarray) else str(getattr(array.dtype, "name", array.dtype))
        )
    if dtype not in DTYPES:
        raise ModelError(f"{name}: dtype {dtype} is not one that nncjit handles ({', '.join(DTYPES)})")
    return tuple(int(dim) for dim in array.shape), dtype


def place(array: Any) -> object | None:
    """A key that is equal for two arrays exactly if they are the same numbers in the same memory; None if that is not
    known.
    """
    if is_torch(array):
        if array.numel() == 0:
            return None
        return (
            str(array.device),
            array.data_ptr(),
            tuple(array.shape),
            array.stride(),
            str(array.dtype),
            array.is_neg(),
            array.is_conj(),
        )
    if isinstance(array, np.ndarray):
        if array.size == 0:
            return None
        return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype
    return id(array)


def to_storage(array: Any, name: str) -> np.ndarray[Any, Any]:
    """The storage array of anything that `describe` has taken; a view where that is possible."""
    if is_torch(array):
        return _torch_storage(array)
    return as_storage(array, name)


def part_reader(array: Any, name: str) -> Callable[[int, int], np.ndarray[Any, Any]] | None:
    """What gives some elements of an array in raster order, as a new storage array; None where they lie apart."""
    contiguous = (
        array.is_contiguous() if is_torch(array) else isinstance(array, np.ndarray) and array.flags.c_contiguous
    )
    if not contiguous:
        return None
    return lambda start, stop: to_storage(array.reshape(-1)[start:stop], name).copy()


def _torch_storage(tensor: Any) -> np.ndarray[Any, Any]:
    torch = sys.modules["torch"]
    _, dtype = describe(tensor, "tensor")
    storage = DTYPES[dtype].storage
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if storage.itemsize > 1 and str(storage) != dtype:
        return np.asarray(plain.view(torch.int16).numpy().view(storage))
    if str(storage) != dtype:
        return np.asarray(plain.view(torch.uint8).numpy().view(storage))
    return np.asarray(plain.numpy())


def to_torch(storage: np.ndarray[Any, Any], dtype: str) -> Any:
    """A tensor of torch with the memory of a storage array and torch's own dtype; integers below 8 bits are int8.

    Raises
    ------
    ModelError
        torch is not installed, or has no such dtype.
    """
    torch = require("torch", "tensors of torch")
    if not storage.flags.writeable:
        storage = storage.copy()
    if str(storage.dtype) == dtype or dtype in ("int2", "int3", "int4"):
        return torch.from_numpy(storage)
    if not hasattr(torch, dtype):
        raise ModelError(f"this version of torch has no {dtype}")
    return torch.from_numpy(storage.view(f"i{storage.itemsize}")).view(getattr(torch, dtype))


def torch_device(device: Any) -> Any:
    """The device of torch that a user names; OptionError where there is none."""
    torch = require("torch", "tensors of torch")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionError(f"device {shown(device)}: {reason}") from None
    return found
