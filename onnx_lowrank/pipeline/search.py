"""Plans meet measurement: propose, rewrite, validate, tell the planner, keep what passed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import onnx

from onnx_lowrank.errors import GoalError
from onnx_lowrank.options import Compact, Goal, Lossless
from onnx_lowrank.pipeline.continuation import Stand
from onnx_lowrank.pipeline.stack_size import plans_within, stack_budget
from onnx_lowrank.pipeline.study import Study
from onnx_lowrank.plan import Problem, compact, lossless, paper_compact, paper_lossless
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.progress import Progress
from onnx_lowrank.result import Size, Trial
from onnx_lowrank.rewrite import rewrite
from onnx_lowrank.runtime import Runner
from onnx_lowrank.types import Cost, Plan
from onnx_lowrank.validate import Judge

NODE_BYTES = 700
"""What a factored site adds to a file besides weights: a node, names, provenance. Generous: a target is a promise."""
FILE_BYTES, RANK_BYTES = 2048, 48


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """All that measuring a plan needs; what the study has measured for another goal is not measured again."""

    study: Study
    stand: Stand
    problem: Problem
    judge: Judge
    screen: Judge | None
    before: Size

    def candidate(self, plan: Plan) -> onnx.ModelProto:
        """Return the model that a plan stands for, after all steps: what is judged and saved."""
        return self.study.stack.on(self.factored(plan), plan.choices)

    def factored(self, plan: Plan) -> onnx.ModelProto:
        """Return the model that a plan stands for, factored and nothing else."""
        study = self.study
        return rewrite(study.subject.model, study.found, plan, study.factors(plan, self.stand))

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
        known = self.study.trials.get(key)
        if known is None or (self.screen is None and known.verdict.samples < len(self.judge.reference.feeds)):
            known = self.study.trials[key] = self.measure(plan, progress)  # a glance is no measurement of a curve
        return replace(known, plan=plan)

    def measure(self, plan: Plan, progress: Callable[[int], None]) -> Trial:
        """Return what validation says of a plan, measured on the model in memory."""
        candidate = self.factored(plan)
        runner = self._runner(candidate)
        hopeless = self._glance(runner, plan, candidate.ByteSize())
        if hopeless is None and self.study.stack.active:  # a glance costs less than to quantise what cannot hold
            candidate = self.study.stack.on(candidate, plan.choices)
            runner = self._runner(candidate)
            hopeless = self._glance(runner, plan, candidate.ByteSize())
        if hopeless is not None:
            return hopeless
        return Trial(plan, self.judge.judge(runner, progress), self.size(plan, candidate.ByteSize()))

    def _glance(self, runner: Runner, plan: Plan, file_bytes: int) -> Trial | None:
        """Return the trial of a candidate that a part of the samples shows to be hopeless, None of any other."""
        if self.screen is None:
            return None
        glance = self.screen.judge(runner)
        if glance.drop.low <= glance.allowed:
            return None
        reason = f"{glance.reason}; hopeless after {glance.samples} samples"
        return Trial(plan, replace(glance, passed=False, reason=reason), self.size(plan, file_bytes))

    def _runner(self, candidate: onnx.ModelProto) -> Runner:
        options = self.study.options
        return Runner(candidate, provider=options.provider, threads=options.threads)

    def proposals(self, goal: Goal) -> Generator[Plan, bool, None]:
        """Return the plans to measure, by the algorithm asked for."""
        if self.study.options.sensitivity == "paper":
            return self._paper(goal)
        if isinstance(goal, Compact):
            return compact(self.problem)
        if self._stacked(goal):
            alone = self.study.stack.alone().ByteSize() + FILE_BYTES
            return plans_within(goal.target_size or 0, self.problem, alone, self._stack_bytes)
        return lossless(self.capped(goal), self.budget(goal))

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
        if self._stacked(goal):
            alone = self.study.stack.alone().ByteSize()
            return stack_budget(goal.target_size or 0, self.problem, alone)
        return budget_of(goal, self.problem, self.before)

    def _stacked(self, goal: Lossless) -> bool:
        """Return whether the budget is bytes of a file that has more than factoring behind it."""
        return goal.target_size is not None and self.study.stack.active

    def _stack_bytes(self, plan: Plan) -> int:
        """Return the bytes of a plan's file, provenance included."""
        names = sum(len(choice.weight) + RANK_BYTES for choice in plan.factored)
        return int(self.candidate(plan).ByteSize()) + names + FILE_BYTES

    def _paper(self, goal: Goal) -> Generator[Plan, bool, None]:
        gamma = self.study.options.gamma
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
    return sorted(passed, key=lambda t: (t.verdict.drop.estimate, t.plan.loss))
