"""The judge: original against candidate on held-out samples -> Verdict. Whatever cannot be shown to hold fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.batching import batch_size, batches, join, split
from onnx_lowrank.errors import DataError, MetricError, ModelError
from onnx_lowrank.metrics import (
    Collector,
    Difference,
    Labels,
    Measured,
    Metric,
    agreement,
    class_output,
    drop_of,
    interval_of,
    listed,
    numeric,
    reason,
    width_note,
)
from onnx_lowrank.options import Gate
from onnx_lowrank.runtime import Runner
from onnx_lowrank.statistics import LEVEL, single_interval
from onnx_lowrank.types import Array, Feed, Interval, Verdict

KEPT_BYTES = 256 * 2**20
"""Memory for the original's outputs; what does not fit is computed again for every candidate."""
SLACK = 1e-12
"""A bound over the allowed drop by this share of the numbers compared is rounding: .905 − .9 is not .005 exactly."""

_UNKNOWN = ""
"""Not yet looked for."""

Progress = Callable[[int], None]
"""Called with the number of samples done since the last call."""


class Reference:
    """The original's outputs on a set, run once; kept from the first sample on until `limit` bytes are full."""

    def __init__(self, runner: Runner, feeds: Sequence[Feed], *, limit: int = KEPT_BYTES) -> None:
        self.runner = runner
        self.feeds = feeds
        self.limit = limit
        self.batch = batch_size(runner, feeds)
        self.kept_bytes = 0
        self._kept: list[dict[str, Array]] = []

    def batches(self) -> Iterator[tuple[list[Feed], list[dict[str, Array]]]]:
        """Yield (feeds, the original's outputs on them), a batch of neighbours at a time."""
        start = 0
        for feeds in batches(self.feeds, self.batch):
            stop = start + len(feeds)
            if stop <= len(self._kept):
                outputs = self._kept[start:stop]
            else:
                outputs = split(self.runner.run(join(feeds)), feeds)
                self._keep(start, outputs)
            yield feeds, outputs
            start = stop

    def _keep(self, start: int, outputs: list[dict[str, Array]]) -> None:
        size = sum(getattr(array, "nbytes", 0) for sample in outputs for array in sample.values())
        if start == len(self._kept) and self.kept_bytes + size <= self.limit:
            self._kept.extend(outputs)
            self.kept_bytes += size


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What one model did: the metric, how far every output moved, and (n,) agreement where there are classes."""

    measured: Measured
    moved: tuple[Difference, ...]
    agreement: Array | None


class Judge:
    """Judges candidates against one original, on one set, by one metric and gate; the original runs once.

    `feeds` may be lazy; outputs are held a batch at a time, all of them only for a metric that is `whole`.
    Raises DataError or MetricError, one line, where samples, labels, metric and gate do not fit.
    """

    def __init__(
        self,
        original: Runner,
        feeds: Sequence[Feed],
        labels: Labels | None,
        metric: Metric,
        gate: Gate,
        *,
        seed: int = 0,
        limit: int = KEPT_BYTES,
    ) -> None:
        if not len(feeds):
            raise DataError("there are no samples to validate on; give some with --validation")
        if labels is not None and len(labels) != len(feeds):
            raise DataError(f"{len(labels)} labels for {len(feeds)} samples; give one label a sample")
        if metric.needs_labels and labels is None:
            raise MetricError(f"{metric.name} needs labels, and the validation samples have none")
        self.metric, self.gate, self.seed = metric, gate, seed
        self.level = gate.confidence or LEVEL
        self.labels = labels
        self.reference = Reference(original, feeds, limit=limit)
        self._baseline: _Run | None = None
        self._classes: str | None = _UNKNOWN

    def original(self, progress: Progress | None = None) -> Interval:
        """Return the original's own metric, measured at the first call; exact where the metric compares with it."""
        found = self._original(progress).measured
        if self.metric.needs_reference:
            return Interval(found.estimate, found.estimate, found.estimate, self.level)
        return interval_of(self.metric, found, self.level)

    def judge(self, candidate: Runner, progress: Progress | None = None) -> Verdict:
        """Return the verdict on a candidate. Raises ModelError where it lacks an output, RuntimeProblem, MetricError.

        `progress` also counts the original's samples, the first time.
        """
        missing = [name for name in self.reference.runner.names if name not in candidate.names]
        if missing:
            raise ModelError(f"the candidate has no output {missing[0]!r}, which the original has")
        base = self._original(progress)
        run = self._run(candidate, progress)
        relative = self.gate.drop_type == "relative"
        drop = drop_of(self.metric, base.measured, run.measured, self.level, relative=relative)
        bound = drop.high if self.gate.confidence is not None else drop.estimate
        original = self.original()
        scale = 1.0 if relative else max(abs(original.estimate), abs(run.measured.estimate))
        broken = _broken(self.metric.name, base, run)
        passed = broken is None and within(bound, self.gate.max_drop, scale)
        return Verdict(
            passed=passed,
            metric=self.metric.name,
            higher_is_better=self.metric.higher_is_better,
            samples=len(self.reference.feeds),
            original=original,
            candidate=interval_of(self.metric, run.measured, self.level),
            drop=drop,
            bound=bound,
            allowed=self.gate.max_drop,
            agreement=None if run.agreement is None else single_interval(run.agreement, self.level),
            differences=tuple(each.result() for each in run.moved),
            reason=broken or reason(self.metric.name, drop, self.gate, passed=passed),
            notes=tuple(_notes(self.metric.name, base, run, drop, self.gate)),
        )

    def _original(self, progress: Progress | None) -> _Run:
        if self._baseline is None:
            self._baseline = self._run(None, progress)
        return self._baseline

    def _run(self, candidate: Runner | None, progress: Progress | None) -> _Run:
        """Run the candidate (None: the original again) over the set."""
        moved = {name: Difference(name) for name in self.reference.runner.names}
        agreed: list[float] = []
        collector = Collector(self.metric, self.labels, self.seed, original=candidate is None)
        alone = candidate is not None and 1 == batch_size(candidate, self.reference.feeds) < self.reference.batch
        for feeds, reference in self.reference.batches():
            outputs = reference if candidate is None else _outputs(candidate, feeds, alone=alone)
            if self._classes is _UNKNOWN:
                self._classes = class_output(self.metric, listed(reference))
            for expected, got in zip(reference, outputs, strict=True):
                for name, tally in moved.items():
                    if numeric(expected[name]) and numeric(got[name]):
                        tally.add(expected[name], got[name])
                if self._classes:
                    agreed.append(agreement(expected[self._classes], got[self._classes]))
            collector.add(outputs, reference)
            if progress:
                progress(len(feeds))
        found = self._result(collector, any(each.broken for each in moved.values()))
        return _Run(found, tuple(moved.values()), np.array(agreed) if agreed else None)

    def _result(self, collector: Collector, broken: bool) -> Measured:
        try:
            return collector.result()
        except MetricError:
            if not broken or self._baseline is None:
                raise
            return self._baseline.measured.without_number()  # a metric may choke on NaN: the verdict says why


