"""Temperature and bias of logits, fitted to labels: softmax(z / T + b) (docs/method.md, section 5.1).

The cross-entropy is convex in (1 / T, b), so what is found does not hang on where the search starts. Temperature alone
is Guo et al., arXiv 1706.04599; it changes no decision. The bias is drawn to 0 by a ridge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from onnx_lowrank.types import Array

FOLDS = 5
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths ρ of ρ ‖b‖² / 2 beside the mean cross-entropy: with 1e-2 a bias of 1 nat in ten classes weighs .05 nats."""
LARGEST = 100.0
"""Bound of T and of 1 / T: where all labels are met, or none, no finite temperature is best."""


@dataclass(frozen=True, slots=True, eq=False)
class LogitFit:
    """z' = z / temperature + bias. bias: (classes,) nats, sum 0; None: none.

    gain: mean nats that the cross-entropy falls on samples that were not fitted on, cross-validated; 0 for the logits
    as they are, never less. It is that of one of few ridges, so a little optimistic. ridge: that of the bias.
    """

    temperature: float = 1.0
    bias: Array | None = None
    gain: float = 0.0
    ridge: float = math.inf

    @property
    def changes(self) -> bool:
        """Whether it is anything but the logits as they are."""
        return self.temperature != 1 or self.bias is not None

    def on(self, logits: Array) -> Array:
        """Return z', (n, classes) float64."""
        scaled = np.asarray(logits, np.float64) / self.temperature
        return scaled if self.bias is None else scaled + self.bias


def cross_entropies(logits: Array, labels: Array) -> Array:
    """Return (n,) nats, −log softmax at the label; logits (n, classes), labels (n,) class numbers."""
    values: Array = -np.take_along_axis(log_softmax(logits, axis=1), labels[:, None], axis=1)[:, 0]
    return values


def fit_logits(
    logits: Array,
    labels: Array,
    *,
    temperature: bool,
    bias: bool,
    groups: Array | None = None,
    ridges: Sequence[float] = RIDGES,
) -> LogitFit:
    """Return the temperature, the bias or both, of least cross-entropy on logits (n, classes) and labels (n,).

    groups: (n,) numbers, equal for rows that go to one fold; None: each by itself. Of nothing, temperature alone and
    biases of falling ridge the first is taken that is within a standard error of the best, cross-validated; where there
    are too few groups to leave any out, nothing. Raises ValueError for logits that are not finite.
    """
    z = np.asarray(logits, np.float64)
    if not np.isfinite(z).all():
        raise ValueError("logits that are not finite cannot be fitted")
    folds = _folds(np.arange(len(z)) if groups is None else groups)
    if len(np.unique(folds)) < 2 or not (temperature or bias):
        return LogitFit()
    tried = [math.inf] if temperature else []
    tried += sorted(ridges, reverse=True) if bias else []
    losses = [cross_entropies(z, labels), *(_left_out(z, labels, folds, temperature, ridge) for ridge in tried)]
    best = min(losses, key=lambda values: float(values.mean()))
    gains = [float(np.mean(losses[0] - values)) for values in losses]
    for ridge, values, gain in zip(tried, losses[1:], gains[1:], strict=True):
        if clearly_more(losses[0], best, groups) and gain > 0 and not clearly_more(values, best, groups):
            return LogitFit(*_fit(z, labels, temperature, ridge), gain, ridge)
    return LogitFit()


def clearly_more(losses: Array, best: Array, groups: Array | None) -> bool:
    """Return whether losses (n,) are larger in the mean by more than one standard error of the difference.

    Of what is not, the simplest is taken (Breiman et al., Classification and Regression Trees, 1984). Groups count
    once.
    """
    apart = losses - best
    around = apart - apart.mean()
    if groups is not None:
        around = np.bincount(np.unique(groups, return_inverse=True)[1].reshape(-1), around)
    if len(around) < 2:
        return False
    error = math.sqrt(len(around) / (len(around) - 1) * float(around @ around)) / len(apart)
    return float(apart.mean()) > error


def _folds(groups: Array) -> Array:
    """Return (n,) fold numbers: groups are dealt in turns, in the order in which they come."""
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    turn = np.empty(len(first), np.int64)
    turn[np.argsort(first)] = np.arange(len(first)) % FOLDS
    folds: Array = turn[place.reshape(-1)]
    return folds


def _left_out(z: Array, labels: Array, folds: Array, temperature: bool, ridge: float) -> Array:
    """Return (n,) cross-entropies, each with what was fitted without the row's fold."""
    values = np.empty(len(z))
    for fold in np.unique(folds):
        out = folds == fold
        T, b = _fit(z[~out], labels[~out], temperature, ridge)
        values[out] = cross_entropies(LogitFit(T, b).on(z[out]), labels[out])
    return values


def _fit(z: Array, labels: Array, temperature: bool, ridge: float) -> tuple[float, Array | None]:
    """Return T and b; an infinite ridge is no bias. Both by L-BFGS-B with the exact gradient, from T = 1 and b = 0."""
    count, classes = z.shape
    biased = math.isfinite(ridge)
    unit = float(np.abs(z - z.mean(axis=1, keepdims=True)).mean()) or 1.0  # logits of any scale start alike
    z = z / unit
    own = np.take_along_axis(z, labels[:, None], axis=1)[:, 0].mean()
    shares = np.bincount(labels, minlength=classes) / count

    def loss(x: Array) -> tuple[float, Array]:
        b = x[1:] if biased else np.zeros(classes)
        scaled = x[0] * z + b
        p = softmax(scaled, axis=1)
        value = cross_entropies(scaled, labels).mean()
        slope = [np.vdot(p, z) / count - own if temperature else 0.0]
        if not biased:
            return float(value), np.array(slope)
        return float(value + ridge * b @ b / 2), np.concatenate([slope, p.mean(axis=0) - shares + ridge * b])

    start = np.zeros(1 + (classes if biased else 0))
    start[0] = unit
    bound = (unit / LARGEST, unit * LARGEST) if temperature else (unit, unit)
    bounds = [bound, *[(None, None)] * (len(start) - 1)]
    x = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-9}).x
    return unit / float(x[0]), (x[1:] - x[1:].mean() if biased else None)
