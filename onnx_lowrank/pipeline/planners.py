"""Which plans each algorithm proposes, and which it calls best: one strategy for each kind of goal.

Plans to test are fixed on calibration samples alone, before any of them is validated (plan/sequence.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Goal, Lossless
from onnx_lowrank.graph.large import proto_bytes
from onnx_lowrank.metrics import allowed_drop
from onnx_lowrank.numerics.rounding import first_least, rounded
from onnx_lowrank.pipeline.budget import FILE_BYTES, budget_of
from onnx_lowrank.pipeline.post_quantize_size import plans_within, quantized_budget, rounded_within
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.plan import Problem, compact, fixed_sequence, lossless, paper_compact, paper_lossless
from onnx_lowrank.plan.allocate import curve_plans, least_loss
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.plan.sequence import MILD
from onnx_lowrank.results.parts import Trial
from onnx_lowrank.sensitivity.modes import mode_of
from onnx_lowrank.types import Plan
from onnx_lowrank.validation.screening import CLOSE, SCREENS, Aim, sequence_of

EXPECTED, BEFORE = 7, 3
"""With continuation: where in a sequence the answer is expected; the plans tested before the last round."""
QUANTIZED_SCREENS = (4, 0.15)
"""SCREENS and CLOSE where every plan has to be quantised first."""
SCREENS_IN_BITS = 3
"""So many times as many plans are looked at where bits are chosen, for the progress that is shown."""
LEAST_SAVING, LEAST_OF_PART = 0.005, 0.1
"""The share of the model that a plan has to save, or of what may be factored where that is less of it."""
EQUAL = 1e-9
"""Measured divergences this close differ by rounding: the first of such plans is taken."""
Proposals = Generator[Plan, bool, None]
"""Plans to measure, in order; whether each passed is sent back."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What one round of continuation tests (None: nothing), and, from what passed, the plan that it goes on from."""

    proposals: Proposals | None
    ground: Callable[[Sequence[Trial]], Plan | None] = lambda passed: None


class Planner(Protocol):
    """The strategy of one kind of goal; `stops`: whether a round without ground is the last."""

    name: str
    stops: bool

    def round(self, search: Search, share: float) -> Round:
        """Return what to test; `share` of the way is left to later rounds, 0 in the last.

        Raises GoalError where the budget cannot be reached at all.
        """

    def ranked(self, trials: Sequence[Trial], problem: Problem) -> list[Trial]:
        """Return the trials that passed, best first."""

    def budget(self, search: Search) -> float | None:
        """Return what the sites may cost; None where there is no budget. Raises GoalError like `budget_of`."""


class CompactPlanner:
    """The smallest model whose metric holds: plans in a fixed sequence, mildest first; observed: by bisection."""

    name = "compact"
    stops = True

    def round(self, search: Search, share: float) -> Round:
        """Return the sequence; with later rounds to come only its milder plans, and where it may go on from."""
        if mode_of(search.session.options).layerwise:
            return Round(_first_order(paper_compact(search.problem, search.session.options.gamma), search))
        if search.goal.gate.observed:
            return Round(compact(search.problem), lambda passed: passed[0].plan if share and passed else None)
        plans = sequence(search)
        ground = _ground(search, plans, share) if share and plans else None
        if ground is not None:
            least = amount(ground.cost, search.problem.resource)
            plans = [plan for plan in plans if amount(plan.cost, search.problem.resource) >= least][-BEFORE:]
        return Round(fixed_sequence(plans), lambda passed: ground)

    def ranked(self, trials: Sequence[Trial], problem: Problem) -> list[Trial]:
        """Return the trials that passed, smallest first."""
        passed = [trial for trial in trials if trial.verdict.passed]
        return sorted(passed, key=lambda trial: amount(trial.plan.cost, problem.resource))

    def budget(self, search: Search) -> float | None:
        """Return None: as small as possible."""
        return None


