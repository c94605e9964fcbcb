"""Plans measured on calibration samples that nothing was fitted on: which to test on validation, in which order.

Nothing here uses a validation sample, so tests there keep their level (plan/sequence.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from onnx_lowrank.metrics import Probing, listed
from onnx_lowrank.metrics.estimate import worse_and_better
from onnx_lowrank.plan.sequence import AROUND, MILD, candidates, interpolated, undominated, without_gaps
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Plan
from onnx_lowrank.validation import Judge
from onnx_lowrank.validation.looks import EARLY, FAR

SCREENS, CLOSE = 7, 0.06
"""Plans measured on the way to where the answer is expected, by bisection; how close plans are there, by cost."""
NET = 0.15
"""Of the decisions that change, the share by which more are lost than gained: typical of trained classifiers."""
PRIOR = 20.0
"""Changed decisions that this typical share weighs as much as, where bits are chosen: of two that were seen to change
both may be lost, and that says little."""
SURPRISE = 1 / 16
"""The first plan has to be milder than this share of the expected divergence, by measurement."""
FARTHEST = 1e6
"""The largest divergence of a sample that is counted, so that means stay finite."""


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

    judge: of the run's own metric, or (`labelled` False) of one that needs no labels where these have none. keep: gives
    a plan's measurement, made now or in an earlier run.
    """

    judge: Judge
    divergence: Probing
    runner_of: Callable[[Plan], Runner]
    labelled: bool
    keep: Callable[[Plan, Callable[[], Screened]], Screened] = lambda plan, make: make()
    known: dict[object, Screened] = field(default_factory=dict)

    def measure(self, plan: Plan) -> Screened:
        """Return a plan's measurement on the samples, made once."""
        if plan.choices not in self.known:
            self.known[plan.choices] = self.keep(plan, lambda: self._measured(self.runner_of(plan)))
        return self.known[plan.choices]

    def _measured(self, candidate: Runner) -> Screened:
        values: list[Array] = []
        base = self.judge.baseline()
        comparison = self.judge.compared(
            candidate, watch=lambda a, b: values.append(self.divergence.values(listed(a), listed(b)))
        )
        changed = None if comparison.agreement is None else float(np.mean(comparison.agreement < 1))
        drops = None
        if (
            self.labelled
            and not isinstance(comparison.measured.values, float)
            and not isinstance(base.measured.values, float)
        ):
            worse, better = worse_and_better(self.judge.metric, base.measured, comparison.measured)
            drops = worse - better
        divergences = np.minimum(np.concatenate(values), FARTHEST)  # inf where a candidate is not finite
        return Screened(len(divergences), float(np.mean(divergences)), changed, drops)


def expected_bounds(screened: Sequence[Screened], n: int, alpha: float, prior: float = 0.0) -> list[float]:
    """Return, for every plan screened, the bound of its drop that `n` validation samples may be expected to certify.

    Decisions change as √divergence: the few changes seen are pooled over all plans by that law, and one more is added,
    for none seen is not none. Where there are no decisions, the drops themselves are taken. prior: changed decisions
    that the typical share of lost ones counts for, besides those that were seen.
    """
    roots = [math.sqrt(max(plan.divergence, 0.0)) for plan in screened]
    z = float(stats.norm.ppf(1 - alpha))
    changed = [plan.changed for plan in screened]
    if all(share is not None for share in changed) and any(roots):
        one_more = 1 / max(plan.samples for plan in screened)
        rate = (sum(share for share in changed if share is not None) + one_more) / sum(roots)
        lost = [float(plan.drops.mean()) for plan in screened if plan.drops is not None]
        net = NET * rate
        if len(lost) == len(screened):
            seen = max(plan.samples * (plan.changed or 0.0) for plan in screened)
            net = (seen * sum(lost) / sum(roots) + prior * net) / (seen + prior) if seen + prior else net
            net = min(max(net, NET * rate), rate)
        least = -math.expm1(math.log(alpha) / n)  # what a plan that changes nothing is certified by
        return [max(net * root + z * math.sqrt(rate * root / n), least) for root in roots]
    return [_bound_of(plan, n, z) for plan in screened]


