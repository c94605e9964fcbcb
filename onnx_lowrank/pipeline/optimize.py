"""`optimize`: the whole way from a model and samples to a smaller model that is shown to hold, or to a clear no."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from onnx_lowrank.errors import GoalError
from onnx_lowrank.graph.files import spare
from onnx_lowrank.metrics import Metric
from onnx_lowrank.options import Compact, Goal, Lossless, Options
from onnx_lowrank.pipeline.continuation import SensitivityState
from onnx_lowrank.pipeline.explanations import blame, nearest, no_curve, refuted, why_nothing
from onnx_lowrank.pipeline.loaded_model import RANDOM_WARNING, DataSources, make_judge
from onnx_lowrank.pipeline.post_quantize import settings_of
from onnx_lowrank.pipeline.search import Search, budget_of, ranked
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.pipeline.speed_goal import (
    CORRECTIONS,
    Slow,
    corrected,
    fastest,
    final_timing,
    none_fast_enough,
    too_slow,
)
from onnx_lowrank.pipeline.staging import Reloaded, on_disk, publish, reopen, stamp
from onnx_lowrank.plan import Problem
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.progress import Progress
from onnx_lowrank.results.result import BOTH, Result, Size, Step, Trial
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.sensitivity import cost_curves
from onnx_lowrank.types import Certificate, Curve, Plan, Verdict
from onnx_lowrank.validation import Judge
from onnx_lowrank.validation.metric_check import refuse_unexplained
from onnx_lowrank.version import __version__


def optimize(
    model: onnx.ModelProto | Path | str,
    samples: DataSources | object,
    goal: Goal | None = None,
    options: Options | None = None,
    *,
    output: Path | str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Return the best model that meets `goal`, or the original with the reason if none does.

    `samples`: DataSources, or anything that gives calibration samples (see `onnx_lowrank.samples.read`). With `output`
    the model is written there, atomically, after it has passed as reloaded from disk; with `dry_run` it is not. The
    input is never overwritten. Raises LowRankError (ModelError, DataError, MetricError, GoalError, RuntimeProblem),
    each one line for a user.
    """
    session = Session.of(model, samples, options, progress=progress)
    return meet_goal(session, goal or Compact(), output=output, dry_run=dry_run)


def meet_goal(
    session: Session,
    goal: Goal,
    *,
    output: Path | str | None = None,
    dry_run: bool = False,
    before_writing: Callable[[], None] | None = None,
) -> Result:
    """Return the best model that meets `goal`; what the study has collected and measured is used again.

    `before_writing` is called right before the model is moved to `output`; what it raises leaves it unwritten.
    """
    if output is not None and not dry_run:
        spare(Path(output), session.loaded.files)
    if goal.resource == "latency" and session.options.then:
        raise GoalError("a goal of time and --then do not go together: what is timed is the float model; leave one out")
    options = session.options
    if isinstance(goal, Lossless) and goal.cap and (options.inter_layer or options.sensitivity == "paper"):
        switch = "--inter-layer" if options.inter_layer else "--sensitivity paper"
        raise GoalError(f"{switch} knows one budget: give --target-latency, or the other target, by itself")
    if session.random and not goal.gate.observed:
        goal = replace(goal, gate=replace(goal.gate, observed=True))
    run = _Run(session, goal, before_writing=before_writing)
    if not session.inventory.sites:
        return run.unchanged("no weight of this model can be factored; the reasons are listed with the weights")
    return run.result(Path(output) if output is not None else None, dry_run=dry_run)


