"""Part "trust": simulated metrics of an original and of nested candidates, and whether a gate certifies them.

A candidate of severity f changes the samples of all milder ones, and more: its true drop is f times that of severity 1,
which is the drop that is allowed. A balanced candidate changes as many samples and loses nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks import workbench as wb
from benchmarks.workbench import MAX_DROP
from onnx_lowrank import Gate

ALPHA = Gate().alpha
METRIC = wb.Custom(lambda *_: 0.0, "a metric of the set")
"""Only its direction counts: higher is better."""
PRIORS = 0.5 ** np.arange(6)
PRIORS = PRIORS / PRIORS.sum()
"""Of the classes of macro-F1: the rarest has 1.6 % of the samples."""
ACCURACY, CORRELATION = 0.85, 0.9
TENTH, TREMBLE = 0.1, 0.02
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Repetition:
    """One simulated validation set: whether a severity is certified, and the drop observed at severity 1."""

    holds: Callable[[float], bool]
    observed: float


Rng, Repetitions = np.random.Generator, Iterator[Repetition]


class Kind:
    """A metric with a way to simulate it; `repetitions` of a cell."""

    name: str
    repetitions: int

    def allowed(self, changed: float) -> float:
        """Return the drop that is allowed where a share of the samples is `changed`: the true one of severity 1.

        .01, and half of the changed samples where these are few: no drop is larger than what changes.
        """
        return min(MAX_DROP, changed / 2)

    def simulated(self, rng: Rng, changed: float, n: int, count: int, *, balanced: bool) -> Repetitions:
        """Yield `count` repetitions on n samples each."""
        raise NotImplementedError

    def best(self, changed: float, n: int, deviation: float) -> float:
        """Return the power, at a drop of 0, of the z test that knows the observed drop's `deviation`."""
        return float(stats.norm.cdf(self.allowed(changed) / deviation - stats.norm.ppf(1 - ALPHA)))


@dataclass(frozen=True, slots=True)
class RightOrWrong(Kind):
    """Values of 0 and 1: the exact paired test."""

    name: str = "right or wrong"
    repetitions: int = 20_000

    def shares(self, changed: float, *, balanced: bool) -> tuple[float, float]:
        drop = 0.0 if balanced else self.allowed(changed)
        return (changed + drop) / 2, (changed - drop) / 2

    def simulated(self, rng: Rng, changed: float, n: int, count: int, *, balanced: bool) -> Repetitions:
        (lost, gained), allowed = self.shares(changed, balanced=balanced), self.allowed(changed)
        for b, c, _ in rng.multinomial(n, [lost, gained, 1 - changed], size=count):
            at = rng.random(b), rng.random(c)  # the severity from which on a sample is changed

            def holds(f: float, at: tuple[Array, Array] = at) -> bool:
                return certified(int((at[0] <= f).sum()), int((at[1] <= f).sum()), n, allowed)

            yield Repetition(holds, (b - c) / n)

    def best(self, changed: float, n: int, deviation: float) -> float:
        """Return the power of the likelihood-ratio test that knows how many samples change, randomised to its level."""
        null, other = self.shares(changed, balanced=False), self.shares(changed, balanced=True)
        counts = np.arange(int(stats.binom.ppf(1 - 1e-12, n, max(*null, *other))) + 2)
        b, c = np.meshgrid(counts, counts, indexing="ij")
        ratio = b * math.log(other[0] / null[0]) + c * math.log(other[1] / null[1])
        order = np.argsort(-ratio, axis=None)
        chances = (stats.binom.pmf(b + c, n, p + q) * stats.binom.pmf(b, b + c, p / (p + q)) for p, q in (null, other))
        size, power = (np.concatenate([[0.0], np.cumsum(each.ravel()[order])]) for each in chances)
        return float(np.interp(ALPHA, size, power))


@functools.cache
def certified(lost: int, gained: int, n: int, allowed: float) -> bool:
    """Return whether n pairs certify that less than is allowed is lost; few counts come up, over and over."""
    return wb.difference_p_value(lost, gained, n, allowed) <= ALPHA


@dataclass(frozen=True, slots=True)
class Bounded(Kind):
    """Values in [0, 1], whose drops are in [−1, 1]: the bet.

    sparse: of the samples that change a few lose everything, and the others gain TENTH; otherwise what changes is
    spread over [−1, 1], and all samples tremble.
    """

    name: str
    sparse: bool
    repetitions: int = 10_000

    def simulated(self, rng: Rng, changed: float, n: int, count: int, *, balanced: bool) -> Repetitions:
        allowed = self.allowed(changed)
        for _ in range(count):
            at = rng.random(n) / changed
            drops = self._drops(rng, 0.0 if balanced else allowed / changed, n)
            rest = np.zeros(n) if self.sparse else rng.uniform(-TREMBLE, TREMBLE, n)

            def holds(f: float, at: Array = at, drops: Array = drops, rest: Array = rest) -> bool:
                return wb.beaten((np.where(at <= f, drops, rest) + 1) / 2, np.ones(n), (allowed + 1) / 2, ALPHA)

            yield Repetition(holds, float(np.where(at <= 1, drops, rest).mean()))

    def _drops(self, rng: Rng, mean: float, n: int) -> Array:
        if self.sparse:
            return np.where(rng.random(n) < (mean + TENTH) / (1 + TENTH), 1.0, -TENTH)
        return 2 * rng.beta(2 * (1 + mean), 2 * (1 - mean), n) - 1