class LosslessPlanner:
    """The most accurate model within a size or a time: one plan, chosen by what nothing was fitted on."""

    name = "lossless"
    stops = False

    def round(self, search: Search, share: float) -> Round:
        """Return the plan of the last round; before that nothing is tested, and it goes down in equal steps."""
        if mode_of(search.session.options).layerwise:
            gamma = search.session.options.gamma
            return Round(_first_order(paper_lossless(search.problem, self.budget(search), gamma), search))
        if not share:
            return Round(fixed_sequence(self._one_of_a_size(search)))
        budget, problem = self.budget(search), search.problem
        step = problem.best(budget + share * (problem.dense - budget), "step")
        return Round(None, lambda passed: step)

    def ranked(self, trials: Sequence[Trial], problem: Problem) -> list[Trial]:
        """Return the trials that passed, least drop first."""
        passed = [trial for trial in trials if trial.verdict.passed]
        return sorted(passed, key=lambda t: (t.verdict.drop.estimate, float(rounded(np.asarray(t.plan.loss)))))

    def budget(self, search: Search) -> float:
        """Return what the sites may cost. Raises GoalError like `budget_of`; what int8 attains shows later."""
        goal = _lossless(search.goal)
        if search.measures_files:
            alone = proto_bytes(search.session.quantizer.alone())
            return quantized_budget(goal.target_size or 0, search.problem, alone)
        return budget_of(goal, search.problem, search.before)

    def _one_of_a_size(self, search: Search) -> list[Plan]:
        """Return the one plan of the size asked for: of those that compete, the one of least divergence on samples
        that nothing was fitted on, or, where the objective is the labels', of least loss at theirs; validation has no
        part in it. Raises GoalError like `budget_of`.
        """
        goal = _lossless(search.goal)
        if search.measures_files:
            alone = proto_bytes(search.session.quantizer.alone()) + FILE_BYTES
            plans = list(plans_within(goal.target_size or 0, search.problem, alone, search.quantized_bytes))
        elif goal.target_size is not None and search.session.options.rounds:
            problem, rest = self._capped(search), search.before.bytes - int(search.problem.dense)
            plans = list(rounded_within(goal.target_size, problem, rest, search.rounded_bytes))
        else:
            plans = list(lossless(self._capped(search), self.budget(search)))
        if len(plans) < 2:
            return plans
        with search.session.clock.step("screening plans", len(plans)) as advance:
            measured = search.screened(plans, advance)
            if measured is None:
                return plans[:1]
            return [plans[first_least(measured, EQUAL)]]

    def _capped(self, search: Search) -> Problem:
        """Return the problem with the budget beside the time, where there is one. Raises GoalError like `budget_of`."""
        goal = _lossless(search.goal)
        if goal.cap is None:
            return search.problem
        beside = replace(search.problem, resource=goal.cap)
        problem = replace(search.problem, caps=((goal.cap, budget_of(goal, beside, search.before)),))
        if problem.quick(self.budget(search), "") is None:
            raise GoalError(
                f"no plan keeps both --target-latency {goal.target_latency:g} and the other target: raise one of them"
            )
        return problem


PLANNERS: tuple[Planner, ...] = (CompactPlanner(), LosslessPlanner())
"""Every algorithm; a goal names its own."""


def planner_of(goal: Goal) -> Planner:
    """Return the strategy of a goal. Raises KeyError where there is none of its name."""
    return {planner.name: planner for planner in PLANNERS}[goal.name]


def sequence(search: Search) -> list[Plan]:
    """Return the plans to test for a compact goal, mildest first: fixed before any of them is validated."""
    gate, resource = search.goal.gate, search.problem.resource
    curve = [plan for plan in curve_plans(search.problem, fine=True) if plan.factored and _worth_it(plan, search)]
    if not curve:
        return []
    n, allowed = search.session.split.validation.units, allowed_drop(search.judge.metric, gate)
    screens = QUANTIZED_SCREENS if search.session.quantizer.active else (SCREENS, CLOSE)
    early = search.judges.early
    part = 0 if early is None else early.units
    aim = Aim(n, gate.alpha, allowed, *screens, dense=search.session.options.rounds, early=part)
    costs = [amount(plan.cost, resource) for plan in curve]

    def exact(plan: Plan) -> Plan:
        return least_loss(search.problem, amount(plan.cost, resource), "") or plan

    expected = (aim.steps + len(MILD)) * (SCREENS_IN_BITS if aim.dense else 1)
    with search.session.clock.step("screening plans", expected) as advance:
        plans = sequence_of(curve, costs, search.screening(advance), aim, exact)
    plans = list({plan.choices: plan for plan in plans if plan.factored}.values())
    return [replace(plan, origin=f"plan {number} of a sequence") for number, plan in enumerate(plans, 1)]


def _worth_it(plan: Plan, search: Search) -> bool:
    """Return whether a plan saves enough for a new file: of the model, or of the part that may be factored."""
    resource, dense = search.problem.resource, search.problem.dense
    least = min(LEAST_SAVING * amount(search.before.cost, resource), LEAST_OF_PART * dense)
    return amount(plan.cost, resource) <= dense - least


def _ground(search: Search, plans: Sequence[Plan], share: float) -> Plan | None:
    """Return the plan to go on from: `share` of the way back from where the answer is expected."""
    expected = amount(plans[min(EXPECTED, len(plans) - 1)].cost, search.problem.resource)
    return search.problem.best(expected + share * (search.problem.dense - expected), "step")


def _first_order(plan: Plan | None, search: Search) -> Proposals:
    """Yield the plan of the paper's rule. Raises GoalError where no rank is within its bound."""
    if plan is None:
        raise GoalError(
            f"the paper's rule reaches this size with no rank within --gamma {search.session.options.gamma:g};"
            " give a larger one"
        )
    if plan.factored:
        yield plan


def _lossless(goal: Goal) -> Lossless:
    if not isinstance(goal, Lossless):
        raise TypeError(f"{goal.name} has no budget")
    return goal
