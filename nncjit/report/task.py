"""Tasks: Python files that measure how well weights do what a model is for.

A task has ``measure(weights) -> dict[str, float]``, where `weights` maps names to arrays, and ``MAIN``, the name of the
main measure and whether higher is better. It may have ``TITLE``; ``WEIGHTS``, the path of the model that it usually
measures; and ``FACTORS = True`` where it also takes matrices as the two factors of a decomposition, ``NAME_G`` and
``NAME_H``, whose product is the matrix as rows of outputs. A task is code that is run, so use only tasks from people
you trust.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nncjit.errors import ModelError, OptionError

Array = np.ndarray[Any, Any]
Measure = Callable[[Mapping[str, Array]], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Task:
    """A measure of weights, and which of its numbers counts."""

    name: str
    measures: Measure
    main: str
    higher_is_better: bool = True
    title: str = ""
    weights: Path | None = None
    """The file of the model that the task is about."""
    spec: str = ""
    """What `load` makes it of."""
    takes_factors: bool = False
    """Whether weights may come as the factors ``NAME_G`` and ``NAME_H`` of a decomposition."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For workers: what came from a file or a module is loaded there."""
        if not self.spec:
            return Task, tuple(getattr(self, field.name) for field in fields(self))
        return load, (os.path.abspath(self.spec) if self.spec.endswith(".py") else self.spec,)  # noqa: PTH100

    def __call__(self, weights: Mapping[str, Array]) -> dict[str, float]:
        """All measures of these weights.

        Raises
        ------
        ModelError
            The task fails on them, or gives no number for its main measure.
        """
        try:
            with np.errstate(all="ignore"):  # a model with very coarse steps may overflow
                found = dict(self.measures(weights))
        except (KeyboardInterrupt, ModelError):
            raise
        except Exception as error:  # whatever somebody else's code raises
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = " ".join(f"{type(error).__name__}: {error}".split())
            place = f"{Path(where.filename).name}, line {where.lineno}"
            raise ModelError(f"task {self.name} cannot use these weights: {what} ({place})") from error
        if self.main not in found:
            raise ModelError(
                f"task {self.name} measures {', '.join(found) or 'nothing'}, and not its MAIN {self.main!r}"
            )
        return {name: float(value) for name, value in found.items()}

    def loss(self, value: float, original: float) -> float:
        """How much worse a value of the main measure is than the original's, in percent of it; negative: better."""
        worse = original - value if self.higher_is_better else value - original
        return 100.0 * worse / abs(original) if original else math.inf if worse > 0 else 0.0


def load(spec: str) -> Task:
    """A task from a Python file or an importable module.

    Parameters
    ----------
    spec : str
        ``folder/task.py``, or a module's name such as ``bench.zoo.vgg``; looked for in the current folder too.

    Raises
    ------
    OptionError
        There is no such file or module, it cannot be imported, or it is no task.
    """
    module = _from_file(Path(spec)) if spec.endswith(".py") else _import(spec, spec, Path.cwd())
    measure: Any = getattr(module, "measure", None)
    main: Any = getattr(module, "MAIN", None)
    if not callable(measure):
        raise OptionError(f"task {spec}: it has no function measure(weights)")
    try:
        name, higher = main
    except (TypeError, ValueError):
        raise OptionError(
            f"task {spec}: its MAIN must be (name of the measure, is more better?), not {main!r}"
        ) from None
    weights = getattr(module, "WEIGHTS", None)
    title = str(getattr(module, "TITLE", ""))
    name_of_task = Path(spec).stem if spec.endswith(".py") else spec.rpartition(".")[2]
    return Task(
        name_of_task,
        measure,
        str(name),
        bool(higher),
        title,
        Path(weights) if weights else None,
        spec,
        bool(getattr(module, "FACTORS", False)),
    )


def _from_file(path: Path) -> ModuleType:
    """The module in a file; one inside a package is imported as a part of it, so that its own imports work."""
    path = path.resolve()
    if not path.is_file():
        raise OptionError(f"task {path}: there is no such file")
    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    return _import(".".join(names), str(path), folder)


def _import(name: str, spec: str, folder: Path) -> ModuleType:
    for place in (str(Path.cwd()), str(folder)):
        if place not in sys.path:
            sys.path.insert(0, place)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionError(f"task {spec}: {error}") from error
    except Exception as error:  # whatever somebody else's code raises
        raise OptionError(f"task {spec}: {type(error).__name__}: {error}") from error
