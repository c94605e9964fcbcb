"""Measurement of plans: rewritten, previewed on a part of the validation samples, judged on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import onnx

from onnx_lowrank.executors import Pool, opened
from onnx_lowrank.goals import Goal
from onnx_lowrank.graph.large import proto_bytes
from onnx_lowrank.graph.scratch import scratch
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.budget import FILE_BYTES, RANK_BYTES
from onnx_lowrank.pipeline.kept import forms_of
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.pipeline.session_values import Judges
from onnx_lowrank.plan import Problem
from onnx_lowrank.progress import LOGGER, EndedError, Progress
from onnx_lowrank.results.parts import Size, Trial
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.sensitivity.calibrated import SensitivityState
from onnx_lowrank.types import Cost, Plan, Verdict
from onnx_lowrank.validation import Judge
from onnx_lowrank.validation.looks import second_look
from onnx_lowrank.validation.metric_check import refuse_unexplained
from onnx_lowrank.validation.on_workers import SHARD, OnWorkers, tellable
from onnx_lowrank.validation.screening import Screened, Screening

TIMING = 5.0
"""Seconds that timing a written model takes, about."""


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """All that measuring a plan for a goal needs; what the session has measured already is not measured again.

    judges: without a preview every plan is run on the whole set. pool: workers that run candidates over it, if any.
    """

    session: Session
    goal: Goal
    state: SensitivityState
    problem: Problem
    judges: Judges
    before: Size
    pool: Pool | None = None

    @property
    def judge(self) -> Judge:
        """The judge on all validation samples."""
        return self.judges.whole

    @property
    def measures_files(self) -> bool:
        """Whether the budget is bytes of a file that has more than factoring behind it."""
        return self.goal.target_size is not None and self.session.quantizer.active

    def candidate(self, plan: Plan) -> onnx.ModelProto:
        """Return the model of a plan after all steps: what is judged and saved."""
        return self.session.quantizer.on(self.factored(plan), plan.choices)

    def sketch(self, plan: Plan, *, quantized: bool = True) -> onnx.ModelProto:
        """Return the model of a plan without what takes long and does little to its loss: it is only looked at.

        Nothing is refitted; plain factors have the same product, and choosing rows for identities takes seconds. Where
        they are rounded it is not the same any more: at large ranks plain ones lose up to 80 times as much (rank 304 of
        320, int4 and int2). quantized: where int8 comes after factoring, it comes here, too.
        """
        session, factors = self.session, self.state.calibrated.decomposed.factors
        if not (quantized and session.quantizer.active):
            sketched = plan if session.options.rounds else plan.plain
            return rewrite(session.loaded.model, session.inventory_of(self.state), sketched, factors)
        factored = rewrite(session.loaded.model, session.inventory, plan, factors, narrow=True)
        return session.quantizer.on(factored, ("sketch", plan.choices))

    def factored(self, plan: Plan) -> onnx.ModelProto:
        """Return the model of a plan, factored, with what labels fit behind it."""
        return self.session.label_fits.on(self.truncated(plan), plan.choices)

    def truncated(self, plan: Plan) -> onnx.ModelProto:
        """Return the model of a plan, factored and nothing else."""
        session = self.session
        factors, narrow = session.factors(plan, self.state), session.quantizer.active
        return rewrite(session.loaded.model, session.inventory_of(self.state), plan, factors, narrow=narrow)

    def size(self, plan: Plan, file_bytes: int) -> Size:
        """Return the size of a plan's model; sites that the problem does not hold stay as they are."""
        saved = sum((curve.dense.cost for curve in self.problem.curves), Cost()) - plan.cost
        return Size(
            self.before.parameters - saved.parameters,
            file_bytes,
            self.before.macs - saved.macs,
            self.before.milliseconds - saved.milliseconds,
        )

    def quantized_bytes(self, plan: Plan) -> int:
        """Return the bytes of a plan's file, provenance included."""
        with scratch(self.session.loaded.model):
            return self._file_bytes(plan, self.candidate(plan))

    def rounded_bytes(self, plan: Plan) -> int:
        """Return the same where bits are chosen: with what unpacks weights."""
        with scratch(self.session.loaded.model):
            return self._file_bytes(plan, self.sketch(plan))

    def _file_bytes(self, plan: Plan, candidate: onnx.ModelProto) -> int:
        names = sum(len(choice.weight) + RANK_BYTES for choice in plan.factored)
        return proto_bytes(candidate) + names + FILE_BYTES

    def trial(self, plan: Plan, progress: Callable[[int], None]) -> Trial:
        """Return a plan's trial on validation: measured now, or for an earlier goal."""
        key, whole = (plan.choices, self.judge.gate), len(self.judge.reference.feeds)
        known = self.session.trials.get(key)
        glanced = known is not None and self.judges.preview is None and known.verdict.samples < whole
        other = known is not None and (known.plan.mild, known.plan.early) != (plan.mild, plan.early)
        if known is None or other or glanced:  # a preview is no measurement of a curve
            known = self.session.trials[key] = self._kept(plan, progress)
        return replace(known, plan=plan)

    def _kept(self, plan: Plan, progress: Callable[[int], None]) -> Trial:
        """Return a plan's trial, of an earlier run where there was one."""
        validation, gate = self.session.split.validation, self.judge.gate
        looks = (self.judges.preview is not None, self.judges.early is not None and plan.early)
        verdict, file_bytes = self.session.kept.beneath(
            "validating",
            lambda: (validation.identity, gate, looks, plan.mild, forms_of(plan.choices)),
            lambda: self.measure(plan, progress),
        )
        return Trial(plan, verdict, self.size(plan, file_bytes))

    def measure(self, plan: Plan, progress: Callable[[int], None]) -> tuple[Verdict, int]:
        """Return a plan's verdict on validation, of the model in memory, and the bytes of its file."""
        with scratch(self.session.loaded.model):
            return self._measured(plan, progress)

    def _measured(self, plan: Plan, progress: Callable[[int], None]) -> tuple[Verdict, int]:
        candidate = self.factored(plan)
        runner = self._shared(candidate)
        hopeless = self._preview(runner)
        if hopeless is None and self.session.quantizer.active:  # a preview costs less than quantising in vain
            candidate = self.session.quantizer.on(candidate, plan.choices)
            runner = self._shared(candidate)
            hopeless = self._preview(runner)
        verdict = self._verdict(runner, progress, early=plan.early) if hopeless is None else hopeless
        return verdict, proto_bytes(candidate)

    def _verdict(self, runner: Runner, progress: Callable[[int], None], *, early: bool) -> Verdict:
        """Return the verdict on all samples, or that of a first look which certifies: see `validation.looks`."""
        if not early or self.judges.early is None:
            return self.judge.judge(runner, progress)
        first = self.judges.early.judge(runner, progress)
        if first.passed and all(bound.exact for bound in (first.bound, *(other.bound for other in first.others))):
            return first
        return self.judge.by(second_look(self.judge.gate)).judge(runner)

    def _preview(self, runner: Runner) -> Verdict | None:
        """Return the verdict on a candidate that a part of the samples shows to be hopeless, None of any other."""
        if self.judges.preview is None:
            return None
        preview = self.judges.preview.judge(runner)
        if preview.drop.low <= preview.allowed:
            return None
        reason = f"{preview.reason}; hopeless after {preview.samples} samples"
        return replace(preview, word="failed", reason=reason)

    def _runner(self, candidate: onnx.ModelProto) -> Runner:
        return Runner(candidate, runtime=self.session.options.runtime)

    def _shared(self, candidate: onnx.ModelProto) -> Runner:
        """Return a candidate that workers run, where there are some that can."""
        if self.pool is None or not tellable(candidate):
            return self._runner(candidate)
        return OnWorkers(candidate, self.session.options.runtime, self.pool, LOGGER.warning)

    def _workers(self) -> AbstractContextManager[Pool | None]:
        """Return the workers that validate, where an executor is asked for and there is enough to do."""
        options = self.session.options
        if options.executor is None or len(self.judge.reference.feeds) <= SHARD:
            return nullcontext()
        return opened(options.executor, None, options.runtime.threads)

    def screening(self, advance: Callable[[int], None] = lambda n: None) -> Screening | None:
        """Return what measures plans on calibration samples that nothing was fitted on; None where there are none."""
        held_back = self.session.screening_judge(self.goal.gate)
        if held_back is None:
            return None

        def runner_of(plan: Plan) -> Runner:
            advance(1)
            with scratch(self.session.loaded.model):  # onnxruntime has opened the file when it goes
                return self._runner(self.sketch(plan))

        judge, labelled = held_back
        keep = self._keeping("metric")
        return Screening(judge, self.state.calibrated.objective.probing, runner_of, labelled, keep)

    def _keeping(self, what: str) -> Callable[[Plan, Callable[[], Screened]], Screened]:
        """Return what keeps measurements of plans on the samples held back. what: by which they are judged."""

        def keep(plan: Plan, make: Callable[[], Screened]) -> Screened:
            return self.session.kept.beneath(
                "screening", lambda: (what, self.problem.resource, forms_of(plan.choices)), make
            )

        return keep

    def screened(self, plans: Sequence[Plan], advance: Callable[[int], None]) -> list[float] | None:
        """Return what plans lose on the samples held back: their divergence, or where the objective is the labels' the
        rise of the cross-entropy. None where nothing measures that.
        """
        labels = self.session.options.objective == "labels"
        judge = self.session.labelled_judge() if labels else None
        screening = self.screening(advance)
        if screening is None or (labels and judge is None):
            return None
        if judge is None:
            return [screening.measure(plan).divergence for plan in plans]
        screening = replace(screening, judge=judge, labelled=True, known={}, keep=self._keeping("labels"))
        drops = [screening.measure(plan).drops for plan in plans]
        return [float("inf") if drop is None else float(drop.mean()) for drop in drops]

    def run(self, proposals: Generator[Plan, bool, None], progress: Progress) -> list[Trial]:
        """Return every trial, in order.

        Ends before that where it is asked to, or its time is over, once something has passed. Raises GoalError where
        the budget cannot be reached at all, MetricError where the metric holds although decisions change, EndedError
        where it is to end and nothing has passed.
        """
        with self._workers() as pool:
            return replace(self, pool=pool)._run(proposals, progress)

    def _run(self, proposals: Generator[Plan, bool, None], progress: Progress) -> list[Trial]:
        trials: list[Trial] = []
        samples, ending = len(self.judge.reference.feeds), self.session.clock.ending
        with progress.step("measuring the original", samples) as advance:
            self.judge.original(advance)
        try:
            plan = next(proposals)
            while True:
                start = time.monotonic()
                with progress.step(f"validating plan {len(trials) + 1}", samples) as advance:
                    trials.append(self.trial(plan, advance))
                refuse_unexplained([trials[-1].verdict], weak=self.session.options.allow_weak_baseline)
                ending.found = ending.found or trials[-1].verdict.passed
                ending.reserve = max(ending.reserve, self._finishing(time.monotonic() - start))
                ending.check()
                plan = proposals.send(trials[-1].verdict.passed)
        except (StopIteration, EndedError) as end:
            if isinstance(end, EndedError) and not ending.found:
                raise
            return trials

    def _finishing(self, seconds: float) -> float:
        """Return what saving a plan takes, about, that took so many seconds to validate: the same, timing, testing."""
        test, validation = self.session.split.test, self.session.split.validation
        tested = 0.0 if test is None else 2 * len(test) / len(validation)
        return TIMING + seconds * (1 + tested)
