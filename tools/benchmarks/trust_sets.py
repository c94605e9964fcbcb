"""Part "trust": simulated metrics of a whole set, macro-F1 and Pearson's correlation, of nested candidates.

Bounds come from the product (`bound_of`) with its own resamples; these are drawn once, as sums over a matrix of counts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.trust_kinds import Repetition, allowed_drop, known_spread
from onnx_lowrank.metrics import Measured, bound_of
from onnx_lowrank.metrics.custom import Custom
from onnx_lowrank.options import Gate
from onnx_lowrank.statistics import RESAMPLES, resamples

Array = NDArray[Any]
METRIC = Custom(lambda *_: 0.0, "a metric of the set")
"""Only its direction counts: higher is better."""
ALL = "all"
PRIORS = 0.5 ** np.arange(6)
PRIORS = PRIORS / PRIORS.sum()
"""Of the classes of macro-F1: the rarest has 1.6 % of the samples."""
ACCURACY = 0.85
CORRELATION = 0.9


@functools.lru_cache(maxsize=4)
def draws_of(n: int) -> Array:
    """Return (1 + resamples, n): how often each sample is drawn; the first row is the set itself."""
    counts = [np.bincount(indices, minlength=n) for indices in resamples(n, RESAMPLES, 0)]
    return np.concatenate([np.ones((1, n)), np.array(counts)])


def certified(original: Array, candidate: Array, n: int, allowed: float) -> bool:
    """Return whether the gate passes. Both: (1 + resamples,) values of the metric, that of the set itself first."""
    first, second = (Measured(float(values[0]), n, values[1:]) for values in (original, candidate))
    return bound_of(METRIC, first, second, Gate(max_drop=allowed), allowed, seed=0).value <= allowed


def macro_f1(counts: Array, labels: Array, predicted: Array) -> Array:
    """Return (draws,) values of macro-F1, for (draws, n) counts; a class that is nowhere has an F1 of 0."""
    classes = np.arange(len(PRIORS))
    actual, said = labels[:, None] == classes, predicted[:, None] == classes
    sums = counts @ np.concatenate([actual & said, actual, said], axis=1).astype(counts.dtype)
    right, there, given = np.split(sums, 3, axis=1)
    result: Array = (2 * right / np.maximum(there + given, 1)).mean(axis=1)
    return result


def correlation(counts: Array, x: Array, y: Array) -> Array:
    """Return (draws,) correlations of x and y, for (draws, n) counts."""
    sums = counts @ np.stack([x, y, x * y, x * x, y * y], axis=1) / counts.sum(axis=1, keepdims=True)
    mx, my, mxy, mxx, myy = sums.T
    result: Array = (mxy - mx * my) / np.sqrt((mxx - mx**2) * (myy - my**2))
    return result


@dataclass(frozen=True, slots=True)
class MacroF1:
    """Six classes of falling size; what is wrong is any of the other classes."""

    name: str = "macro-F1"
    repetitions: int = 4_000

    def true(self, accuracy: float) -> float:
        """Return macro-F1 of infinitely many samples of which so many are right."""
        wrong = (1 - accuracy) / (len(PRIORS) - 1)
        given = PRIORS * accuracy + (1 - PRIORS) * wrong
        return float((2 * PRIORS * accuracy / (PRIORS + given)).mean())

    def allowed(self, changed: float) -> float:
        """Return the drop allowed: that of losing `allowed_drop` of the samples."""
        return self.true(ACCURACY) - self.true(ACCURACY - allowed_drop(changed))

    def simulated(
        self, rng: np.random.Generator, changed: float, n: int, count: int, *, balanced: bool
    ) -> Iterator[Repetition]:
        """Yield repetitions."""
        counts, allowed = draws_of(n), self.allowed(changed)
        drop = 0.0 if balanced else allowed_drop(changed)
        rates = (changed + drop) / 2 / ACCURACY, (changed - drop) / 2 / (1 - ACCURACY)
        for _ in range(count):
            labels = rng.choice(len(PRIORS), n, p=PRIORS)
            other = (labels + rng.integers(1, len(PRIORS), n)) % len(PRIORS)
            right = rng.random(n) < ACCURACY
            at = rng.random(n) / np.where(right, *rates)
            original = macro_f1(counts, labels, np.where(right, labels, other))

            def values(
                f: float, labels: Array = labels, other: Array = other, right: Array = right, at: Array = at
            ) -> Array:
                return macro_f1(counts, labels, np.where(right ^ (at <= f), labels, other))

            yield _repetition(original, values, n, allowed)

    def best(self, changed: float, n: int, deviation: float) -> float:
        """Return the power of the z test that knows the standard deviation."""
        return known_spread(self.allowed(changed), deviation)


@dataclass(frozen=True, slots=True)
class Correlation:
    """Pearson's correlation of scores and truth, .9 at first.

    sparse: the scores of a share of the samples become chance; otherwise all scores move, by this share of their
    variance.
    """

    name: str
    sparse: bool
    repetitions: int = 4_000

    def allowed(self, changed: float) -> float:
        """Return the drop allowed: the true one of severity 1."""
        return CORRELATION * (changed if self.sparse else 1 - 1 / math.sqrt(1 + changed))

    def simulated(
        self, rng: np.random.Generator, changed: float, n: int, count: int, *, balanced: bool
    ) -> Iterator[Repetition]:
        """Yield repetitions."""
        counts, allowed, rest = draws_of(n), self.allowed(changed), math.sqrt(1 - CORRELATION**2)
        turn = 1 - changed / (2 * rest**2)
        for _ in range(count):
            y, noise, fresh = rng.normal(size=(3, n))
            x, at = CORRELATION * y + rest * noise, rng.random(n) / changed

            def moved(
                f: float, y: Array = y, noise: Array = noise, fresh: Array = fresh, x: Array = x, at: Array = at
            ) -> Array:
                if self.sparse:
                    return np.where(at <= f, CORRELATION * y + rest * fresh if balanced else fresh, x)
                if balanced:
                    return CORRELATION * y + rest * (turn * noise + math.sqrt(1 - turn**2) * fresh)
                return x + math.sqrt(f * changed) * fresh

            original = correlation(counts, x, y)
            yield _repetition(original, lambda f, y=y, moved=moved: correlation(counts, moved(f), y), n, allowed)

    def best(self, changed: float, n: int, deviation: float) -> float:
        """Return the power of the z test that knows the standard deviation."""
        return known_spread(self.allowed(changed), deviation)


def _repetition(original: Array, values: Any, n: int, allowed: float) -> Repetition:
    """Return a repetition whose candidate of severity f has `values(f)`."""
    first = values(1.0)
    return Repetition(
        lambda f: certified(original, first if f == 1.0 else values(f), n, allowed), float(original[0] - first[0])
    )
