"""Values that are wrong for most arguments, and the promise about them: a result, or an `NncError` of one line."""

from __future__ import annotations

import io
import warnings

import numpy as np

import nncjit

WRONG = [
    None, 5, -1, 0, 1.5, float("nan"), float("inf"), True, False, 10**6, 10**30, 1j, "no", "", "a\0b", "\ud800", "1GB",
    b"", b"x", b"a\0b", b"\x05\0\0", [], [1], ["x"], [[1], [2, 3]], (), {}, {"w": 1}, {1: 2}, {"w": {"bits": 4}}, set(),
    object(), int, Ellipsis, slice(3), iter([]), np.zeros(3), np.zeros((8, 8)), np.array(2), np.float32(3),
    np.array(None), io.BytesIO(b""), io.StringIO("x"),
]  # fmt: skip


def refuses_or_works(call, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nncjit.NncWarning)
        said = ""
        try:
            call(value)
        except nncjit.NncError as error:
            said = str(error)
    assert "\n" not in said
