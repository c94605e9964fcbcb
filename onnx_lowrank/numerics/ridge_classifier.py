"""A last linear layer refitted to labels in closed form (docs/method.md, section 5.1).

Logits z = W x + b become z' = a z + κ s(x): s = S x + t is the ridge regression of the one-hot labels on what the layer
reads. So the layer is drawn towards itself not by a penalty on the difference, but by a weighted mean of two
classifiers (stacked regression: Wolpert, Neural Networks 5, 1992), and stays where that is not better by more than a
standard error than itself or its temperature alone. The strength of the ridge and both weights are those
of least cross-entropy where every row has the s that was fitted without it: exact, from one eigendecomposition, as the
hat matrix says it (Allen's PRESS, Technometrics 16, 1974). Least squares with one-hot targets, not a Newton step of the
cross-entropy, as its hat matrix is one for all classes and its step is not held back by how sure the layer is: where a
network was trained on wrong labels the layer is sure of what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from onnx_lowrank.numerics import linalg
from onnx_lowrank.numerics.calibrated_logits import clearly_more, cross_entropies
from onnx_lowrank.types import Array

RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 100.0)
"""Shares of the mean energy of a feature, per row; all above 0."""
DEAD = 1e-10
"""Directions of less than this share of the largest eigenvalue are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerFit:
    """W' = layer · W + weight, b' = layer · b + bias. weight: (classes, features); bias: (classes,); zeros: no change.

    gain: mean nats that the cross-entropy falls, leave-one-out; 0 for the layer as it is, never less. ridge: as a share
    of the mean energy of a feature.
    """

    weight: Array
    bias: Array
    layer: float = 1.0
    gain: float = 0.0
    ridge: float = math.inf

    @property
    def changes(self) -> bool:
        """Whether it is anything but the layer as it is."""
        return self.gain > 0


def fit_layer(
    features: Array,
    logits: Array,
    labels: Array,
    *,
    intercept: bool = True,
    groups: Array | None = None,
    ridges: Sequence[float] = RIDGES,
) -> LayerFit:
    """Return the refit on features (n, d), the logits (n, classes) that the layer makes of them, and labels (n,).

    intercept: whether the layer can have a bias. groups: (n,) numbers, equal for rows that are left out together; None:
    each by itself. Raises ValueError for features or logits that are not finite.
    """
    x, z = np.asarray(features, np.float64), np.asarray(logits, np.float64)
    if not (np.isfinite(x).all() and np.isfinite(z).all()):
        raise ValueError("features and logits that are not finite cannot be fitted")
    hot = np.eye(z.shape[1])[labels]
    nothing = LayerFit(np.zeros((z.shape[1], x.shape[1])), np.zeros(z.shape[1]))
    if len(x) < 2 or (groups is not None and len(np.unique(groups)) < 2):
        return nothing
    regression = Regression(x, hot, intercept)
    before = cross_entropies(z, labels)
    simpler = [before, _stacked(z, np.zeros_like(z), labels).losses]  # the layer as it is, and its temperature alone
    tried = [_stacked(z, regression.left_out(ridge, groups), labels) for ridge in ridges]
    best = int(np.argmin([each.losses.mean() for each in tried]))
    mixed, ridge = tried[best], ridges[best]
    if not all(clearly_more(losses, mixed.losses, groups) for losses in simpler):
        return nothing
    S, t = regression.solution(ridge)
    gain = float(np.mean(before - mixed.losses))
    return LayerFit(mixed.scores * S, mixed.scores * t, mixed.layer, gain, ridge)


@dataclass(frozen=True, eq=False)
class Regression:
    """Ridge regression of targets Y (n, c) on X (n, d), all ridges from one decomposition; the intercept is free."""

    X: Array
    Y: Array
    intercept: bool

    @cached_property
    def _means(self) -> tuple[Array, Array]:
        if not self.intercept:
            return np.zeros(self.X.shape[1]), np.zeros(self.Y.shape[1])
        return self.X.mean(axis=0), self.Y.mean(axis=0)

    @cached_property
    def _decomposed(self) -> tuple[Array, Array, Array]:
        """Eigenvalues v (r,) of XᵀX, U (n, r) with X = U √v Vᵀ, and UᵀY (r, c)."""
        X = self.X - self._means[0]
        wide = X.shape[1] > X.shape[0]
        values, vectors = linalg.eigen(X @ X.T if wide else X.T @ X)
        alive = values > DEAD * max(values[0], np.finfo(float).tiny)
        values, vectors = values[alive], vectors[:, alive]
        U = vectors if wide else X @ vectors / np.sqrt(values)
        return values, U, U.T @ (self.Y - self._means[1])

    def _strength(self, ridge: float) -> float:
        return float(ridge * self._decomposed[0].sum() / self.X.shape[1])

    def solution(self, ridge: float) -> tuple[Array, Array]:
        """Return S (c, d) and t (c,): Y ≈ X Sᵀ + t."""
        values, U, UY = self._decomposed
        V = ((self.X - self._means[0]).T @ U) / np.sqrt(values)
        S = (UY * (np.sqrt(values) / (values + self._strength(ridge)))[:, None]).T @ V.T
        return S, self._means[1] - S @ self._means[0]

    def left_out(self, ridge: float, groups: Array | None = None) -> Array:
        """Return (n, c): every row's prediction, fitted without the row, or without the rows of its group.

        Y − (I − H)⁻¹ (Y − H Y) block by block, H the hat matrix: the solution without the block, without solving for
        it. The strength λ (not the share) is the same with and without.
        """
        values, U, UY = self._decomposed
        shrunk = values / (values + self._strength(ridge))
        own = 1 / len(U) if self.intercept else 0.0
        residual = self.Y - self._means[1] - (U * shrunk) @ UY
        if groups is None:
            h = own + (U**2) @ shrunk
            return np.asarray(self.Y - residual / (1 - h)[:, None])
        predicted = np.empty_like(residual)
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            block = np.eye(len(rows)) - own - (U[rows] * shrunk) @ U[rows].T
            predicted[rows] = self.Y[rows] - np.linalg.solve(block, residual[rows])
        return predicted


@dataclass(frozen=True, slots=True, eq=False)
class _Mixed:
    """a, κ, and the cross-entropies (n,) of a z + κ s."""

    layer: float
    scores: float
    losses: Array


def _stacked(z: Array, scores: Array, labels: Array) -> _Mixed:
    """Return the weights a and κ, none below 0, of least mean cross-entropy of a z + κ s; convex."""
    if not np.isfinite(scores).all():
        return _Mixed(1.0, 0.0, cross_entropies(z, labels))
    rows = np.arange(len(z))

    def loss(x: Array) -> tuple[float, Array]:
        mixed = x[0] * z + x[1] * scores
        wrong = softmax(mixed, axis=1)
        wrong[rows, labels] -= 1
        slope = np.array([np.vdot(wrong, z), np.vdot(wrong, scores)]) / len(z)
        return float(cross_entropies(mixed, labels).mean()), slope

    a, k = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, 1e4)] * 2).x
    return _Mixed(float(a), float(k), cross_entropies(a * z + k * scores, labels))
