"""Plans meet measurement: propose from calibration samples alone, rewrite, validate in order, keep what passed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_lowrank.errors import GoalError
from onnx_lowrank.metrics import allowed_drop
from onnx_lowrank.numerics.rounding import rounded
from onnx_lowrank.options import Compact, Gate, Goal, Lossless
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.continuation import SensitivityState
from onnx_lowrank.pipeline.post_quantize_size import plans_within, quantized_budget
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.plan import Problem, compact, fixed_sequence, lossless, paper_compact, paper_lossless
from onnx_lowrank.plan.allocate import curve_plans, least_loss
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.plan.sequence import MILD
from onnx_lowrank.progress import Progress
from onnx_lowrank.results.result import Size, Trial
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Cost, Plan
from onnx_lowrank.validation import Judge
from onnx_lowrank.validation.screening import CLOSE, SCREENS, Aim, Screening, sequence_of

NODE_BYTES = 700
"""What a factored site adds to a file besides weights: a node, names, provenance. Generous: a target is a promise."""
FILE_BYTES, RANK_BYTES = 3072, 48
EXPECTED, BEFORE = 7, 3
"""With continuation: where in a sequence the answer is expected; the plans tested before the last round."""
QUANTIZED_SCREENS = (4, 0.15)
"""SCREENS and CLOSE where every plan has to be quantised first."""


@dataclass(slots=True, eq=False)
class Search:
    """All that measuring a plan needs; what the study has measured for another goal is not measured again."""

    session: Session
    state: SensitivityState
    problem: Problem
    judge: Judge
    preview: Judge | None
    before: Size
    planned: list[Plan] | None = None

    def candidate(self, plan: Plan) -> onnx.ModelProto:
        """Return the model that a plan stands for, after all steps: what is judged and saved."""
        return self.session.quantizer.on(self.factored(plan), plan.choices)

    def factored(self, plan: Plan) -> onnx.ModelProto:
        """Return the model that a plan stands for, factored and nothing else."""
        session = self.session
        return rewrite(session.loaded.model, session.inventory, plan, session.factors(plan, self.state))

    def size(self, plan: Plan, file_bytes: int) -> Size:
        """Return the size of a plan's model; sites that the problem does not hold stay as they are."""
        saved = sum((curve.dense.cost for curve in self.problem.curves), Cost()) - plan.cost
        return Size(
            self.before.parameters - saved.parameters,
            file_bytes,
            self.before.macs - saved.macs,
            self.before.milliseconds - saved.milliseconds,
        )

    def trial(self, plan: Plan, progress: Callable[[int], None]) -> Trial:
        """Return what validation says of a plan: measured, or as it was measured for an earlier goal."""
        key = (plan.choices, self.judge.gate)
        known = self.session.trials.get(key)
        if known is None or (self.preview is None and known.verdict.samples < len(self.judge.reference.feeds)):
            known = self.session.trials[key] = self.measure(plan, progress)  # a glance is no measurement of a curve
        return replace(known, plan=plan)

    def measure(self, plan: Plan, progress: Callable[[int], None]) -> Trial:
        """Return what validation says of a plan, measured on the model in memory."""
        candidate = self.factored(plan)
        runner = self._runner(candidate)
        hopeless = self._preview(runner, plan, candidate.ByteSize())
        if hopeless is None and self.session.quantizer.active:  # a glance costs less than to quantise what cannot hold
            candidate = self.session.quantizer.on(candidate, plan.choices)
            runner = self._runner(candidate)
            hopeless = self._preview(runner, plan, candidate.ByteSize())
        if hopeless is not None:
            return hopeless
        return Trial(plan, self.judge.judge(runner, progress), self.size(plan, candidate.ByteSize()))

    def _preview(self, runner: Runner, plan: Plan, file_bytes: int) -> Trial | None:
        """Return the trial of a candidate that a part of the samples shows to be hopeless, None of any other."""
        if self.preview is None:
            return None
        preview = self.preview.judge(runner)
        if preview.drop.low <= preview.allowed:
            return None
        reason = f"{preview.reason}; hopeless after {preview.samples} samples"
        return Trial(plan, replace(preview, word="failed", reason=reason), self.size(plan, file_bytes))

    def _runner(self, candidate: onnx.ModelProto) -> Runner:
        options = self.session.options
        return Runner(candidate, provider=options.provider, threads=options.threads)

    def proposals(self, goal: Goal) -> Generator[Plan, bool, None]:
        """Return the plans to measure, by the algorithm asked for."""
        if self.session.options.sensitivity == "paper":
            return self._paper(goal)
        if isinstance(goal, Compact):
            return compact(self.problem) if goal.gate.observed else fixed_sequence(self.sequence(goal))
        return fixed_sequence(self.one_of_a_size(goal))

    def sequence(self, goal: Goal) -> list[Plan]:
        """Return the plans to test for a compact goal, mildest first: fixed before any of them meets validation."""
        if self.planned is None:
            curve = [plan for plan in curve_plans(self.problem, fine=True) if plan.factored]
            self.planned = self._sequence(curve, goal) if curve else []
        return self.planned

    def ground(self, goal: Compact, share: float) -> Plan | None:
        """Return the plan to go on from with continuation: `share` of the way back from where the answer is expected.

        Of what is tested in this round only plans that are milder stay; the others come from later rounds.
        """
        plans = self.sequence(goal)
        if not plans:
            return None
        resource = self.problem.resource
        expected = amount(plans[min(EXPECTED, len(plans) - 1)].cost, resource)
        ground = self.problem.best(expected + share * (self.problem.dense - expected), "step")
        if ground is not None:
            least = amount(ground.cost, resource)
            self.planned = [plan for plan in plans if amount(plan.cost, resource) >= least][-BEFORE:]
        return ground

    def _sequence(self, curve: list[Plan], goal: Goal) -> list[Plan]:
        gate, resource, stacked = goal.gate, self.problem.resource, self.session.quantizer.active
        n, allowed = self.session.split.validation.units, allowed_drop(self.judge.metric, gate)
        aim = Aim(n, gate.alpha, allowed, *(QUANTIZED_SCREENS if stacked else (SCREENS, CLOSE)))
        costs = [amount(plan.cost, resource) for plan in curve]
        with self.session.clock.step("screening plans", aim.steps + len(MILD)) as advance:
            plans = sequence_of(curve, costs, self.screening(gate, advance), aim, self._exact)
        plans = list({plan.choices: plan for plan in plans if plan.factored}.values())
        return [replace(plan, origin=f"plan {number} of a sequence") for number, plan in enumerate(plans, 1)]

    def _exact(self, plan: Plan) -> Plan:
        """Return the plan of least predicted loss that costs no more than another."""
        return least_loss(self.problem, amount(plan.cost, self.problem.resource), "") or plan

    def screening(self, gate: Gate, advance: Callable[[int], None] = lambda n: None) -> Screening | None:
        """Return what measures plans on calibration samples that nothing was fitted on; None where there are none."""
        given = self.session.screening_judge(gate)
        if given is None:
            return None

        def runner_of(plan: Plan) -> Runner:
            advance(1)
            return self._runner(self.candidate(plan))

        return Screening(given[0], self.state.calibrated.objective.probing, runner_of, given[1])

    def one_of_a_size(self, goal: Lossless) -> list[Plan]:
        """Return the one plan of the size asked for: of those that compete, the one of least divergence on samples
        that nothing was fitted on; validation has no part in it. Raises GoalError like `budget_of`.
        """
        if self._quantized_size_goal(goal):
            alone = self.session.quantizer.alone().ByteSize() + FILE_BYTES
            plans = list(plans_within(goal.target_size or 0, self.problem, alone, self._quantized_bytes))
        else:
            plans = list(lossless(self.capped(goal), self.budget(goal)))
        if len(plans) < 2:
            return plans
        with self.session.clock.step("screening plans", len(plans)) as advance:
            screening = self.screening(goal.gate, advance)
            if screening is None:
                return plans[:1]
            return [min(plans, key=lambda plan: screening.measure(plan).divergence)]

    def capped(self, goal: Lossless) -> Problem:
        """Return the problem with the budget beside the time, where there is one. Raises GoalError like `budget_of`."""
        if goal.cap is None:
            return self.problem
        there = replace(self.problem, resource=goal.cap)
        problem = replace(self.problem, caps=((goal.cap, budget_of(goal, there, self.before)),))
        if problem.quick(self.budget(goal), "") is None:
            raise GoalError(
                f"no plan keeps both --target-latency {goal.target_latency:g} and the other target: raise one of them"
            )
        return problem

    def budget(self, goal: Lossless) -> float:
        """Return what the sites may cost. Raises GoalError like `budget_of`; what a stack can reach shows later."""
        if self._quantized_size_goal(goal):
            alone = self.session.quantizer.alone().ByteSize()
            return quantized_budget(goal.target_size or 0, self.problem, alone)
        return budget_of(goal, self.problem, self.before)

    def _quantized_size_goal(self, goal: Lossless) -> bool:
        """Return whether the budget is bytes of a file that has more than factoring behind it."""
        return goal.target_size is not None and self.session.quantizer.active

    def _quantized_bytes(self, plan: Plan) -> int:
        """Return the bytes of a plan's file, provenance included."""
        names = sum(len(choice.weight) + RANK_BYTES for choice in plan.factored)
        return int(self.candidate(plan).ByteSize()) + names + FILE_BYTES

    def _paper(self, goal: Goal) -> Generator[Plan, bool, None]:
        gamma = self.session.options.gamma
        if isinstance(goal, Compact):
            plan: Plan | None = paper_compact(self.problem, gamma)
        else:
            plan = paper_lossless(self.problem, self.budget(goal), gamma)
        if plan is None:
            raise GoalError(
                f"the paper's rule reaches this size with no rank within --gamma {gamma:g}; give a larger one"
            )
        if plan.factored:
            yield plan

    def run(self, goal: Goal, progress: Progress) -> list[Trial]:
        """Return every trial, in order. Raises GoalError where the budget cannot be reached at all."""
        proposals = self.proposals(goal)
        trials: list[Trial] = []
        with progress.step("measuring the original", len(self.judge.reference.feeds)) as advance:
            self.judge.original(advance)
        samples = len(self.judge.reference.feeds)
        try:
            plan = next(proposals)
            while True:
                with progress.step(f"validating plan {len(trials) + 1}", samples) as advance:
                    trials.append(self.trial(plan, advance))
                plan = proposals.send(trials[-1].verdict.passed)
        except StopIteration:
            return trials


