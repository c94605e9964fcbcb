"""`optimize`: the whole way from a model and samples to a smaller model that is shown to hold, or to a clear no."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from onnx_lowrank.errors import GoalError
from onnx_lowrank.files import spare
from onnx_lowrank.metrics import Metric
from onnx_lowrank.options import Compact, Goal, Lossless, Options
from onnx_lowrank.pipeline.checks import refuse_unexplained
from onnx_lowrank.pipeline.continuation import Stand
from onnx_lowrank.pipeline.finish import Reloaded, on_disk, publish, reopen, stamp
from onnx_lowrank.pipeline.reasons import blame, nearest, no_curve, refuted, why_nothing
from onnx_lowrank.pipeline.search import Search, budget_of, ranked
from onnx_lowrank.pipeline.speed import CORRECTIONS, Slow, corrected, fastest, final_timing, none_fast_enough, too_slow
from onnx_lowrank.pipeline.stack import settings_of
from onnx_lowrank.pipeline.study import Study
from onnx_lowrank.pipeline.subject import RANDOM_WARNING, DataSources, make_judge
from onnx_lowrank.plan import Problem
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.progress import Progress
from onnx_lowrank.result import BOTH, Result, Size, Step, Trial
from onnx_lowrank.runtime import Runner
from onnx_lowrank.sensitivity import cost_curves
from onnx_lowrank.timing import Timing
from onnx_lowrank.types import Certificate, Curve, Plan, Verdict
from onnx_lowrank.validate import Judge
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
    study = Study.of(model, samples, options, progress=progress)
    return reach(study, goal or Compact(), output=output, dry_run=dry_run)


def reach(
    study: Study,
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
        spare(Path(output), study.subject.files)
    if goal.resource == "latency" and study.options.then:
        raise GoalError("a goal of time and --then do not go together: what is timed is the float model; leave one out")
    options = study.options
    if isinstance(goal, Lossless) and goal.cap and (options.inter_layer or options.sensitivity == "paper"):
        switch = "--inter-layer" if options.inter_layer else "--sensitivity paper"
        raise GoalError(f"{switch} knows one budget: give --target-latency, or the other target, by itself")
    if study.random and not goal.gate.observed:
        goal = replace(goal, gate=replace(goal.gate, observed=True))
    run = _Run(study, goal, before_writing=before_writing)
    if not study.found.sites:
        return run.unchanged("no weight of this model can be factored; the reasons are listed with the weights")
    return run.result(Path(output) if output is not None else None, dry_run=dry_run)


@dataclass(slots=True, eq=False)
class _Run:
    """One goal: what has been made so far, for the report."""

    study: Study
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
        milliseconds = self.study.milliseconds if self.goal.resource == "latency" else 0.0
        return Size(self.study.found.parameters, self.study.subject.bytes, self.macs, milliseconds)

    def result(self, output: Path | None, *, dry_run: bool) -> Result:
        """Go the whole way."""
        study = self.study
        sizes = ("parameters",) if study.stack.active else ("parameters", "bytes")
        if isinstance(self.goal, Lossless) and self.goal.resource in sizes:  # tell at once what can never be reached
            costs = cost_curves(study.found, study.options.rank_multiple)
            budget_of(self.goal, Problem(costs, {}, self.goal.resource), self.before)
        metric, self.metric = study.metric(self.goal.gate)
        if too_few := study.look_over(self.goal.gate):
            return self.unchanged(too_few)
        if study.stack.active:  # what cannot be quantised is told before minutes are spent
            study.stack.alone()
        stand = study.collect(metric)
        self.macs = stand.calibrated.observed.macs
        if not stand.curves:
            return self.unchanged(no_curve(stand.calibrated.decomposed.dead))
        for search, trial in self._aimed(stand):
            result = self._publish(trial, search, metric, output, dry_run=dry_run)
            if result is not None:
                return result
        if self.slow:
            return replace(self.unchanged(none_fast_enough(self.slow)), latency=fastest(self.slow).timing)
        return self._nothing(stand)

    def _nothing(self, stand: Stand) -> Result:
        """Return the original with the reason; where a stack failed, with what each of its steps does by itself."""
        no_faster = self.goal.resource == "latency" and all(len(curve.options) == 1 for curve in self.curves)
        reason = why_nothing(self.trials, self.goal.gate, no_faster=no_faster)
        if not self.study.stack.active:
            return self.unchanged(reason)
        judge = self.study.judge(self.goal.gate)[0]
        search = Search(self.study, stand, self.study.problem(self.goal.resource, stand), judge, None, self.before)
        steps = [self.study.stack.int8(judge, self.before)]
        if not self.trials and getattr(self.goal, "target_size", None) and not self._too_large(steps[0].size):
            reason = "int8 alone is within the target size already: nothing has to be factored for it"
        if self.trials:
            near = nearest(self.trials)
            steps = [self.study.stack.factored(search.factored(near.plan), near, judge), *steps]
        return replace(self.unchanged(f"{reason}; {blame(steps)}"), steps=tuple(steps))

    def _aimed(self, stand: Stand) -> Iterator[tuple[Search, Trial]]:
        """Yield the trials that passed; where a target latency was missed, again for a lower aim."""
        goal: Goal | None = self.goal
        for _ in range(1 + (CORRECTIONS if self.study.options.continuation == 1 else 0)):
            if goal is None:
                return
            yield from self._searched(stand, goal)
            if self._ended:  # what comes after a plan that was not certified has no level left
                return
            problem = self.study.problem(goal.resource, stand)
            goal = corrected(self.goal, goal, self.slow, problem, self.before)

    @property
    def _ended(self) -> bool:
        """Whether the sequence of tests has come to its end: a plan that could not be certified."""
        return not self.goal.gate.observed and bool(self.trials) and not self.trials[-1].verdict.passed

    def _searched(self, stand: Stand, goal: Goal) -> Iterator[tuple[Search, Trial]]:
        """Yield the trials that passed, best first, each with the search that made it.

        With continuation a plan of every round is the ground of the next: lossless goes down in equal steps to its
        budget, compact to where calibration samples expect the answer (with `observed`: from the smallest model that
        held), and the smallest of all rounds comes first.
        """
        study, steps = self.study, self.study.options.continuation
        passed: list[tuple[Search, Trial]] = []
        for step in range(steps):
            problem = study.problem(goal.resource, stand)
            self.curves = self.curves or problem.curves
            search = Search(study, stand, problem, *study.judge(goal.gate), self.before)
            last = step == steps - 1
            share = (steps - 1 - step) / steps
            plan: Plan | None = None
            if isinstance(goal, Lossless) and not last:
                budget = search.budget(goal)
                plan = problem.best(budget + share * (problem.dense - budget), "step")
            else:
                if isinstance(goal, Compact) and not last and not goal.gate.observed:
                    plan = search.ground(goal, share)
                trials = search.run(goal, study.clock)
                self.trials.extend(trials)
                refuse_unexplained([t.verdict for t in trials], weak=study.options.allow_weak_baseline)
                best = ranked(trials, goal, problem)
                passed = [*((search, trial) for trial in best), *passed]
                if goal.gate.observed and not last:
                    plan = best[0].plan if best else None
            if self._ended:
                break
            if plan is not None and plan.factored:
                stand = study.shrink(stand, plan)
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
                reloaded, notes = reopen(stage, self.study.subject, search.judge, self.study.options)
                size = replace(trial.size, bytes=stage.bytes)
                if not reloaded.verdict.passed or self._too_large(size):
                    self.notes.append(f"plan {trial.plan.origin!r} passed in memory but not from its file: left out")
                    return None
                if self._claim(reloaded.verdict) != claim:  # the file says what was measured on the file
                    claim = self._claim(reloaded.verdict)
                    continue
                latency = final_timing(self.study, stage.path, self.goal)
                if why := too_slow(latency, self.goal):
                    self.slow.append(Slow(latency, why))
                    return None
                test = self._test(reloaded.runner, metric)
                if test is not None and test.drop.low > test.allowed:
                    steps = self._steps(search, trial, Step(BOTH, size, reloaded.verdict, test), metric)
                    return replace(self.unchanged(refuted(reloaded.verdict, test, steps)), test=test, steps=steps)
                steps = self._steps(search, trial, Step(BOTH, size, reloaded.verdict, test, latency), metric)
                if output is not None and not dry_run:
                    publish(stage, self.study.subject, self.before_writing)
            self.notes.extend(notes)
            changed = self._changed(trial, reloaded, size, test, latency, None if dry_run else output)
            return replace(changed, steps=steps, certificate=claim)

    def _claim(self, verdict: Verdict) -> Certificate:
        return Certificate.of(verdict, len(self.trials), self.study.split.validation.fingerprint)

    def _stamp(self, candidate: onnx.ModelProto, plan: Plan, claim: Certificate) -> None:
        warning = RANDOM_WARNING if self.study.random else ""
        stamp(
            candidate, plan, version=__version__, goal=self.goal.name, options=self.study.options,
            sha256=self.study.subject.sha256, warning=warning, then=settings_of(self.study.options), certificate=claim,
        )  # fmt: skip

    def _steps(self, search: Search, trial: Trial, both: Step, metric: Metric) -> tuple[Step, ...]:
        """Return what factoring alone and int8 alone do, and both: measured alike, for the report."""
        stack = self.study.stack
        if not stack.active:
            return ()
        factored = search.factored(trial.plan)
        models = (factored, stack.alone())
        found = (stack.factored(factored, trial, search.judge), stack.int8(search.judge, self.before))
        steps = []
        for step, model in zip(found, models, strict=True):
            runner = Runner(model, provider=self.study.options.provider, threads=self.study.options.threads)
            latency = final_timing(self.study, model, self.goal) if both.latency is not None else None
            steps.append(replace(step, test=self._test(runner, metric), latency=latency))
        if both.size.bytes >= found[1].size.bytes:
            self.notes.append("the stack is no smaller than int8 alone: factoring gained nothing that int8 has not")
        return (*steps, both)

    def _too_large(self, size: Size) -> bool:
        target = getattr(self.goal, "target_size", None)
        return target is not None and size.bytes > target

    def _test(self, runner: Runner, metric: Metric) -> Verdict | None:
        test = self.study.split.test
        if test is None:
            return None
        if self.tester is None:
            given = (self.study.subject, test, metric, self.goal.gate, self.study.options)
            self.tester = make_judge(*given, spread=self.study.spread)
        with self.study.clock.step("testing", 2 * len(test)) as advance:
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
        random = [RANDOM_WARNING] if self.study.random else []
        stand = self.study.stand
        curves = self.curves or (stand.curves if stand is not None else ())
        dead = stand.calibrated.decomposed.dead if stand is not None else ()
        return Result(
            changed=False,
            model=self.study.subject.original or self.study.subject.model,
            reason=reason,
            goal=self.goal,
            options=self.study.options,
            source=self.study.subject.source,
            source_hash=self.study.subject.sha256,
            before=self.before,
            after=self.before,
            sites=self.study.found.sites,
            skips=(*self.study.found.skips, *dead),
            trials=tuple(self.trials),
            curves=curves,
            metric=self.metric,
            notes=(*self.study.split.notes, *self.study.notes, *self.notes),
            warnings=(*random, *self.study.warnings),
            seconds=dict(self.study.clock.seconds),
            divergence=self.study.divergence,
            held_to=self.study.subject.standing.level,
            source_files=self.study.subject.files,
        )
