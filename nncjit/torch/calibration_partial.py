"""A calibration that was interrupted, as a file: sums so far, and how many batches they are of."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nncjit.errors import ModelError
from nncjit.files import as_path, check_readable, os_errors
from nncjit.formats.safetensors import write
from nncjit.model import TensorInfo

if TYPE_CHECKING:
    from nncjit.torch.calibration_moments import WeightMoments

__all__ = ["Partial"]


class Sums(Protocol):
    """What is saved of a calibration."""

    moments: dict[str, WeightMoments]
    samples: int
    power: float


class Partial:
    """The file of an interrupted calibration, or none: nothing is saved then.

    Parameters
    ----------
    path : path, optional
    facts : dict
        What a run that goes on must share with the one that was interrupted; goes into the file as JSON.
    """

    def __init__(self, path: str | os.PathLike[str] | None, facts: dict[str, Any]) -> None:
        self._path, self._facts = None if path is None else as_path(path), json.loads(json.dumps(facts))
        self._met, self._inputs = 0, hashlib.blake2b(digest_size=16)
        self._done, self._done_inputs = 0, ""

    def knows(self, batch: Any) -> bool:
        """Whether the sums of the file are of the next batch, too.

        Raises
        ------
        ModelError
            It is the last one that they are of, and these are others.
        """
        self._met += 1
        if self._path is not None:
            _take_up(self._inputs, batch)
        if self._met == self._done and self._inputs.hexdigest() != self._done_inputs:
            raise self._other_inputs()
        return self._met <= self._done

    def check_end(self) -> None:
        """Refuse inputs that end before those of the file do.

        Raises
        ------
        ModelError
            They do.
        """
        if self._met < self._done:
            raise self._other_inputs()

    def _other_inputs(self) -> ModelError:
        return ModelError(f"{self._path}: is of other inputs: give those, in the same batches, or delete it")

    def save(self, sums: Sums) -> None:
        """Write the file, of all batches so far; the old one stays until the new one is complete."""
        if self._path is None:
            return
        arrays: dict[str, np.ndarray] = {}
        counts: dict[str, list[int]] = {}
        for name, moments in sums.moments.items():
            arrays |= {f"{name}:{part}": tensor.cpu().numpy() for part, tensor in moments.state().items()}
            counts[name] = [moments.samples, moments.tokens]
        head = {
            "facts": self._facts,
            "batches": self._met,
            "inputs": self._inputs.hexdigest(),
            "samples": sums.samples,
            "power": sums.power,
            "counts": counts,
            "sums": _checksum(arrays.values()),
        }
        infos = [TensorInfo(name, array.shape, str(array.dtype)) for name, array in arrays.items()]
        with os_errors(self._path), write(self._path, infos, {"nncjit calibration": json.dumps(head)}) as store:
            for info in infos:
                store(info, arrays[info.name])

    def load(self, sums: Sums) -> None:
        """Take up the sums of the file, if there is one.

        Raises
        ------
        ModelError
            The file is of another run, or no such file at all.
        """
        if self._path is None or not self._path.exists():
            return
        check_readable(self._path)
        try:
            with safe_open(self._path, "pt") as file:
                head = json.loads((file.metadata() or {})["nncjit calibration"])
                if head["facts"] != self._facts:
                    raise ModelError(
                        f"{self._path}: is of another model, or of other settings; delete it to begin anew"
                    )
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            names = (f"{name}:{key}" for name, moments in sums.moments.items() for key in moments.state())
            if head["sums"] != _checksum(kept[name].numpy() for name in names):
                raise ModelError(f"{self._path}: its sums are damaged; delete it to begin anew")
            for name, moments in sums.moments.items():
                moments.load({key: kept[f"{name}:{key}"] for key in moments.state()})
                moments.samples, moments.tokens = head["counts"][name]
            sums.samples, sums.power = head["samples"], head["power"]
            self._done, self._done_inputs = int(head["batches"]), head["inputs"]
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ModelError(
                f"{self._path}: is no interrupted calibration; delete it to begin anew ({error})"
            ) from None

    def remove(self) -> None:
        """Delete the file: the calibration is complete."""
        if self._path is not None:
            with os_errors(self._path):
                self._path.unlink(missing_ok=True)


def _checksum(arrays: Iterable[np.ndarray]) -> int:
    found = 0
    for array in arrays:
        found = zlib.crc32(memoryview(array.reshape(-1).view("u1")), found)  # type: ignore[arg-type]
    return found


def _take_up(digest: Any, value: Any) -> None:
    """Add what a batch holds to a digest; of objects that are no numbers, texts or containers of such, their type."""
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta and not value.is_quantized:
        digest.update(f"{value.dtype}{list(value.shape)}".encode())
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy())
    elif hasattr(value, "__array__") and not isinstance(value, Tensor):
        array = np.asarray(value)
        digest.update(
            f"{array.dtype}{list(array.shape)}".encode() + (b"" if array.dtype.hasobject else array.tobytes())
        )
    elif isinstance(value, Mapping):
        digest.update(f"{len(value)}:".encode())
        for key, part in value.items():
            digest.update(repr(key).encode("utf-8", "surrogatepass"))
            _take_up(digest, part)
    elif isinstance(value, tuple | list):
        digest.update(f"{len(value)},".encode())
        for part in value:
            _take_up(digest, part)
    elif isinstance(value, str | bytes | int | float | None):
        digest.update(repr(value).encode("utf-8", "surrogatepass"))
    else:
        digest.update(type(value).__name__.encode())