@dataclass(slots=True, eq=False)
class _Run:
    """One goal: what has been made so far, for the report."""

    session: Session
    goal: Goal
    macs: float = 0.0
    trials: list[Trial] = field(default_factory=list)
    slow: list[Slow] = field(default_factory=list)
    curves: tuple[Curve, ...] = ()
    metric: str = ""
    notes: list[str] = field(default_factory=list)
    tester: Judge | None = None
    before_writing: Callable[[], None] | None = None

    @property
    def before(self) -> Size:
        milliseconds = self.session.milliseconds if self.goal.resource == "latency" else 0.0
        return Size(self.session.inventory.parameters, self.session.loaded.bytes, self.macs, milliseconds)

    def result(self, output: Path | None, *, dry_run: bool) -> Result:
        """Go the whole way."""
        session = self.session
        sizes = ("parameters",) if session.quantizer.active else ("parameters", "bytes")
        if isinstance(self.goal, Lossless) and self.goal.resource in sizes:  # tell at once what can never be reached
            costs = cost_curves(session.inventory, session.options.rank_multiple)
            budget_of(self.goal, Problem(costs, {}, self.goal.resource), self.before)
        metric, self.metric = session.metric(self.goal.gate)
        if too_few := session.look_over(self.goal.gate):
            return self.unchanged(too_few)
        if session.quantizer.active:  # what cannot be quantised is told before minutes are spent
            session.quantizer.alone()
        state = session.collect(metric)
        self.macs = state.calibrated.observed.macs
        if not state.curves:
            return self.unchanged(no_curve(state.calibrated.decomposed.dead))
        for search, trial in self._aimed(state):
            result = self._publish(trial, search, metric, output, dry_run=dry_run)
            if result is not None:
                return result
        if self.slow:
            return replace(self.unchanged(none_fast_enough(self.slow)), latency=fastest(self.slow).timing)
        return self._nothing(state)

    def _nothing(self, state: SensitivityState) -> Result:
        """Return the original with the reason; where a stack failed, with what each of its steps does by itself."""
        no_faster = self.goal.resource == "latency" and all(len(curve.options) == 1 for curve in self.curves)
        reason = why_nothing(self.trials, self.goal.gate, no_faster=no_faster)
        if not self.session.quantizer.active:
            return self.unchanged(reason)
        judge = self.session.judge(self.goal.gate)[0]
        search = Search(self.session, state, self.session.problem(self.goal.resource, state), judge, None, self.before)
        steps = [self.session.quantizer.int8(judge, self.before)]
        if not self.trials and getattr(self.goal, "target_size", None) and not self._too_large(steps[0].size):
            reason = "int8 alone is within the target size already: nothing has to be factored for it"
        if self.trials:
            near = nearest(self.trials)
            steps = [self.session.quantizer.factored(search.factored(near.plan), near, judge), *steps]
        return replace(self.unchanged(f"{reason}; {blame(steps)}"), steps=tuple(steps))

    def _aimed(self, state: SensitivityState) -> Iterator[tuple[Search, Trial]]:
        """Yield the trials that passed; where a target latency was missed, again for a lower aim."""
        goal: Goal | None = self.goal
        for _ in range(1 + (CORRECTIONS if self.session.options.continuation == 1 else 0)):
            if goal is None:
                return
            yield from self._searched(state, goal)
            if self._ended:  # what comes after a plan that was not certified has no level left
                return
            problem = self.session.problem(goal.resource, state)
            goal = corrected(self.goal, goal, self.slow, problem, self.before)

    @property
    def _ended(self) -> bool:
        """Whether the sequence of tests has come to its end: a plan that could not be certified."""
        return not self.goal.gate.observed and bool(self.trials) and not self.trials[-1].verdict.passed

    def _searched(self, state: SensitivityState, goal: Goal) -> Iterator[tuple[Search, Trial]]:
        """Yield the trials that passed, best first, each with the search that made it.

        With continuation a plan of every round is the ground of the next: lossless goes down in equal steps to its
        budget, compact to where calibration samples expect the answer (with `observed`: from the smallest model that
        held), and the smallest of all rounds comes first.
        """
        session, steps = self.session, self.session.options.continuation
        passed: list[tuple[Search, Trial]] = []
        for step in range(steps):
            problem = session.problem(goal.resource, state)
            self.curves = self.curves or problem.curves
            search = Search(session, state, problem, *session.judge(goal.gate), self.before)
            last = step == steps - 1
            share = (steps - 1 - step) / steps
            plan: Plan | None = None
            if isinstance(goal, Lossless) and not last:
                budget = search.budget(goal)
                plan = problem.best(budget + share * (problem.dense - budget), "step")
            else:
                if isinstance(goal, Compact) and not last and not goal.gate.observed:
                    plan = search.ground(goal, share)
                trials = search.run(goal, session.clock)
                self.trials.extend(trials)
                refuse_unexplained([t.verdict for t in trials], weak=session.options.allow_weak_baseline)
                best = ranked(trials, goal, problem)
                passed = [*((search, trial) for trial in best), *passed]
                if goal.gate.observed and not last:
                    plan = best[0].plan if best else None
            if self._ended:
                break
            if plan is not None and plan.factored:
                state = session.shrink(state, plan)
            elif isinstance(goal, Compact):
                break
        if isinstance(goal, Compact):
            resource = goal.resource
            passed.sort(key=lambda pair: amount(pair[1].plan.cost, resource))
        yield from passed

    def _publish(
        self, trial: Trial, search: Search, metric: Metric, output: Path | None, *, dry_run: bool
    ) -> Result | None:
        """Return the result for a plan whose file holds, None where the file does not."""
        candidate = search.candidate(trial.plan)
        claim = self._claim(trial.verdict)
        while True:
            self._stamp(candidate, trial.plan, claim)
            with on_disk(candidate, None if dry_run else output) as stage:
                reloaded, notes = reopen(stage, self.session.loaded, search.judge, self.session.options)
                size = replace(trial.size, bytes=stage.bytes)
                if not reloaded.verdict.passed or self._too_large(size):
                    self.notes.append(f"plan {trial.plan.origin!r} passed in memory but not from its file: left out")
                    return None
                if self._claim(reloaded.verdict) != claim:  # the file says what was measured on the file
                    claim = self._claim(reloaded.verdict)
                    continue
                latency = final_timing(self.session, stage.path, self.goal)
                if why := too_slow(latency, self.goal):
                    self.slow.append(Slow(latency, why))
                    return None
                test = self._test(reloaded.runner, metric)
                if test is not None and test.drop.low > test.allowed:
                    steps = self._steps(search, trial, Step(BOTH, size, reloaded.verdict, test), metric)
                    return replace(self.unchanged(refuted(reloaded.verdict, test, steps)), test=test, steps=steps)
                steps = self._steps(search, trial, Step(BOTH, size, reloaded.verdict, test, latency), metric)
                if output is not None and not dry_run:
                    publish(stage, self.session.loaded, self.before_writing)
            self.notes.extend(notes)
            changed = self._changed(trial, reloaded, size, test, latency, None if dry_run else output)
            return replace(changed, steps=steps, certificate=claim)

    def _claim(self, verdict: Verdict) -> Certificate:
        return Certificate.of(verdict, len(self.trials), self.session.split.validation.fingerprint)

    def _stamp(self, candidate: onnx.ModelProto, plan: Plan, claim: Certificate) -> None:
        warning = RANDOM_WARNING if self.session.random else ""
        stamp(
            candidate, plan, version=__version__, goal=self.goal.name, options=self.session.options, warning=warning,
            sha256=self.session.loaded.sha256, then=settings_of(self.session.options), certificate=claim,
        )  # fmt: skip

    def _steps(self, search: Search, trial: Trial, both: Step, metric: Metric) -> tuple[Step, ...]:
        """Return what factoring alone and int8 alone do, and both: measured alike, for the report."""
        quantizer = self.session.quantizer
        if not quantizer.active:
            return ()
        factored = search.factored(trial.plan)
        models = (factored, quantizer.alone())
        found = (quantizer.factored(factored, trial, search.judge), quantizer.int8(search.judge, self.before))
        steps = []
        for step, model in zip(found, models, strict=True):
            runner = Runner(model, runtime=self.session.options.runtime)
            latency = final_timing(self.session, model, self.goal) if both.latency is not None else None
            steps.append(replace(step, test=self._test(runner, metric), latency=latency))
        if both.size.bytes >= found[1].size.bytes:
            self.notes.append("the stack is no smaller than int8 alone: factoring gained nothing that int8 has not")
        return (*steps, both)

    def _too_large(self, size: Size) -> bool:
        target = getattr(self.goal, "target_size", None)
        return target is not None and size.bytes > target

    def _test(self, runner: Runner, metric: Metric) -> Verdict | None:
        test = self.session.split.test
        if test is None:
            return None
        if self.tester is None:
            given = (self.session.loaded, test, metric, self.goal.gate, self.session.options)
            self.tester = make_judge(*given, spread=self.session.spread)
        with self.session.clock.step("testing", 2 * len(test)) as advance:
            return self.tester.judge(runner, advance)

    def _changed(
        self, trial: Trial, reloaded: Reloaded, size: Size, test: Verdict | None, latency: Timing, output: Path | None
    ) -> Result:
        return replace(
            self.unchanged(reloaded.verdict.claim(len(self.trials))),
            changed=True,
            model=reloaded.model,
            after=size,
            plan=trial.plan,
            verdict=reloaded.verdict,
            test=test,
            latency=latency,
            output=output,
        )

    def unchanged(self, reason: str) -> Result:
        """Return the original, with everything that was looked at."""
        random = [RANDOM_WARNING] if self.session.random else []
        state = self.session.state
        curves = self.curves or (state.curves if state is not None else ())
        dead = state.calibrated.decomposed.dead if state is not None else ()
        return Result(
            changed=False,
            model=self.session.loaded.original or self.session.loaded.model,
            reason=reason,
            goal=self.goal,
            options=self.session.options,
            source=self.session.loaded.source,
            source_hash=self.session.loaded.sha256,
            before=self.before,
            after=self.before,
            sites=self.session.inventory.sites,
            skips=(*self.session.inventory.skips, *dead),
            trials=tuple(self.trials),
            curves=curves,
            metric=self.metric,
            notes=(*self.session.split.notes, *self.session.notes, *self.notes),
            warnings=(*random, *self.session.warnings),
            seconds=dict(self.session.clock.seconds),
            divergence=self.session.divergence,
            held_to=self.session.loaded.standing.level,
            source_files=self.session.loaded.files,
        )
