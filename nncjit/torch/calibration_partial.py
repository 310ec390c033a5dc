"""A calibration that was interrupted, as a file: sums so far, and how many batches they are of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from nncjit.errors import ModelError
from nncjit.files import atomic_write, os_errors

if TYPE_CHECKING:
    from torch import Tensor

    from nncjit.torch.calibration_moments import WeightMoments

__all__ = ["Partial"]


class Sums(Protocol):
    """What is saved of a calibration."""

    moments: dict[str, WeightMoments]
    samples: int
    power: float


class Partial:
    """The file of an interrupted calibration.

    Parameters
    ----------
    path : path
    facts : dict
        What a run that goes on must share with the one that was interrupted; goes into the file as JSON.
    """

    def __init__(self, path: str | os.PathLike[str], facts: dict[str, Any]) -> None:
        self._path, self._facts = Path(path), json.loads(json.dumps(facts))

    def save(self, sums: Sums, batches: int) -> None:
        """Write the file; the old one stays until the new one is complete."""
        tensors: dict[str, Tensor] = {}
        counts: dict[str, list[int]] = {}
        for name, moments in sums.moments.items():
            tensors |= {f"{name}:{part}": tensor for part, tensor in moments.state().items()}
            counts[name] = [moments.samples, moments.tokens]
        head = {
            "facts": self._facts,
            "batches": batches,
            "samples": sums.samples,
            "power": sums.power,
            "counts": counts,
        }
        data = save(tensors, {"nncjit calibration": json.dumps(head)})
        with os_errors(self._path), atomic_write(self._path) as file:
            file.write(data)

    def load(self, sums: Sums) -> int:
        """Take up the sums of the file, and return how many batches they are of; 0 if there is no file.

        Raises
        ------
        ModelError
            The file is of another run, or no such file at all.
        """
        if not self._path.exists():
            return 0
        try:
            with safe_open(self._path, "pt") as file:
                head = json.loads((file.metadata() or {})["nncjit calibration"])
                if head["facts"] != self._facts:
                    raise ModelError(
                        f"{self._path}: is of another model, or of other settings; delete it to begin anew"
                    )
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            for name, moments in sums.moments.items():
                moments.load({key: kept[f"{name}:{key}"] for key in moments.state()})
                moments.samples, moments.tokens = head["counts"][name]
            sums.samples, sums.power = head["samples"], head["power"]
            return int(head["batches"])
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ModelError(
                f"{self._path}: is no interrupted calibration; delete it to begin anew ({error})"
            ) from None

    def remove(self) -> None:
        """Delete the file: the calibration is complete."""
        with os_errors(self._path):
            self._path.unlink(missing_ok=True)
