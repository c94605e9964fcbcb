"""Interpolative decomposition: rows of a tall factor that give all others with small coefficients.

U (m, r) = P [I; C] U_J with J r of its rows (docs/method.md, section 7). Rows by QR with column pivoting of Qᵀ, where
U = Q R, then swapped while a coefficient is above the bound: each swap multiplies |det Q_J| by it, so there are few
(Goreinov et al., "How to find a good submatrix", 2010). Orthonormal Q in U's place changes no coefficient where U has
full rank, and where it has not leaves them small.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg

from onnx_lowrank.types import Array

BOUND = 1.05
"""The largest coefficient of rows that may be chosen freely."""
ROUNDS = 4
"""How often coefficients are computed anew after swaps; once is enough but for rounding."""
PLACES = 8
"""Runs of rows that are looked at, at most: both ends, then between them."""


class Rows(NamedTuple):
    """chosen: (r,) rising numbers of rows. coefficients: (m − r, r), those of the other rows, in their order."""

    chosen: Array
    coefficients: Array

    @property
    def largest(self) -> float:
        """The largest coefficient, in absolute value."""
        return float(np.abs(self.coefficients).max(initial=0.0))


def free_rows(U: Array) -> Rows | None:
    """Return rows with coefficients of at most BOUND; None where rounding does not allow them.

    U: (m, r), r < m, of any rank.
    """
    Q = _orthonormal(U)
    rows = np.array(scipy.linalg.qr(Q.T, mode="r", pivoting=True, check_finite=False)[1][: Q.shape[1]])
    for _ in range(ROUNDS):
        found = _given(Q, np.sort(rows))
        if found is None or found.largest <= BOUND:
            return found
        rows = _swapped(Q, found.chosen)
    return None


def run_of_rows(U: Array, bound: float) -> Rows | None:
    """Return neighbouring rows with coefficients of at most `bound`: first or last ones, else some between; or None."""
    Q = _orthonormal(U)
    gap = len(Q) - Q.shape[1]
    starts = [0, gap]
    ends = [rows for start in starts if (rows := _run(Q, start, bound)) is not None]
    if ends:
        return min(ends, key=lambda rows: rows.largest)
    between = dict.fromkeys(int(place) for place in np.linspace(0, gap, PLACES)[1:-1])
    inner = [rows for start in between if start not in starts and (rows := _run(Q, start, bound)) is not None]
    return min(inner, key=lambda rows: rows.largest, default=None)


def _orthonormal(U: Array) -> Array:
    return np.asarray(scipy.linalg.qr(np.asarray(U, np.float64), mode="economic", check_finite=False)[0])


def _run(Q: Array, start: int, bound: float) -> Rows | None:
    found = _given(Q, np.arange(start, start + Q.shape[1]))
    return found if found is not None and found.largest <= bound else None


def _given(Q: Array, chosen: Array) -> Rows | None:
    """Return the coefficients of all other rows, None where the chosen ones are singular."""
    others = np.setdiff1d(np.arange(len(Q)), chosen)
    with np.errstate(all="ignore"):
        try:
            coefficients = np.linalg.solve(Q[chosen].T, Q[others].T).T
        except np.linalg.LinAlgError:
            return None
    return Rows(chosen, coefficients) if np.isfinite(coefficients).all() else None


def _swapped(Q: Array, chosen: Array) -> Array:
    """Return other rows: while a coefficient is above BOUND, its row for the chosen one that it multiplies."""
    chosen = chosen.copy()
    B = np.linalg.solve(Q[chosen].T, Q.T).T
    for _ in range(4 * len(chosen)):
        row, column = np.unravel_index(int(np.argmax(np.abs(B))), B.shape)
        if abs(B[row, column]) <= BOUND:
            break
        step = B[row].copy()
        step[column] -= 1.0
        B -= np.outer(B[:, column] / B[row, column], step)
        chosen[column] = row
    return chosen