@functools.lru_cache(maxsize=4)
def draws_of(n: int) -> Array:
    """Return (1 + resamples, n): how often each sample is drawn; the first row is the set itself.

    Bounds of a metric of the whole set come from the product with its own resamples; these are drawn once, so that the
    metric of all of them is a sum over a matrix of counts.
    """
    counts = [np.bincount(indices, minlength=n) for indices in wb.resamples(n, wb.RESAMPLES, 0)]
    return np.concatenate([np.ones((1, n)), np.array(counts)])


def macro_f1(counts: Array, labels: Array, predicted: Array) -> Array:
    """Return (draws,) values of macro-F1, for (draws, n) counts; a class that is nowhere has an F1 of 0."""
    classes = np.arange(len(PRIORS))
    actual, given = labels[:, None] == classes, predicted[:, None] == classes
    sums = counts @ np.concatenate([actual & given, actual, given], axis=1).astype(counts.dtype)
    right, there, said = np.split(sums, 3, axis=1)
    return np.asarray((2 * right / np.maximum(there + said, 1)).mean(axis=1))


def correlation(counts: Array, x: Array, y: Array) -> Array:
    """Return (draws,) correlations of x and y, for (draws, n) counts."""
    sums = counts @ np.stack([x, y, x * y, x * x, y * y], axis=1) / counts.sum(axis=1, keepdims=True)
    mx, my, mxy, mxx, myy = sums.T
    return np.asarray((mxy - mx * my) / np.sqrt((mxx - mx**2) * (myy - my**2)))


def _of_set(original: Array, values: Callable[[float], Array], n: int, allowed: float) -> Repetition:
    """Return a repetition by the gate on a metric of the set: (1 + resamples,) values, the set's own first."""
    first = values(1.0)

    def holds(f: float) -> bool:
        candidate = first if f == 1.0 else values(f)
        sides = (wb.Measured(float(each[0]), n, each[1:]) for each in (original, candidate))
        return wb.bound_of(METRIC, *sides, Gate(max_drop=allowed), allowed, seed=0).value <= allowed

    return Repetition(holds, float(original[0] - first[0]))


@dataclass(frozen=True, slots=True)
class MacroF1(Kind):
    """Six classes of falling size; what is wrong is any of the other classes."""

    name: str = "macro-F1"
    repetitions: int = 4_000

    def true(self, accuracy: float) -> float:
        """Return macro-F1 of infinitely many samples of which so many are right."""
        given = PRIORS * accuracy + (1 - PRIORS) * (1 - accuracy) / (len(PRIORS) - 1)
        return float((2 * PRIORS * accuracy / (PRIORS + given)).mean())

    def allowed(self, changed: float) -> float:
        return self.true(ACCURACY) - self.true(ACCURACY - min(MAX_DROP, changed / 2))

    def simulated(self, rng: Rng, changed: float, n: int, count: int, *, balanced: bool) -> Repetitions:
        counts, allowed = draws_of(n), self.allowed(changed)
        drop = 0.0 if balanced else min(MAX_DROP, changed / 2)
        rates = (changed + drop) / 2 / ACCURACY, (changed - drop) / 2 / (1 - ACCURACY)
        for _ in range(count):
            labels = rng.choice(len(PRIORS), n, p=PRIORS)
            other = (labels + rng.integers(1, len(PRIORS), n)) % len(PRIORS)
            right = rng.random(n) < ACCURACY
            at = rng.random(n) / np.where(right, *rates)

            def values(
                f: float, labels: Array = labels, other: Array = other, right: Array = right, at: Array = at
            ) -> Array:
                return macro_f1(counts, labels, np.where(right ^ (at <= f), labels, other))

            yield _of_set(values(0.0), values, n, allowed)


@dataclass(frozen=True, slots=True)
class Correlation(Kind):
    """Pearson's correlation of scores and truth, .9 at first.

    sparse: the scores of a share of the samples become chance; otherwise all scores move, by this share of their
    variance.
    """

    name: str
    sparse: bool
    repetitions: int = 4_000

    def allowed(self, changed: float) -> float:
        return CORRELATION * (changed if self.sparse else 1 - 1 / math.sqrt(1 + changed))

    def simulated(self, rng: Rng, changed: float, n: int, count: int, *, balanced: bool) -> Repetitions:
        counts, allowed, rest = draws_of(n), self.allowed(changed), math.sqrt(1 - CORRELATION**2)
        turn = 1 - changed / (2 * rest**2)
        for _ in range(count):
            y, noise, fresh = rng.normal(size=(3, n))
            x, at = CORRELATION * y + rest * noise, rng.random(n) / changed

            def values(
                f: float, y: Array = y, noise: Array = noise, fresh: Array = fresh, x: Array = x, at: Array = at
            ) -> Array:
                if self.sparse:
                    moved = np.where(at <= f, CORRELATION * y + rest * fresh if balanced else fresh, x)
                elif balanced:
                    moved = CORRELATION * y + rest * (turn * noise + math.sqrt(1 - turn**2) * fresh)
                else:
                    moved = x + math.sqrt(f * changed) * fresh
                return correlation(counts, moved, y)

            yield _of_set(correlation(counts, x, y), values, n, allowed)


KINDS: tuple[Kind, ...] = (
    RightOrWrong(),
    Bounded("bounded, spread", sparse=False),
    Bounded("bounded, rare losses", sparse=True),
    MacroF1(),
    Correlation("correlation, all scores move", sparse=False),
    Correlation("correlation, rare losses", sparse=True),
)
