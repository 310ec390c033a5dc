"""Truncated singular value decompositions: the whole one for small matrices, a randomised one for large.

The randomised one (Halko, Martinsson and Tropp, 2011): Q is an orthonormal basis of W (W^T W)^q N for a matrix N of k
normal random columns, and the SVD of the small Q^T W gives that of Q Q^T W. What Q misses is W's energy less that of
Q^T W, so the error is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nncjit.reduce.views import bands

SMALL_SIDE = 1024
"""Matrices with no longer shorter side are decomposed whole: that takes a second at most."""
OVERSAMPLING = 16
POWERS = 2
FIRST_SKETCH = 32


@dataclass(frozen=True, slots=True)
class Spectrum:
    """W ~ u diag(s) vt, float32, as far as it was computed."""

    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray
    missed: float
    """Energy of W outside of this spectrum; 0 for the whole SVD."""

    def rank_for(self, allowed: float) -> int:
        """Least rank, at least 1, whose discarded energy is at most `allowed`; all there is where none is."""
        squares = self.s.astype(np.float64) ** 2
        discarded = np.append(np.cumsum(squares[::-1])[::-1], 0.0)[1:] + self.missed  # [r - 1]: by rank r
        enough = np.flatnonzero(discarded <= allowed)
        return int(enough[0]) + 1 if enough.size else self.s.size


def energy_of(values: np.ndarray) -> float:
    """Sum of squares of a matrix, in float64, a band at a time."""
    return float(sum(np.sum(np.square(values[band], dtype=np.float64)) for band in bands(values.shape, 1)))


def truncated(
    view: np.ndarray,
    total: float,
    *,
    rank: int | None = None,
    allowed: float = 0.0,
    method: str = "auto",
    seed: int = 0,
) -> Spectrum:
    """The first singular values and vectors of a float32 matrix: `rank` of them, or enough to discard at most
    `allowed`.

    `total` is the matrix's energy.
    """
    side = min(view.shape)
    if method == "exact" or (method == "auto" and side <= SMALL_SIDE):
        return _whole(view)
    sketch = FIRST_SKETCH if rank is None else rank
    while True:
        if sketch + OVERSAMPLING > (
            side // 4 if method == "auto" else side
        ):  # from there on the whole one is no slower
            return _whole(view)
        spectrum = _randomised(view, total, sketch + OVERSAMPLING, seed)
        if rank is not None or spectrum.missed <= allowed:
            return spectrum
        sketch *= 2


def _whole(view: np.ndarray) -> Spectrum:
    return Spectrum(*_svd(view), 0.0)


def _randomised(view: np.ndarray, total: float, columns: int, seed: int) -> Spectrum:
    basis = view @ np.random.default_rng(seed).standard_normal((view.shape[1], columns), dtype=np.float32)
    for _ in range(POWERS):  # QR at each turn, or the small singular values drown in rounding
        basis = _orthonormal(view.T @ _orthonormal(basis))
        basis = view @ basis
    basis = _orthonormal(basis)
    u, s, vt = _svd(basis.T @ view)
    missed = max(total - float(np.sum(np.square(s, dtype=np.float64))), 0.0)
    return Spectrum(basis @ u, s, vt, missed)


def _svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from scipy.linalg import svd  # here, because a decoder should not wait for SciPy

    u, s, vt = svd(matrix, full_matrices=False, check_finite=False)
    return u, s, vt


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    from scipy.linalg import qr

    return np.asarray(qr(columns, mode="economic", check_finite=False)[0])