def _outputs(candidate: Runner, feeds: Sequence[Feed], *, alone: bool) -> list[dict[str, Array]]:
    """Return a candidate's outputs; `alone`: it gives others in a batch (int8 with ranges found at run time, say)."""
    if alone:
        return [candidate.run(feed) for feed in feeds]
    return split(candidate.run(join(feeds)), feeds)


def within(bound: float, allowed: float, scale: float) -> bool:
    """Return whether a bound is at most what is allowed, but for rounding: SLACK of the numbers compared."""
    return math.isfinite(bound) and bound <= allowed + SLACK * max(allowed, scale)


def _broken(name: str, base: _Run, run: _Run) -> str | None:
    """Return why a candidate fails whatever its metric says."""
    n = run.measured.n
    for each in base.moved:
        if each.void == n:
            return f"the original's own output {each.name!r} is never finite: nothing can be shown to hold"
    for each in run.moved:
        if each.broken:
            return f"output {each.name!r} has NaN or Inf in {each.broken} of {n} samples where the original has none"
    if not math.isfinite(base.measured.estimate):
        return f"the original's own {name} is not a finite number; {_unfit(base) or 'check the labels'}"
    if not math.isfinite(run.measured.estimate):
        reshaped = [f"output {each.name!r} has another shape in {each.reshaped} of {n}" for each in run.moved]
        causes = [text for text, each in zip(reshaped, run.moved, strict=True) if each.reshaped]
        return f"{name} of the candidate is not a finite number; {_unfit(base) or ', '.join(causes) or _ZEROS}"
    return None


_ZEROS = "the original's output may be all zeros in a sample: take another metric"


def _unfit(base: _Run) -> str:
    texts = [
        f"the original itself gives NaN or Inf in {each.unfit} of {base.measured.n} samples (output {each.name!r})"
        for each in base.moved
        if each.unfit
    ]
    return ", ".join(texts)


def _notes(name: str, base: _Run, run: _Run, drop: Interval, gate: Gate) -> Iterator[str]:
    n = run.measured.n
    if unfit := _unfit(base):
        yield f"{unfit}; these elements are left out of the differences"
    for each in run.moved:
        if each.reshaped:
            yield f"output {each.name!r} has another shape in {each.reshaped} of {n} samples: no distance can be given"
    if failed := max(base.measured.failed_resamples, run.measured.failed_resamples):
        yield f"{failed} of {len(run.measured.replicates)} resamples gave no {name} and were left out of its interval"
    if run.measured.replicates.size and not np.ptp(base.measured.replicates - run.measured.replicates):
        yield f"{name} changed on no resample, so its interval is a guess: return values a sample for an exact one"
    if note := width_note(drop, gate, n):
        yield note
