"""Part "trust": simulated values a sample, right-or-wrong and bounded, of an original and of nested candidates.

A candidate of severity f changes the samples of all milder ones, and more: its true drop is f times that of severity 1,
which is the drop that is allowed. A balanced candidate changes as many and loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from onnx_lowrank.options import MAX_DROP, Gate
from onnx_lowrank.statistics import difference_p_value
from onnx_lowrank.statistics.betting import beaten

ALPHA = Gate().alpha
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Repetition:
    """One simulated validation set: whether a severity is certified, and the drop observed at severity 1."""

    holds: Callable[[float], bool]
    observed: float


class Kind(Protocol):
    """A metric with a way to simulate it."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    @property
    def repetitions(self) -> int:
        """How many are simulated of a cell."""
        ...

    def allowed(self, changed: float) -> float:
        """Return the drop that is allowed where a share of the samples is `changed`: the true one of severity 1."""
        ...

    def simulated(
        self, rng: np.random.Generator, changed: float, n: int, count: int, *, balanced: bool
    ) -> Iterator[Repetition]:
        """Yield `count` repetitions on n samples each."""
        ...

    def best(self, changed: float, n: int, deviation: float) -> float:
        """Return the power of the best test at a drop of 0; `deviation`: of the observed drop, over repetitions."""
        ...


def allowed_drop(changed: float) -> float:
    """Return .01, and half of the changed samples where these are few: no drop is larger than what changes."""
    return min(MAX_DROP, changed / 2)


def known_spread(allowed: float, deviation: float) -> float:
    """Return the power, at a drop of 0, of the z test that knows the standard deviation."""
    return float(stats.norm.cdf(allowed / deviation - stats.norm.ppf(1 - ALPHA)))


@dataclass(frozen=True, slots=True)
class RightOrWrong:
    """Values of 0 and 1: the exact paired test."""

    name: str = "right or wrong"
    repetitions: int = 20_000

    def allowed(self, changed: float) -> float:
        """Return the drop allowed."""
        return allowed_drop(changed)

    def shares(self, changed: float, *, balanced: bool) -> tuple[float, float]:
        """Return P(lost) and P(gained)."""
        drop = 0.0 if balanced else self.allowed(changed)
        return (changed + drop) / 2, (changed - drop) / 2

    def simulated(
        self, rng: np.random.Generator, changed: float, n: int, count: int, *, balanced: bool
    ) -> Iterator[Repetition]:
        """Yield repetitions."""
        lost, gained = self.shares(changed, balanced=balanced)
        tested = Tested(n, self.allowed(changed))
        for b, c, _ in rng.multinomial(n, [lost, gained, 1 - changed], size=count):
            at = rng.random(b), rng.random(c)  # the severity from which on a sample is changed
            yield Repetition(
                lambda f, at=at: tested.holds(int((at[0] <= f).sum()), int((at[1] <= f).sum())), (b - c) / n
            )

    def best(self, changed: float, n: int, deviation: float) -> float:
        """Return the power of the likelihood-ratio test that knows how many samples change, randomised to its level."""
        null, other = self.shares(changed, balanced=False), self.shares(changed, balanced=True)
        counts = np.arange(int(stats.binom.ppf(1 - 1e-12, n, max(*null, *other))) + 2)
        b, c = np.meshgrid(counts, counts, indexing="ij")
        under_null, under_other = (_trinomial(b, c, n, *shares) for shares in (null, other))
        ratio = b * math.log(other[0] / null[0]) + c * math.log(other[1] / null[1])
        order = np.argsort(-ratio, axis=None)
        size, power = np.cumsum(under_null.ravel()[order]), np.cumsum(under_other.ravel()[order])
        return float(np.interp(ALPHA, np.concatenate([[0.0], size]), np.concatenate([[0.0], power])))


def _trinomial(lost: Array, gained: Array, n: int, p: float, q: float) -> Array:
    """Return the probability of (lost, gained) pairs of n: first all that differ, then the lost among them."""
    either = lost + gained
    return np.asarray(stats.binom.pmf(either, n, p + q) * stats.binom.pmf(lost, either, p / (p + q)))


class Tested:
    """Whether pairs are certified: the product's p-value, which is computed for no more pairs than must be.

    With as many gained, what is certified stays so with fewer lost (checked in the tests).
    """

    def __init__(self, n: int, allowed: float) -> None:
        self.n, self.allowed = n, allowed
        self._most: dict[int, int] = {}
        self._least: dict[int, int] = {}

    def holds(self, lost: int, gained: int) -> bool:
        """Return whether the drop is certified to be below what is allowed."""
        if lost <= self._most.get(gained, -1):
            return True
        if lost >= self._least.get(gained, self.n + 1):
            return False
        holds = difference_p_value(lost, gained, self.n, self.allowed) <= ALPHA
        (self._most if holds else self._least)[gained] = lost
        return holds


@dataclass(frozen=True, slots=True)
class Bounded:
    """Values in [0, 1], whose drops are in [−1, 1]: the bet.

    sparse: of the samples that change a few lose everything, and the others gain TENTH; otherwise what changes is
    spread over [−1, 1], and all samples tremble.
    """

    name: str
    sparse: bool
    repetitions: int = 10_000

    def allowed(self, changed: float) -> float:
        """Return the drop allowed."""
        return allowed_drop(changed)

    def simulated(
        self, rng: np.random.Generator, changed: float, n: int, count: int, *, balanced: bool
    ) -> Iterator[Repetition]:
        """Yield repetitions."""
        allowed = self.allowed(changed)
        for _ in range(count):
            at = rng.random(n) / changed
            drops = self._drops(rng, 0.0 if balanced else allowed / changed, n)
            rest = np.zeros(n) if self.sparse else rng.uniform(-TREMBLE, TREMBLE, n)

            def holds(f: float, at: Array = at, drops: Array = drops, rest: Array = rest) -> bool:
                values = np.where(at <= f, drops, rest)
                return beaten((values + 1) / 2, np.ones(n), (allowed + 1) / 2, ALPHA)

            yield Repetition(holds, float(np.where(at <= 1, drops, rest).mean()))

    def _drops(self, rng: np.random.Generator, mean: float, n: int) -> Array:
        """Return what samples lose where they change."""
        if self.sparse:
            return np.where(rng.random(n) < (mean + TENTH) / (1 + TENTH), 1.0, -TENTH)
        return 2 * rng.beta(2 * (1 + mean), 2 * (1 - mean), n) - 1

    def best(self, changed: float, n: int, deviation: float) -> float:
        """Return the power of the z test that knows the standard deviation."""
        return known_spread(self.allowed(changed), deviation)


TENTH, TREMBLE = 0.1, 0.02
