"""Low-rank decomposition: ``W ~ G H`` by a truncated singular value decomposition. Spec, section 9 (DC).

W = U S V^T with singular values s_1 >= s_2 >= ...; the best approximation of rank r keeps the first r, and its squared
error is the discarded energy, ``|W - G H|^2 = s_(r+1)^2 + s_(r+2)^2 + ...`` (Eckart and Young). The factors are
balanced::

    G = U_r sqrt(S_r)        H = sqrt(S_r) V_r^T

Why balanced: quantising G and H with steps d_G and d_H adds an error of about ``d_G^2/12 * rows * |H|^2 + d_H^2/12 *
cols * |G|^2``. With S split as S^a and S^(1-a) the two sums are sum s^(2-2a) and sum s^(2a); by Cauchy and Schwarz
their product is at least (sum s)^2, and a = 1/2 reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from nncjit.errors import OptionError
from nncjit.option_values import Dimensions, Whole, Word, checked
from nncjit.reduce.svd import Spectrum, energy_of, truncated
from nncjit.reduce.views import bands, checked_share, finite_array, float_array, matrix, matrix_shape

METHODS = ("auto", "exact", "randomised")


@dataclass(frozen=True, slots=True)
class LowRank:
    """The factors of a tensor."""

    g: np.ndarray
    """float32[g_number_of_rows, rank]."""
    h: np.ndarray
    """float32[rank, elements / g_number_of_rows]."""
    shape: tuple[int, ...]
    """Of the tensor."""
    error: float
    """Norm of W - G H over the norm of W, measured on these factors. 0 for a tensor of zeros."""

    @property
    def rank(self) -> int:
        return int(self.g.shape[1])

    def saves(self, margin: float = 0.0) -> bool:
        """Whether G and H have fewer numbers than the tensor, by a share of at least `margin` of it."""
        return self.rank <= saving_rank(self.g.shape[0], self.h.shape[1], margin)

    def compose(self) -> np.ndarray:
        """G H, float32[shape]."""
        return compose(self.g, self.h, self.shape)


def saving_rank(rows: int, cols: int, margin: float = 0.0) -> int:
    """Largest rank with ``rank * (rows + cols) < rows * cols * (1 - margin)``; 0 where there is none."""
    margin = checked_share(margin, "decomposition", "margin")
    rows, cols = (checked(what, Whole(0, 1 << 62), value) for what, value in (("rows", rows), ("cols", cols)))
    return max(int(np.ceil(rows * cols * (1 - margin) / max(rows + cols, 1))) - 1, 0)


def decompose(
    values: np.ndarray,
    *,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    margin: float | None = None,
    rows: int | None = None,
    method: str = "auto",
    seed: int = 0,
    name: str = "tensor",
) -> LowRank:
    """Factors of a tensor, of a given rank or of the least rank that meets one target.

    Parameters
    ----------
    values : float[any shape]
    rank, energy, error, margin
        Exactly one of them: the rank itself; the share of the energy (sum of squares) to keep, 0..1; the largest
        relative error ``|W - G H| / |W|``, 0..1; or the largest rank that saves more than this share of the numbers
        (`saving_rank`).
    rows : int
        g_number_of_rows; must divide the elements. The first dimension where left out.
    method : {"auto", "exact", "randomised"}
        "auto" takes the randomised way for large matrices of which a small part of the ranks is wanted.
    seed : int
        Of the randomised way: the same seed gives the same factors.

    Raises
    ------
    OptionError
        Not exactly one target, or out of range; a rank above the matrix; rows that do not divide; no rank saves
        `margin`.
    ModelError
        The values are no floats or not finite.
    """
    values = finite_array(values, name)
    checked(f"{name}: seed", Whole(0, 1 << 62), seed)
    shape = values.shape
    sides = matrix_shape(shape, rows, name)
    _check(sides, rank, energy, error, margin, method, name)
    if margin is not None:
        rank = saving_rank(*sides, margin)
    view = matrix(values, rows, name).astype(np.float32, copy=False)
    total = energy_of(view)
    if rank is not None:
        allowed = 0.0
        spectrum = truncated(view, total, rank=rank, method=method, seed=seed)
    else:
        allowed = total * ((1 - energy) if energy is not None else (error or 0.0) ** 2)
        spectrum = truncated(view, total, allowed=allowed, method=method, seed=seed)
        rank = spectrum.rank_for(allowed)
    g, h = _balanced(spectrum, rank)
    return LowRank(g, h, shape, _error(view, g, h, total))


def compose(g: np.ndarray, h: np.ndarray, shape: tuple[int, ...], *, name: str = "tensor") -> np.ndarray:
    """W = G H, float32[shape]. Spec, section 9.

    Raises
    ------
    OptionError
        G and H are no matrices that fit each other and the shape.
    """
    g, h = (float_array(factor, f"factor {side} of {name}") for side, factor in (("g", g), ("h", h)))
    shape = checked(f"{name}: shape", Dimensions(), shape)
    if g.ndim != 2 or h.ndim != 2 or g.shape[1] != h.shape[0]:
        raise OptionError(f"{name}: factors of shapes {g.shape} and {h.shape} cannot be multiplied")
    if g.shape[0] * h.shape[1] != prod(shape):
        raise OptionError(f"{name}: factors of shapes {g.shape} and {h.shape} do not fill shape {shape}")
    return (g.astype(np.float32, copy=False) @ h.astype(np.float32, copy=False)).reshape(shape)


def _check(
    sides: tuple[int, int],
    rank: int | None,
    energy: float | None,
    error: float | None,
    margin: float | None,
    method: str,
    name: str,
) -> None:
    checked(f"{name}: method", Word(*METHODS), method)
    if sum(target is not None for target in (rank, energy, error, margin)) != 1:
        raise OptionError(f"{name}: give one of rank, energy, error and margin")
    if 0 in sides:
        raise OptionError(f"{name}: has no elements to decompose")
    if rank is not None and not 1 <= checked(f"{name}: rank", Whole(0, 1 << 62), rank) <= min(sides):
        raise OptionError(f"{name}: rank {rank} is not within 1..{min(sides)} of the {sides[0]} x {sides[1]} matrix")
    for what, share in (("energy", energy), ("error", error), ("margin", margin)):
        if share is not None:
            checked_share(share, name, what)
    if margin is not None and saving_rank(*sides, margin) < 1:
        raise OptionError(f"{name}: no rank of a {sides[0]} x {sides[1]} matrix saves a share of {margin:g}")


def _balanced(spectrum: Spectrum, rank: int) -> tuple[np.ndarray, np.ndarray]:
    roots = np.sqrt(spectrum.s[:rank])
    return spectrum.u[:, :rank] * roots, roots[:, None] * spectrum.vt[:rank]


def _error(view: np.ndarray, g: np.ndarray, h: np.ndarray, total: float) -> float:
    """Relative error of the product, a band of rows at a time."""
    if not total:
        return 0.0
    lost = sum(energy_of(view[band] - g[band] @ h) for band in bands(view.shape, 1))
    return float(np.sqrt(lost / total))
