"""The judge: original against candidate on held-out samples -> Verdict. Whatever cannot be shown to hold fails."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from onnx_lowrank.errors import DataError, MetricError, ModelError
from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics import (
    Collector,
    Difference,
    Labels,
    Measured,
    Metric,
    agreements,
    allowed_drop,
    bound_of,
    class_output,
    drop_of,
    interval_of,
    listed,
    more_samples,
    numeric,
    reason,
    unjudged,
)
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.statistics import single_interval
from onnx_lowrank.types import Array, Bound, Feed, Interval, OutputVerdict, Verdict, Word
from onnx_lowrank.types.words import counted
from onnx_lowrank.validation.findings import Comparison, broken, elsewhere, notes, unexplained
from onnx_lowrank.validation.reference import KEPT_BYTES, Reference
from onnx_lowrank.validation.rules import rule_of

_UNKNOWN = ""
"""Not yet searched for."""

Progress = Callable[[int], None]
"""Called with the number of samples done since the last call."""
Watch = Callable[[Sequence[Mapping[str, Array]], Sequence[Mapping[str, Array]]], None]


class Judge:
    """Judges candidates against one original, on one set, by one metric and gate; the original runs once.

    `feeds` may be lazy; outputs are in memory a batch at a time, all of them only for a metric that is `whole`.
    groups: (n,) numbers from 0 of the sources that samples share. outputs: those that count besides the metric's own;
    None: every one that holds numbers. spread: the original is not deterministic, so what compares with it is measured
    against its own second run. Raises DataError or MetricError, one line, where samples, labels and metric do not fit.
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
        disk: int | None = None,
        groups: Array | None = None,
        outputs: Sequence[str] | None = None,
        spread: bool = False,
    ) -> None:
        if not len(feeds):
            raise DataError("there are no samples to validate on; give some with --validation")
        if labels is not None and len(labels) != len(feeds):
            raise DataError(
                f"{counted(len(labels), 'label')} for {counted(len(feeds), 'sample')}; give one label a sample"
            )
        if metric.needs_labels and labels is None:
            raise MetricError(f"{metric.name} needs labels, and the validation samples have none")
        self.metric, self.gate, self.rule, self.seed = metric, gate, rule_of(gate), seed
        self.allowed = allowed_drop(metric, gate)
        self.labels, self.groups, self.spread = labels, groups, spread
        self.reference = Reference(original, feeds, limit=limit, disk=disk)
        self._wanted = outputs
        self._others: dict[str, Metric] = {}
        self._baseline: Comparison | None = None
        self._classes: str | None = _UNKNOWN

    def by(self, gate: Gate) -> Judge:
        """Return the judge by a gate of another confidence; what the original did is shared."""
        self.baseline()
        other = copy.copy(self)
        other.gate = gate
        return other

    @property
    def units(self) -> int:
        """How many independent samples there are."""
        return len(self.reference.feeds) if self.groups is None else int(self.groups.max()) + 1

    def original(self, progress: Progress | None = None) -> Interval:
        """Return the original's own metric, measured at the first call; exact where the metric compares with it."""
        measured = self.baseline(progress).measured
        if measured.known:
            return Interval(measured.estimate, measured.estimate, measured.estimate, self.gate.confidence)
        return interval_of(self.metric, measured, self.gate.confidence)

    def judge(self, candidate: Runner, progress: Progress | None = None) -> Verdict:
        """Return the verdict on a candidate. Raises ModelError where it lacks an output, RuntimeProblem, MetricError.

        `progress` also counts the original's samples, the first time.
        """
        base = self.baseline(progress)
        return self.verdict(base, self.compared(candidate, progress))

    def verdict(self, base: Comparison, run: Comparison) -> Verdict:
        """Return what follows from what the original and a candidate did."""
        name, gate, level = self.metric.name, self.gate, self.gate.confidence
        drop = drop_of(self.metric, base.measured, run.measured, level, relative=gate.relative)
        bound = bound_of(self.metric, base.measured, run.measured, gate, self.allowed, seed=self.seed)
        original = self.original()
        others = tuple(self._other(output, metric, base, run) for output, metric in self._others.items())
        failure = broken(name, base, run) or elsewhere(others)
        word = self._word(drop, bound, max(abs(original.estimate), abs(run.measured.estimate)))
        said = failure or reason(self.metric, drop, bound, gate, word, self.units)
        return Verdict(
            word="failed" if failure else word,
            metric=name,
            higher_is_better=self.metric.higher_is_better,
            samples=len(self.reference.feeds),
            original=original,
            candidate=interval_of(self.metric, run.measured, level),
            drop=drop,
            bound=bound,
            allowed=self.allowed,
            drop_type=gate.drop_type,
            agreement=None if run.agreement is None else single_interval(run.agreement, level),
            differences=tuple(difference.result() for difference in run.moved),
            others=others,
            units=self.units,
            unexplained=unexplained(self.metric, base, run),
            reason=said,
            notes=tuple(self._notes(base, run, drop, bound)),
        )

    def _word(self, drop: Interval, bound: Bound, size: float) -> Word:
        scale = 1.0 if self.gate.relative else size
        return self.rule.name if self.rule.holds(drop, bound, self.allowed, scale) else "failed"

    def _other(self, name: str, metric: Metric, base: Comparison, run: Comparison) -> OutputVerdict:
        """Return the verdict on an output that the metric does not read; its drop is never relative."""
        allowed, gate = allowed_drop(metric, self.gate), Gate(confidence=self.gate.confidence)
        first, second = base.others[name], run.others[name]
        drop = drop_of(metric, first, second, gate.confidence, relative=False)
        bound = bound_of(metric, first, second, gate, allowed, seed=self.seed)
        return OutputVerdict(name, metric.name, drop, bound, allowed, self.rule.holds(drop, bound, allowed, 1.0))

    def baseline(self, progress: Progress | None = None) -> Comparison:
        """Return what the original does against itself, measured once."""
        if self._baseline is None:
            self._baseline = self.compared(None, progress)
        return self._baseline

    def compared(
        self, candidate: Runner | None, progress: Progress | None = None, watch: Watch | None = None
    ) -> Comparison:
        """Run a candidate (None: the original again) over the set. Raises ModelError where it lacks an output.

        `watch` is shown the original's outputs and the candidate's, a batch at a time.
        """
        missing = [] if candidate is None else [n for n in self.reference.runner.names if n not in candidate.names]
        if missing:
            raise ModelError(f"the candidate has no output {missing[0]!r}, which the original has")
        if candidate is None and self.spread:
            candidate = self.reference.runner
        known = candidate is None
        moved = {name: Difference(name) for name in self.reference.runner.names}
        agreed: list[float] = []
        main = Collector(self.metric, self.labels, self.seed, original=known, groups=self.groups)
        others: dict[str, Collector] = {}
        for feeds, reference, outputs in self.reference.beside(candidate):
            if self._classes is _UNKNOWN:
                self._classes = class_output(self.metric, listed(reference))
                self._others = unjudged(self.metric, listed(reference), self._wanted)
            others = others or {
                name: Collector(metric, None, self.seed, original=known, groups=self.groups)
                for name, metric in self._others.items()
            }
            expected, got = listed(reference), listed(outputs)
            for name, tally in moved.items():
                if all(map(numeric, (*expected[name], *got[name]))):
                    tally.add_all(expected[name], got[name])
            if self._classes:
                agreed += agreements(expected[self._classes], got[self._classes])
            for collector in (main, *others.values()):
                collector.add(outputs, reference)
            if watch:
                watch(reference, outputs)
            if progress:
                progress(len(feeds))
        measured = self._result(main, any(difference.broken for difference in moved.values()))
        rest = {name: collector.result() for name, collector in others.items()}
        return Comparison(measured, tuple(moved.values()), np.array(agreed) if agreed else None, rest)

    def _result(self, collector: Collector, broken: bool) -> Measured:
        try:
            return collector.result()
        except MetricError:
            if not broken or self._baseline is None:
                raise
            return self._baseline.measured.without_number()  # a metric may fail on NaN: the verdict says why

    def _notes(self, base: Comparison, run: Comparison, drop: Interval, bound: Bound) -> Iterator[str]:
        yield from notes(self.metric.name, base, run)
        if self._wanted is not None:
            counting = (*self._wanted, self.metric.output)
            ignored = [difference.result() for difference in run.moved if difference.name not in counting]
            moved = ", ".join(f"{output.name!r} moved by {100 * output.relative_l2:.3g} %" for output in ignored)
            if ignored:
                yield f"outputs that do not count (--output): {moved}"
        if note := more_samples(drop, bound, self.gate, self.allowed, self.units):
            yield note
