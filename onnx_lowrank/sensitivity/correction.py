"""Predictions corrected by whole plans: plans of several sizes are measured, and what is wrong is traced to its weight.

Most predictions hold, so few weights are worth a measurement of their own. A plan that loses far more than predicted is
halved, by the error of its options, until single weights are left that explain it (adaptive group testing); their
curves are corrected, and the size is planned again (docs/method.md, section 3.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_lowrank.numerics.rounding import rounded
from onnx_lowrank.plan import Problem
from onnx_lowrank.sensitivity.trust_range import AGREE, ROUNDING, close, within_trust_range
from onnx_lowrank.sensitivity.whole_plans import Estimate, PlanMeter
from onnx_lowrank.types import Choice, Curve, Plan, Probe

KEEPS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2)
"""Plans are measured that keep these shares of the factorable parameters, mildest first."""
ATTEMPTS = 3
"""Plans of one size, at most: it is planned again after a correction."""


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """A plan that keeps a share of the factorable parameters: its predicted and its measured loss.

    deviation: the standard error of the measured one, over so many samples.
    """

    keep: float
    predicted: float
    measured: float
    deviation: float
    samples: int

    @property
    def agrees(self) -> bool:
        """Whether both are within a factor of AGREE, or both are rounding."""
        return close(self.measured, self.predicted)

    @property
    def precise(self) -> bool:
        """Whether there were enough samples to tell."""
        return Estimate(self.measured, self.deviation, self.samples).precise


@dataclass(slots=True, eq=False)
class Correction:
    """The work on one set of curves. weights: site id -> its weight's name. allowance: samples that may be run.

    blend: the measure that plans are made with.
    """

    raw: Sequence[Curve]
    weights: Mapping[str, str]
    meter: PlanMeter
    allowance: int
    blend: float = 0.0
    probes: dict[str, list[Probe]] = field(default_factory=dict)
    measured: dict[float, tuple[Plan, Estimate]] = field(default_factory=dict)

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The curves as far as they are corrected."""
        return tuple(
            within_trust_range(curve, self.probes[curve.site], self.vouched(curve))
            if curve.site in self.probes
            else curve
            for curve in self.raw
        )

    def vouched(self, curve: Curve) -> float:
        """Return the largest error of a weight that a whole plan vouches for.

        No weight loses more than a plan that it is part of: one that loses no more than AGREE times what is predicted
        of this weight alone says that this prediction is not too low.
        """
        predicted, reach = {option.form: option.loss for option in curve.options}, 0.0
        for plan, estimate in self.measured.values():
            option = next(choice.option for choice in plan.choices if choice.site == curve.site)
            if estimate.loss + estimate.deviation <= AGREE * predicted[option.form]:
                reach = max(reach, option.error)
        return reach

    def run(self) -> tuple[tuple[Curve, ...], tuple[PlanCheck, ...]]:
        """Return the curves, and what whole plans were measured to lose beside what these predict."""
        for keep in KEEPS if self.meter.feeds else ():
            self.correct(keep)
        return self.curves, self.checks

    def correct(self, keep: float) -> None:
        """Measure a plan of a size, and correct the curves until it loses what is predicted."""
        for _ in range(ATTEMPTS):
            found = self.measure(keep)
            if found is None:
                return
            plan, estimate = found
            if not exceeds(estimate, plan.loss) or not self.blame(plan.factored, estimate):
                return

    def measure(self, keep: float) -> tuple[Plan, Estimate] | None:
        """Return a plan of a size with what it was measured to lose; None where there is none, or no samples left."""
        plan = self.planned(keep)
        if plan is None or self.spent:
            return None
        self.measured[keep] = plan, self.meter.estimate(plan.factored)
        return self.measured[keep]

    @property
    def spent(self) -> bool:
        """Whether all samples that may be run were run."""
        return self.meter.runs >= self.allowance

    def planned(self, keep: float) -> Plan | None:
        """Return a plan of a size by the curves so far; None where none has it, or it changes nothing."""
        problem = Problem(self.curves, self.weights, "parameters", blend=self.blend)
        plan = problem.quick(keep * problem.dense, "")
        return plan if plan is not None and plan.factored else None

    def blame(self, choices: Sequence[Choice], whole: Estimate) -> bool:
        """Measure parts of the choices, which together lose far more than predicted, down to single weights.

        Return whether any weight was found that does by itself.
        """
        if len(choices) == 1:
            self.record(choices[0], whole)
            return True
        order = sorted(choices, key=lambda choice: -float(rounded(np.asarray(choice.option.error))))
        found, left = False, whole.loss
        for half in (order[: len(order) // 2], order[len(order) // 2 :]):
            predicted = loss_of(half)
            if self.spent or left <= AGREE * predicted + ROUNDING:  # what is left needs no explanation
                continue
            estimate = self.meter.estimate(half)
            left -= estimate.loss
            if exceeds(estimate, predicted):
                found |= self.blame(half, estimate)
            elif len(half) == 1 and close(estimate.loss, predicted):  # what loses less says nothing: it may be luck
                self.record(half[0], estimate)
        return found

    def record(self, choice: Choice, estimate: Estimate) -> None:
        """Keep what one weight by itself was measured to lose."""
        option = choice.option
        raw = next(curve for curve in self.raw if curve.site == choice.site)
        predicted = next(o.loss for o in raw.options if o.form == option.form)
        probe = Probe(
            option.error, estimate.loss, predicted, option.form, deviation=estimate.deviation, samples=estimate.samples
        )
        others = [p for p in self.probes.get(choice.site, []) if p.form != option.form]
        self.probes[choice.site] = [*others, probe]

    @property
    def checks(self) -> tuple[PlanCheck, ...]:
        """What was measured of every size, beside what the corrected curves predict of the same plan."""
        losses = {curve.site: {o.form: o.loss for o in curve.options} for curve in self.curves}
        return tuple(
            PlanCheck(keep, sum(losses[c.site][c.option.form] for c in plan.choices), e.loss, e.deviation, e.samples)
            for keep, (plan, e) in self.measured.items()
        )


def exceeds(estimate: Estimate, predicted: float) -> bool:
    """Return whether a measured loss is beyond AGREE times its prediction, and not by chance."""
    return estimate.loss - estimate.deviation > AGREE * predicted + ROUNDING


def loss_of(choices: Sequence[Choice]) -> float:
    """Return the predicted loss of choices together."""
    return sum(choice.option.loss for choice in choices)
