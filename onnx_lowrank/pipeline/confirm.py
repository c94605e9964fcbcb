"""From a plan that passed in memory to a file that passes: stamped, reopened, judged, timed, tested, published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from onnx_lowrank.graph.mapped import follow, mapped_tensors
from onnx_lowrank.graph.scratch import scratch
from onnx_lowrank.pipeline.loaded_model import RANDOM_WARNING
from onnx_lowrank.pipeline.post_quantize import settings_of
from onnx_lowrank.pipeline.provenance import stamp
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.pipeline.speed_goal import Slow, final_timing, too_slow
from onnx_lowrank.pipeline.staging import on_disk, publish, reopen
from onnx_lowrank.results.parts import BOTH, Measured, Size, Step, Trial
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Certificate, Plan, Verdict
from onnx_lowrank.version import __version__

NO_GAIN = "the factors with int8 behind them are no smaller than int8 alone: factoring gained nothing that int8 has not"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the model goes (None: nowhere), and what is called right before: what it raises leaves it unwritten."""

    output: Path | None = None
    before_writing: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Confirmed:
    """A model that passed as reloaded from its file, and is written to its place."""

    model: onnx.ModelProto
    size: Size
    measured: Measured
    certificate: Certificate
    output: Path | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Refuted:
    """A model that passed on validation and fails on the test samples; nothing is written."""

    verdict: Verdict
    test: Verdict
    steps: tuple[Step, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """A plan that passed in memory, or by a part of the samples, and not from its file by all of them."""

    note: str


def confirm(search: Search, trial: Trial, tests: int, target: Target) -> Confirmed | Refuted | Slow | Unconfirmed:
    """Return the outcome for a plan that passed, as the `tests`-th of a sequence.

    The file's metadata say what was measured on the file. Raises ModelError where it does not pass the checker.
    """
    with search.session.clock.ending.paused(), scratch(search.session.loaded.model) as place:
        outcome = _confirmed(search, trial, tests, target)
        if place is not None:
            place.keep = isinstance(outcome, Confirmed) and outcome.output is None
        return outcome


def _confirmed(search: Search, trial: Trial, tests: int, target: Target) -> Confirmed | Refuted | Slow | Unconfirmed:
    session, goal = search.session, search.goal
    candidate = search.candidate(trial.plan)
    claim = _claim(search, trial.verdict, tests)
    while True:
        _stamp(search, candidate, trial.plan, claim)
        with on_disk(candidate, target.output, session.options) as stage:
            reloaded, file_notes = reopen(stage, session.loaded, search.judge, session.options.runtime)
            size = replace(trial.size, bytes=stage.bytes)
            if not reloaded.verdict.passed or too_large(search, size):
                return Unconfirmed(_left_out(trial, reloaded.verdict))
            if (measured := _claim(search, reloaded.verdict, tests)) != claim:
                claim = measured
                continue
            latency = final_timing(session, stage.path, goal)
            if why := too_slow(latency, goal):
                return Slow(latency, why)
            test = _tested(search, reloaded.runner)
            if test is not None and test.drop.low > test.allowed:
                steps, notes = _steps(search, trial, Step(BOTH, size, reloaded.verdict, test))
                return Refuted(reloaded.verdict, test, steps, notes)
            steps, notes = _steps(search, trial, Step(BOTH, size, reloaded.verdict, test, latency))
            model = reloaded.model
            if target.output is not None:
                publish(stage, session.loaded, target.before_writing)
                follow(model, stage.path.parent, target.output.parent)
            elif any(mapped_tensors(model)):  # the file goes: its weights lie where those of the candidate do
                model = candidate
        measurements = Measured(reloaded.verdict, test, latency, steps)
        return Confirmed(model, size, measurements, claim, target.output, (*notes, *file_notes))


def _left_out(trial: Trial, verdict: Verdict) -> str:
    looked = trial.verdict.samples
    how = f"by {looked:,} samples but not by all" if looked < verdict.samples else "in memory but not from its file"
    return f"plan {trial.plan.origin!r} passed {how}: left out"


def too_large(search: Search, size: Size) -> bool:
    """Return whether a file is larger than was asked for."""
    target = search.goal.target_size
    return target is not None and size.bytes > target


def _claim(search: Search, verdict: Verdict, tests: int) -> Certificate:
    return Certificate.of(verdict, tests, search.session.split.validation.fingerprint)


def _stamp(search: Search, candidate: onnx.ModelProto, plan: Plan, claim: Certificate) -> None:
    session = search.session
    warning = RANDOM_WARNING if session.random else ""
    stamp(
        candidate, plan, version=__version__, goal=search.goal.name, options=session.options_for(plan), warning=warning,
        sha256=session.loaded.sha256, then=settings_of(session.options), certificate=claim,
    )  # fmt: skip


def _tested(search: Search, runner: Runner) -> Verdict | None:
    """Return the verdict on the test samples, None where there are none."""
    judge = search.session.test_judge(search.goal.gate)
    if judge is None:
        return None
    with search.session.clock.step("testing", 2 * len(judge.reference.feeds)) as advance:
        return judge.judge(runner, advance)


def _steps(search: Search, trial: Trial, both: Step) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """Return factoring alone, labels and int8 alone, and all together, measured in the same way, and notes on them."""
    session, quantizer, fits = search.session, search.session.quantizer, search.session.label_fits
    if not (quantizer.active or fits.active):
        return (), ()
    truncated, judge, before = search.truncated(trial.plan), search.judge, search.before
    alone = [(quantizer.factored(truncated, trial, judge), truncated)]
    alone += [(fits.step(judge, before), fits.alone()[0])] if fits.active else []
    alone += [(quantizer.int8(judge, before), quantizer.alone())] if quantizer.active else []
    steps = []
    for step, model in alone:
        runner = Runner(model, runtime=session.options.runtime)
        latency = final_timing(session, model, search.goal) if both.latency is not None else None
        steps.append(replace(step, test=_tested(search, runner), latency=latency))
    larger = quantizer.active and both.size.bytes >= steps[-1].size.bytes
    return (*steps, both), (NO_GAIN,) if larger else ()
