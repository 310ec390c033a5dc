"""The errors of nncjit. On bad input, its public functions raise nothing else."""

from __future__ import annotations

from collections.abc import Iterable

COMPARED = 10_000
"""Names that a wrong one is compared with, at most: this takes a second."""


class NncError(Exception):
    """Base of every error of this package."""


class BitstreamError(NncError):
    """The bytes break the standard: `reason`, at `bit`, in syntax element `path`.

    Parameters
    ----------
    reason : str
        What is wrong, with the offending value.
    bit : int
        Position from the first byte of the stream (or of the bytes given), in bits.
    path : str
        The syntax element or tensor concerned, for example ``"NduHeader.scan_order"``.
    """

    def __init__(self, reason: str, *, bit: int = 0, path: str = "bitstream") -> None:
        super().__init__(f"{path}: {reason} (bit {bit} = byte {bit // 8} + {bit % 8})")
        self.reason, self.bit, self.path = reason, bit, path

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.reason, self.bit, self.path)

    def at(self, *, bit: int = 0, path: str = "") -> BitstreamError:
        """The same error inside an enclosing element, which starts at `bit` and is called `path`."""
        return BitstreamError(self.reason, bit=self.bit + bit, path=f"{path}.{self.path}" if path else self.path)


def _rebuild(reason: str, bit: int, path: str) -> BitstreamError:
    return BitstreamError(reason, bit=bit, path=path)


class OptionError(NncError, ValueError):
    """An argument or option is out of range or contradicts another."""


class ModelError(NncError):
    """A model, file, tensor or name cannot be used."""


class UpdateError(ModelError):
    """An update does not fit the model that it is applied to: another base, a missing parent, a wrong order."""


class NncWarning(UserWarning):
    """The result is valid, but not what was asked for: a missed target, for example."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A remark that names the known name that is most like a wrong one; empty where none is."""
    from difflib import get_close_matches  # imported when it is needed: it takes some milliseconds
    from itertools import islice

    near = get_close_matches(str(name), islice(known, COMPARED), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
