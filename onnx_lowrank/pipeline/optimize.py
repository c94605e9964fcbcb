"""`optimize`: the whole way from a model and samples to a smaller model that is shown to hold, or to a clear no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from onnx_lowrank.metrics import Metric
from onnx_lowrank.metrics.divergence import Kind
from onnx_lowrank.options import Compact, Goal, Lossless, Options
from onnx_lowrank.pipeline.calibrate import Calibrated, calibrate, kind_of, predicted_notes, probe
from onnx_lowrank.pipeline.finish import Reloaded, on_disk, reopen, stamp, timed_feeds
from onnx_lowrank.pipeline.search import Search, budget_of, ranked
from onnx_lowrank.pipeline.subject import (
    RANDOM_WARNING,
    DataSources,
    Subject,
    first_outputs,
    make_judge,
    make_screen,
    pick_metric,
    read_samples,
)
from onnx_lowrank.plan import Problem
from onnx_lowrank.progress import Clock, Progress, Silent
from onnx_lowrank.result import Result, Size, Trial
from onnx_lowrank.runtime import Runner
from onnx_lowrank.samples import Split
from onnx_lowrank.sensitivity import cost_curves
from onnx_lowrank.sites import Found, find_sites
from onnx_lowrank.timing import Timing, interleaved
from onnx_lowrank.types import Curve, Skip, Verdict
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
    the model is written there, atomically, after it has passed as reloaded from disk; with `dry_run` it is not.
    Raises LowRankError (ModelError, DataError, MetricError, GoalError, RuntimeProblem), each one line for a user.
    """
    goal, options = goal or Compact(), options or Options()
    clock = Clock(progress or Silent())
    sources = samples if isinstance(samples, DataSources) else DataSources(data=samples)  # type: ignore[arg-type]
    subject = Subject.of(model, options)
    split = read_samples(subject, sources, options, clock)
    found = find_sites(subject.model, include=options.include, exclude=options.exclude, multiple=options.rank_multiple)
    run = _Run(subject, split, found, goal, options, clock, sources.random)
    if not found.sites:
        return run.unchanged("no weight of this model can be factored; the reasons are listed with the weights")
    return run.result(Path(output) if output is not None else None, dry_run=dry_run)