def budget_of(goal: Lossless, problem: Problem, before: Size) -> float:
    """Return what the sites may cost in the problem's resource. Raises GoalError that names the smallest reachable."""
    if problem.resource == "latency" and goal.target_latency is not None:
        rest = before.milliseconds - problem.dense
        budget = goal.target_latency * before.milliseconds - rest
        least = (rest + problem.smallest) / (before.milliseconds or 1.0)
        text = (
            f"--target-latency {goal.target_latency:g} cannot be reached: by the measured times of the weights the"
            f" smallest share of the original's time is {_up(least)}"
        )
    elif goal.keep is not None:
        rest = before.parameters - problem.dense
        budget, least = goal.keep * before.parameters - rest, (rest + problem.smallest) / before.parameters
        text = f"--keep {goal.keep:g} cannot be reached: the smallest share of the parameters is {_up(least)}"
    elif goal.target_macs is not None:
        rest = before.macs - problem.dense
        budget, least = goal.target_macs * before.macs - rest, (rest + problem.smallest) / before.macs
        text = f"--target-macs {goal.target_macs:g} cannot be reached: the smallest share is {_up(least)}"
    else:
        rest = before.bytes - problem.dense + NODE_BYTES * len(problem.curves) + FILE_BYTES
        target = goal.target_size or 0
        budget, least = target - rest, rest + problem.smallest
        text = f"--target-size {target:,} bytes cannot be reached: the smallest is {least:,.0f} bytes"
    if budget < problem.smallest:
        raise GoalError(f"{text}; ask for that or more, or for a smaller --rank-multiple")
    return budget


def _up(share: float) -> str:
    """Return a share rounded up to three digits, so that asking for it works."""
    return f"{min(int(share * 1000 + 1), 1000) / 1000:.3f}"


def ranked(trials: list[Trial], goal: Goal, problem: Problem) -> list[Trial]:
    """Return the trials that passed, best first: smallest for compact, least drop for lossless."""
    passed = [trial for trial in trials if trial.verdict.passed]
    if isinstance(goal, Compact):
        return sorted(passed, key=lambda t: amount(t.plan.cost, problem.resource))
    return sorted(passed, key=lambda t: (t.verdict.drop.estimate, float(rounded(np.asarray(t.plan.loss)))))
