"""The most accurate of many models by few runs: parts of a set that grow, and fewer models on each.

Choosing the best of many by the same samples is optimistic: what is chosen here is claimed on other samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from onnx_lowrank.metrics import drop_of
from onnx_lowrank.metrics.estimate import worse_and_better
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.validation.judge import Judge

KEPT = 1 / 3
"""The share of the models that goes on to the next part, at most."""
FEWEST, SAFEST = 8, 3
"""Models that go on in any case, if there are as many: those that may gain most, and those that are safest."""
SAFE = 3.0
"""Standard errors by which the plan is chosen that is to hold in any case: it changes little."""
TWO_SIDED = 0.6826894921370859
"""The level of an interval of one standard error on both sides."""

P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much a model is better than the original: a sum over so many samples; squares: of what each gains.

    span: what a sample that nobody saw may do: as if there were one more. Of a metric that is one number for the set
    the sums are those that give its value and its standard error.
    """

    total: float
    squares: float
    samples: int
    span: float = 0.0

    @property
    def gain(self) -> float:
        """The mean gain; −inf where outputs are not finite."""
        return self.total / self.samples

    @property
    def error(self) -> float:
        """The standard error of the gain."""
        if not math.isfinite(self.total):
            return 0.0
        return math.sqrt(max(self.squares - self.total**2 / self.samples, 0.0) + self.span**2) / self.samples

    def sure(self, errors: float = 1.0) -> float:
        """Return the gain less so many standard errors: what is chosen by, so that luck does not win."""
        return self.gain - errors * self.error

    @staticmethod
    def of(judge: Judge, candidate: Runner) -> Gain:
        """Return what a candidate gains on a judge's samples."""
        first, second = judge.baseline().measured, judge.compared(candidate).measured
        count = len(judge.reference.feeds)
        if (
            isinstance(first.values, float)
            or isinstance(second.values, float)
            or first.known
            or first.groups is not None
        ):
            drop = drop_of(judge.metric, first, second, TWO_SIDED, relative=False)
            error = drop.width / 2
            if not (math.isfinite(drop.estimate) and math.isfinite(error)):
                return Gain(-math.inf, 0.0, count)
            return Gain(-drop.estimate * count, drop.estimate**2 * count + (error * count) ** 2, count)
        worse, better = worse_and_better(judge.metric, first, second)
        apart = np.asarray(better - worse, np.float64)
        if not np.isfinite(apart).all():
            return Gain(-math.inf, 0.0, count)
        return Gain(float(apart.sum()), float((apart**2).sum()), count, float(np.abs(apart).max(initial=0.0)) or 1.0)

    @staticmethod
    def pooled(parts: Sequence[Gain]) -> Gain:
        """Return the gain on all parts together."""
        total, squares = (math.fsum(getattr(part, name) for part in parts) for name in ("total", "squares"))
        return Gain(total, squares, sum(part.samples for part in parts), max(part.span for part in parts))


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a model came: its gain on the largest part it ran on; folds: on every fold, where it came to the end."""

    gain: Gain
    folds: tuple[Gain, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Race(Generic[P, T]):
    """stages: parts of the set that grow. folds: disjoint parts of the whole set, for the last models.

    measure: (parts, model) -> what it gains on each.
    """

    stages: Sequence[P]
    folds: Sequence[P]
    measure: Callable[[Sequence[P], T], Sequence[Gain]]

    def run(self, models: Sequence[T], advance: Callable[[int], None] = lambda n: None) -> list[Standing]:
        """Return how far every model came. `advance` gets how many are out, or at the end."""
        standings: dict[int, Standing] = {}
        left = list(range(len(models)))
        for stage in self.stages:
            if len(left) <= FEWEST:
                break
            for index in left:
                standings[index] = Standing(self.measure([stage], models[index])[0])
            before, left = left, _going_on(left, standings)
            advance(len(before) - len(left))
        finals = self.finals([models[index] for index in left], advance)
        standings |= dict(zip(left, finals, strict=True))
        return [standings[index] for index in range(len(models))]

    def finals(self, models: Sequence[T], advance: Callable[[int], None] = lambda n: None) -> list[Standing]:
        """Return what models gain on every fold, that is on all samples."""
        standings = []
        for model in models:
            folds = tuple(self.measure(self.folds, model))
            standings.append(Standing(Gain.pooled(folds), folds))
            advance(1)
        return standings


def _going_on(left: Sequence[int], standings: dict[int, Standing]) -> list[int]:
    """Return the models that may still be the best: those of the largest gains, none that is clearly worse."""
    ordered = sorted(left, key=lambda index: -standings[index].gain.sure(-1))
    count = max(math.ceil(KEPT * len(ordered)), FEWEST)
    surest = max(standings[index].gain.sure(2) for index in left)
    kept = {i for place, i in enumerate(ordered[:count]) if place < FEWEST or standings[i].gain.sure(-2) >= surest}
    return sorted(kept | set(sorted(left, key=lambda index: -standings[index].gain.sure(SAFE))[:SAFEST]))


def chosen(standings: Sequence[Standing], errors: float = 1.0) -> int:
    """Return the place of the surest gain among the models that came to the end; the first of equals."""
    return max((i for i, s in enumerate(standings) if s.folds), key=lambda i: (standings[i].gain.sure(errors), -i))


def cross_validated(standings: Sequence[Standing]) -> Gain:
    """Return what choosing by all folds but one gains on that one, over all folds: the gain without the luck."""
    last = [s for s in standings if s.folds]
    parts = []
    for fold in range(len(last[0].folds)):
        others = [replace(s, gain=Gain.pooled([g for i, g in enumerate(s.folds) if i != fold])) for s in last]
        parts.append(last[chosen(others)].folds[fold])
    return Gain.pooled(parts)