def _bound_of(plan: Screened, n: int, z: float) -> float:
    if plan.drops is None:
        return plan.divergence
    return float(plan.drops.mean() + z * plan.drops.std() / math.sqrt(n))


@dataclass(frozen=True, slots=True)
class Aim:
    """What a sequence is for: a drop below `allowed`, shown by n samples at alpha; `close`: see `candidates`. dense:
    without gaps in cost (bits are chosen). early: samples of a first look, 0: there is
    none.
    """

    n: int
    alpha: float
    allowed: float
    steps: int
    close: float
    dense: bool = False
    early: int = 0


def sequence_of(
    curve: Sequence[Plan], costs: Sequence[float], screening: Screening | None, aim: Aim, exact: Callable[[Plan], Plan]
) -> list[Plan]:
    """Return the plans to test, mildest first: dense where the answer is expected, none worse than a smaller one.

    `curve`: plans, mildest first, that cost `costs`; `exact`: the best plan of a plan's cost. Without samples held
    back, by predicted losses alone. Those that come long before it, and lose as little, are `mild`.
    """
    losses = [max(plan.loss, 0.0) for plan in curve]
    if screening is None:
        return [exact(curve[i]) for i in candidates(losses, costs, _middle(losses), aim.close)]
    at, screened, expected = _bisected(curve, screening, aim)
    divergences = interpolated(losses, at, [result.divergence for result in screened])
    chosen = candidates(divergences, costs, expected, aim.close)
    while chosen[0] and screening.measure(exact(curve[chosen[0]])).divergence > SURPRISE * divergences[expected]:
        chosen.insert(0, chosen[0] // 2)  # what was predicted to be mild is not
    found = {plan.choices: (plan, costs[i]) for i, plan in ((i, exact(curve[i])) for i in chosen)}
    plans, own = zip(*found.values(), strict=True)
    measured = [screening.measure(plan).divergence for plan in plans]
    picks = undominated(measured, divergences[expected])
    if aim.dense:
        picks = without_gaps(picks, measured, own, divergences[expected])
    least, most = AROUND[0] * costs[expected], MILD[-1] * divergences[expected]
    early = _early([screening.measure(plans[i]) for i in picks], aim)
    return [
        replace(plans[i], mild=own[i] > least and measured[i] <= most, early=soon)
        for i, soon in zip(picks, early, strict=True)
    ]


def _early(screened: Sequence[Screened], aim: Aim) -> list[bool]:
    """Return of which plans a first look may be expected to certify that they lose far less than is allowed."""
    if not aim.early or any(plan.changed is None for plan in screened):
        return [False] * len(screened)
    bounds = expected_bounds(screened, aim.early, EARLY * aim.alpha, PRIOR if aim.dense else 0.0)
    return [bound <= FAR * aim.allowed for bound in bounds]


def _bisected(curve: Sequence[Plan], screening: Screening, aim: Aim) -> tuple[list[int], list[Screened], int]:
    """Return the plans measured on the way to where the answer is expected, and that place."""
    at: list[int] = []
    screened: list[Screened] = []
    low, high = 0, len(curve)
    while low < high and len(at) < aim.steps:
        middle = (low + high) // 2
        at.append(middle)
        screened.append(screening.measure(curve[middle]))
        if expected_bounds(screened, aim.n, aim.alpha, PRIOR if aim.dense else 0.0)[-1] <= aim.allowed:
            low = middle + 1
        else:
            high = middle
    return at, screened, max(low - 1, 0)


def _middle(losses: Sequence[float]) -> int:
    """Return the plan of middle loss, in logarithms: where the answer is expected if nothing is known."""
    positive = [loss for loss in losses if loss > 0]
    if not positive:
        return len(losses) - 1
    middle = float(np.exp(np.mean(np.log(positive))))
    return max(int(np.searchsorted(np.maximum.accumulate(losses), middle, side="right")) - 1, 0)
