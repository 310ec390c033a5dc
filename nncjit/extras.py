"""Optional libraries: imported when they are first used, and named with the way to install them where they are missing.

The hint names the library itself rather than an extra of this package, so it works however nncjit was installed.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from nncjit.errors import ModelError

__all__ = ["require"]


def require(module: str, purpose: str, *, distribution: str | None = None) -> ModuleType:
    """Import an optional library.

    Parameters
    ----------
    module : str
        Its name in an import statement.
    purpose : str
        What needs it, in the plural: ``"PyTorch files"``.
    distribution : str, optional
        Its name for pip, where that is another.

    Raises
    ------
    ModelError
        It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise ModelError(f"{purpose} need {module}, which cannot be imported: {error}") from error
        raise ModelError(f"{purpose} need {module}: pip install {distribution or module}") from None
    except (ImportError, OSError) as error:  # a library of its own is missing or does not fit
        raise ModelError(f"{purpose} need {module}, which cannot be imported: {error}") from error
