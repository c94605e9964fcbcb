"""What calibration samples that nothing was fitted on say of plans: which to test on validation, and in which order.

Nothing here sees a validation sample, so tests there keep their level (plan/sequence.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from onnx_lowrank.metrics import Probing, listed
from onnx_lowrank.metrics.estimate import worse_and_better
from onnx_lowrank.plan.sequence import ROUNDING, interpolated, places
from onnx_lowrank.runtime import Runner
from onnx_lowrank.types import Array, Plan
from onnx_lowrank.validate import Judge

SCREENS = 7
"""Plans that are measured on the way to where the answer is expected: bisection over the curve."""
NET = 0.15
"""Of the decisions that change, the share by which more are lost than gained: typical of trained classifiers."""
SURPRISE = 1 / 16
"""The first plan is to be milder than this share of the expected divergence, by measurement."""
FARTHEST = 1e6
"""What a sample diverges by at most, so that means stay finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Screened:
    """One plan on so many samples held back: mean divergence, share of changed decisions, (n,) drops of the metric."""

    samples: int
    divergence: float
    changed: float | None
    drops: Array | None


@dataclass(slots=True, eq=False)
class Screening:
    """Measures plans on the samples held back. runner_of: a plan -> its model in onnxruntime, after all steps.

    judge: of the run's own metric, or (`labelled` False) of one that needs no labels where these have none.
    """

    judge: Judge
    divergence: Probing
    runner_of: Callable[[Plan], Runner]
    labelled: bool
    known: dict[object, Screened] = field(default_factory=dict)

    def measure(self, plan: Plan) -> Screened:
        """Return what the samples say of a plan, measured once."""
        if plan.choices not in self.known:
            self.known[plan.choices] = self._measured(self.runner_of(plan))
        return self.known[plan.choices]

    def _measured(self, candidate: Runner) -> Screened:
        values: list[Array] = []
        base = self.judge.baseline()
        found = self.judge.compared(
            candidate, watch=lambda a, b: values.append(self.divergence.values(listed(a), listed(b)))
        )
        changed = None if found.agreement is None else float(np.mean(found.agreement < 1))
        drops = None
        if (
            self.labelled
            and not isinstance(found.measured.values, float)
            and not isinstance(base.measured.values, float)
        ):
            worse, better = worse_and_better(self.judge.metric, base.measured, found.measured)
            drops = worse - better
        divergences = np.minimum(np.concatenate(values), FARTHEST)  # inf where a candidate is not finite
        return Screened(len(divergences), float(np.mean(divergences)), changed, drops)


def expected_bounds(found: Sequence[Screened], n: int, alpha: float) -> list[float]:
    """Return, for every plan screened, the bound of its drop that `n` validation samples may be expected to certify.

    Decisions change as √divergence: the few changes seen are pooled over all plans by that law, and one more is added,
    for none seen is not none. Where there are no decisions, the drops themselves are taken.
    """
    roots = [math.sqrt(max(each.divergence, 0.0)) for each in found]
    z = float(stats.norm.ppf(1 - alpha))
    changed = [each.changed for each in found]
    if all(each is not None for each in changed) and any(roots):
        one = 1 / max(each.samples for each in found)
        rate = (sum(each for each in changed if each is not None) + one) / sum(roots)
        lost = [float(each.drops.mean()) for each in found if each.drops is not None]
        net = min(max(sum(lost) / sum(roots), NET * rate), rate) if len(lost) == len(found) else NET * rate
        return [net * root + z * math.sqrt(rate * root / n) for root in roots]
    return [_bound_of(each, n, z) for each in found]


def _bound_of(each: Screened, n: int, z: float) -> float:
    if each.drops is None:
        return each.divergence
    return float(each.drops.mean() + z * each.drops.std() / math.sqrt(n))


def sequence_of(
    curve: Sequence[Plan], screening: Screening | None, n: int, alpha: float, allowed: float, steps: int = SCREENS
) -> list[Plan]:
    """Return the plans of a curve (mildest first) to test on `n` samples, in order: dense where the answer is expected.

    Without samples held back, by predicted losses alone: evenly spread over their logarithm.
    """
    losses = [max(plan.loss, 0.0) for plan in curve]
    if screening is None:
        floor = max(max(losses) * ROUNDING, 1e-30)
        return [curve[i] for i in places([max(loss, floor) for loss in losses], _middle(losses))]
    at: list[int] = []
    found: list[Screened] = []
    low, high = 0, len(curve)
    while low < high and len(at) < steps:
        middle = (low + high) // 2
        at.append(middle)
        found.append(screening.measure(curve[middle]))
        if expected_bounds(found, n, alpha)[-1] <= allowed:
            low = middle + 1
        else:
            high = middle
    divergences = interpolated(losses, at, [each.divergence for each in found])
    expected = divergences[max(low - 1, 0)]
    chosen = places(divergences, expected)
    first = chosen[0]
    while first and screening.measure(curve[first]).divergence > SURPRISE * expected:
        first //= 2  # what was predicted to be mild is not
    return [curve[i] for i in ([first, *chosen] if first < chosen[0] else chosen)]


def _middle(losses: Sequence[float]) -> float:
    positive = [loss for loss in losses if loss > 0]
    return float(np.exp(np.mean(np.log(positive)))) if positive else 1.0
