"""Names of Numba and llvmlite that disappear for this package, and for it alone: Numba itself needs them."""

from __future__ import annotations

import inspect
import sys
from operator import attrgetter
from types import ModuleType
from typing import Any

import numba

SEEKER = "nncjit.jit.numba_internals"


class Hidden:
    """An attribute of a class that the package cannot find."""

    def __init__(self, owner: type, name: str) -> None:
        self.name, self.value = name, inspect.getattr_static(owner, name, None)

    def __get__(self, instance: Any, owner: type) -> Any:
        if sys._getframe(1).f_globals.get("__name__") == SEEKER:
            raise AttributeError(self.name)
        if self.name in getattr(instance, "__dict__", ()):
            return instance.__dict__[self.name]
        return self.value.__get__(instance, owner) if hasattr(self.value, "__get__") else self.value

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.name] = value


def place(path: str, root: Any) -> tuple[type, str]:
    """The class that has the last name of a path, and that name."""
    *parents, name = path.split(".")
    owner = attrgetter(".".join(parents))(root) if parents else root
    if type(owner) is ModuleType:
        owner.__class__ = type("Module", (ModuleType,), {})  # so that it can have descriptors
    return owner if isinstance(owner, type) else type(owner), name


def hide(path: str, root: Any = numba) -> None:
    """Hide an attribute that is at a path of names below `root`."""
    owner, name = place(path, root)
    setattr(owner, name, Hidden(owner, name))