@dataclass(slots=True, eq=False)
class _Run:
    """One call of `optimize`: what has been made so far, for the report."""

    subject: Subject
    split: Split
    found: Found
    goal: Goal
    options: Options
    clock: Clock
    random: bool
    macs: float = 0.0
    curves: tuple[Curve, ...] = ()
    dead: tuple[Skip, ...] = ()
    trials: list[Trial] = field(default_factory=list)
    metric: str = ""
    divergence: Kind = "relative-l2"
    notes: list[str] = field(default_factory=list)

    @property
    def before(self) -> Size:
        return Size(self.found.parameters, self.subject.bytes, self.macs)

    def result(self, output: Path | None, *, dry_run: bool) -> Result:
        """Go the whole way."""
        if isinstance(self.goal, Lossless) and self.goal.resource != "macs":  # tell at once what can never be reached
            costs = cost_curves(self.found, self.options.rank_multiple)
            budget_of(self.goal, Problem(costs, {}, self.goal.resource), self.before)
        metric, self.metric = pick_metric(
            self.options.metric, self.split.validation, first_outputs(self.subject, self.split.validation.feeds),
            self.goal.gate,
        )  # fmt: skip
        judge = make_judge(self.subject, self.split.validation, metric, self.goal.gate, self.options.seed)
        screen = make_screen(self.subject, self.split.validation, metric, self.goal.gate, self.options.seed)
        self.divergence = kind_of(self.subject, metric, self.split.calibration)
        calibrated = calibrate(
            self.subject, self.split.calibration, self.found, self.options, self.clock, self.divergence
        )
        self.macs, self.dead = calibrated.observed.macs, calibrated.decomposed.dead
        self._warn_narrow(calibrated)
        self.curves, unit = probe(self.subject, self.found, calibrated, self.options, self.clock)
        self.notes.extend([*calibrated.notes, *predicted_notes(self.options, self.curves, unit)])
        problem = Problem(self.curves, {site.id: site.weight for site in self.found.sites}, self.goal.resource)
        search = Search(
            self.subject.model,
            self.found,
            calibrated.decomposed.factors,
            problem,
            judge,
            screen,
            self.options,
            self.before,
        )
        self.trials = search.run(self.goal, self.clock)
        for trial in ranked(self.trials, self.goal, problem):
            result = self._publish(trial, search, metric, output, dry_run=dry_run)
            if result is not None:
                return result
        return self.unchanged(_why_nothing(self.trials))

    def _warn_narrow(self, calibrated: Calibrated) -> None:
        """Say how many samples the widest linear site wants: fewer vectors than dimensions leave directions unseen."""
        samples, places = calibrated.fitted, calibrated.observed.places
        linear = [site for site in self.found.sites if len(site.shape) == 2]
        seen = [(site, samples * sum(place.calls for place in places[site.id])) for site in linear]
        worst = max(((s, n) for s, n in seen if n < 4 * s.shape[1]), key=lambda p: p[0].shape[1] / p[1], default=None)
        if worst is not None:
            site, vectors = worst
            wanted = -(-4 * site.shape[1] * samples // max(int(vectors), 1))
            self.notes.append(
                f"{site.node} has {site.shape[1]} inputs and saw {vectors:,.0f} vectors:"
                f" about {wanted:,} calibration samples would serve it better"
            )

    def _publish(
        self, trial: Trial, search: Search, metric: Metric, output: Path | None, *, dry_run: bool
    ) -> Result | None:
        """Return the result for a plan whose file holds, None where the file does not."""
        candidate = search.candidate(trial.plan)
        warning = RANDOM_WARNING if self.random else ""
        stamp(
            candidate, trial.plan, version=__version__, goal=self.goal.name, options=self.options,
            sha256=self.subject.sha256, warning=warning,
        )  # fmt: skip
        with on_disk(candidate, None if dry_run else output) as stage:
            reloaded, notes = reopen(stage, self.subject, search.judge, self.options)
            size = replace(trial.size, bytes=stage.bytes)
            if not reloaded.verdict.passed or self._too_large(size):
                self.notes.append(f"plan {trial.plan.origin!r} passed in memory but not from its file: left out")
                return None
            test = self._test(reloaded, metric)
            if test is not None and test.drop.low > test.allowed:
                return replace(self.unchanged(_refuted(reloaded.verdict, test)), test=test)
            latency = self._latency(stage.path)
            if output is not None and not dry_run:
                stage.publish()
        self.notes.extend(notes)
        return self._changed(trial, reloaded, size, test, latency, None if dry_run else output)

    def _too_large(self, size: Size) -> bool:
        target = getattr(self.goal, "target_size", None)
        return target is not None and size.bytes > target

    def _test(self, reloaded: Reloaded, metric: Metric) -> Verdict | None:
        if self.split.test is None:
            return None
        judge = make_judge(self.subject, self.split.test, metric, self.goal.gate, self.options.seed)
        with self.clock.step("testing", 2 * len(self.split.test)) as advance:
            return judge.judge(reloaded.runner, advance)

    def _latency(self, path: Path) -> Timing:
        settings = {"provider": self.options.provider, "threads": self.options.threads}
        with self.clock.step("timing", 1) as advance:
            first = Runner(self.subject.model, spin=True, **settings)  # type: ignore[arg-type]
            second = Runner(path, spin=True, **settings)  # type: ignore[arg-type]
            timing = interleaved(first, second, timed_feeds(iter(self.split.validation.feeds)), seed=self.options.seed)
            advance(1)
        return timing

    def _changed(
        self, trial: Trial, reloaded: Reloaded, size: Size, test: Verdict | None, latency: Timing, output: Path | None
    ) -> Result:
        return replace(
            self.unchanged(f"passed on validation: {reloaded.verdict.reason}"),
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
        warning = [RANDOM_WARNING] if self.random else []
        return Result(
            changed=False,
            model=self.subject.model,
            reason=reason,
            goal=self.goal,
            options=self.options,
            source=self.subject.source,
            source_hash=self.subject.sha256,
            before=self.before,
            after=self.before,
            sites=self.found.sites,
            skips=(*self.found.skips, *self.dead),
            trials=tuple(self.trials),
            curves=self.curves,
            metric=self.metric,
            notes=(*warning, *self.split.notes, *self.notes),
            seconds=dict(self.clock.seconds),
            divergence=self.divergence,
        )


def _refuted(verdict: Verdict, test: Verdict) -> str:
    """Say that the test samples contradict what validation found: even the drop's lower end is not allowed."""
    drop = test.drop
    return (
        f"a plan held on validation (drop {verdict.drop.estimate:.4g}) but not on the test samples (drop"
        f" {drop.estimate:.4g}, {drop.low:.4g} at the least): give validation samples that resemble them, or more"
    )


def _why_nothing(trials: Sequence[Trial]) -> str:
    if not trials:
        return "no plan that saves anything could be formed"
    best = min(trials, key=lambda trial: trial.verdict.drop.estimate)
    return f"none of {len(trials)} plans passed; the nearest: {best.verdict.reason}"
