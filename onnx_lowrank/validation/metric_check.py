"""Before minutes are spent: does the metric measure anything on these samples?

Everything here is an error of one line, with what was found and the likely causes, or a warning for the first screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics import (
    Measured,
    Metric,
    Top,
    agreement,
    decisions,
    listed,
    numeric,
    taken,
    traits_of,
)
from onnx_lowrank.metrics.class_scores import log_probabilities, probable
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples
from onnx_lowrank.samples.sets import pick
from onnx_lowrank.types import Array, Outputs, Verdict
from onnx_lowrank.validation import KEPT_BYTES, Reference
from onnx_lowrank.validation.class_order import other_order

LOOKED_AT = 128
"""Validation samples that the metric is checked on first."""
SHUFFLES = 39
"""How often outputs are shuffled among the samples: the original beats all of them by chance in 1 of 40 cases."""
OVERSURE = 0.5
"""How far confidence may exceed accuracy in the original: more is typical of wrong preprocessing."""
ENOUGH = 30
"""Samples below which a shuffle may by chance leave the outputs in place."""
FEWEST = 8
"""Samples that are checked however large their outputs are."""
CAUSES = (
    "likely causes: labels in another class order or shifted, labels of -1, other preprocessing than in training"
    " (scale, mean, channel order), another output than the one meant"
)
GO_ON = "mend the samples or the metric, or go on with --allow-weak-baseline"


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """The original's outputs on some validation samples, and the metric's values: as they are, and shuffled."""

    metric: Metric
    outputs: Outputs
    labels: Sequence[object] | Array | None
    measured: Measured
    shuffled: tuple[float, ...]
    count: int

    @property
    def value(self) -> float:
        """The metric of the original."""
        return self.measured.estimate

    @property
    def better(self) -> bool:
        """Whether the original beats its own outputs shuffled among the samples, every time; with few samples, ever."""
        sign = 1.0 if self.metric.higher_is_better else -1.0
        enough = all if self.count >= ENOUGH else any
        return enough(sign * (self.value - other) > 1e-12 * max(abs(self.value), abs(other)) for other in self.shuffled)

    @property
    def hopeful(self) -> bool:
        """Whether more samples may show the original to be better: it is, than most of the shuffled ones."""
        sign = 1.0 if self.metric.higher_is_better else -1.0
        return 2 * sum(sign * (self.value - other) > 0 for other in self.shuffled) > len(self.shuffled)


def check_metric(
    metric: Metric, samples: Samples, runner: Runner, seed: int, *, weak: bool
) -> tuple[list[str], Measured]:
    """Return warnings for the first screen, and the original's values on the samples that were checked.

    Raises MetricError for a metric that fails, or that measures nothing; `weak` (--allow-weak-baseline) turns the
    second into a warning. A part of the samples is checked, and all of them where that may change the answer.
    """
    tried = _tried(metric, samples, runner, seed, min(LOOKED_AT, len(samples)))
    problem = _problem(tried)
    if problem and not tried.better and tried.hopeful and tried.count < len(samples):
        tried = _tried(metric, samples, runner, seed, len(samples))
        problem = _problem(tried)
    if problem and not weak:
        raise MetricError(f"{problem}; {CAUSES}: {GO_ON}")
    warnings = [*([f"weak baseline, allowed: {problem}"] if problem else []), *one_sided(tried)]
    return warnings, tried.measured


def _tried(metric: Metric, samples: Samples, runner: Runner, seed: int, wanted: int) -> Tried:
    sample = runner.run(samples.feeds[0])
    size = sum(getattr(array, "nbytes", 0) for array in sample.values())
    count = min(wanted, max(KEPT_BYTES // max(size, 1), FEWEST))
    indices = np.linspace(0, len(samples) - 1, count).round().astype(int)
    reference = Reference(runner, pick(samples.feeds, [int(i) for i in indices]), limit=0, disk=0)
    outputs = listed([sample for _, run in reference.batches() for sample in run])
    labels = taken(samples.labels, indices)
    try:
        value = metric.values(outputs, labels, outputs)
    except MetricError as error:
        if metric.whole and wanted < len(samples):  # a single class among the few, for example
            return _tried(metric, samples, runner, seed, len(samples))
        raise MetricError(f"{error}; {_call_text(outputs, labels)}") from error
    rng = np.random.default_rng(seed)
    shuffled = []
    for _ in range(SHUFFLES if count > 1 else 0):
        order = rng.permutation(count)
        wrong = {name: [values[i] for i in order] for name, values in outputs.items()}
        try:
            shuffled.append(_value(metric, wrong, labels, outputs))
        except MetricError:  # outputs of one sample need not fit another's labels: that is a difference, too
            shuffled.append(-np.inf if metric.higher_is_better else np.inf)
    measured = Measured(value, count, np.zeros(0), known=metric.needs_reference)
    return Tried(metric, outputs, labels, measured, tuple(shuffled), count)


def _value(metric: Metric, outputs: Outputs, labels: Sequence[object] | Array | None, reference: Outputs) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.mean(metric.values(outputs, labels, reference)))


def _call_text(outputs: Outputs, labels: Sequence[object] | Array | None) -> str:
    """Return what a metric was called with: the leading axis of every output is the batch, of 1."""
    shapes = ", ".join(f"{name!r} {getattr(v[0], 'dtype', '?')} {list(np.shape(v[0]))}" for name, v in outputs.items())
    if labels is None:
        return f"each output is a list, one array a sample, of: {shapes}; there are no labels"
    first = np.asarray(labels[0])
    return f"each output is a list, one array a sample, of: {shapes}; each label is {first.dtype} {list(first.shape)}"


def _problem(tried: Tried) -> str:
    """Return why the metric measures nothing on these samples; empty where it does."""
    metric, n = tried.metric, tried.count
    if n < 2:
        return ""
    if infinite := _not_finite(tried):
        return infinite
    constant = [name for name, values in tried.outputs.items() if all(map(numeric, values)) and _equal(values)]
    if len(constant) == len(tried.outputs):
        return f"the original gives the same outputs for all {n} validation samples looked at ({constant[0]!r})"
    if not tried.better and not one_sided(tried):
        other = float(np.mean([d for d in tried.shuffled if np.isfinite(d)] or [np.nan]))
        return (
            f"{metric.name} measures nothing here: it is {tried.value:.4g} for the original, and {other:.4g} on average"
            f" with its outputs shuffled among the samples ({n} validation samples)"
        )
    return _reordered(tried) or _oversure(tried)


def _not_finite(tried: Tried) -> str:
    """Return which output of the original is not finite where that leaves nothing to measure; else empty."""
    broken = {
        name: sum(not np.isfinite(value).all() for value in values)
        for name, values in tried.outputs.items()
        if all(map(numeric, values))
    }
    for name, values in tried.outputs.items():
        if name in broken and not any(np.isfinite(value).any() for value in values):
            return f"the original's output {name!r} is never finite: nothing can be shown to hold"
    if np.isfinite(tried.value) or tried.measured.known:
        return ""
    where = ", ".join(f"output {name!r} has NaN or Inf in {count} of {tried.count}" for name, count in broken.items())
    return f"{tried.metric.name} of the original is not a finite number: {where} samples"


def _equal(values: Sequence[Array]) -> bool:
    return all(value.shape == values[0].shape and np.array_equal(value, values[0]) for value in values[1:])


def _oversure(tried: Tried) -> str:
    """Return whether a classifier is far surer of its decisions than it is right; empty where it is not."""
    metric = tried.metric
    if not (metric.needs_labels and traits_of(metric).on_class_scores) or tried.labels is None:
        return ""
    scores = tried.outputs[metric.output if metric.output is not None else next(iter(tried.outputs))]
    if any(score.dtype.kind != "f" or not score.size for score in scores):
        return ""
    right = float(np.mean(Top(1, metric.output).values(tried.outputs, tried.labels)))
    sure = float(np.mean([np.exp(log_probabilities(s, probabilities=probable(s)).max(1)).mean() for s in scores]))
    if sure - right <= OVERSURE:
        return ""
    return (
        f"the original is right in {right:.4f} of {tried.count} validation samples and {100 * sure:.1f} % sure of its"
        f" decisions on average ({metric.name} {tried.value:.4g})"
    )


def _reordered(tried: Tried) -> str:
    """Return whether the labels number classes in another order than the model does; empty where they do not."""
    metric = tried.metric
    if not (metric.needs_labels and traits_of(metric).on_class_scores) or tried.labels is None:
        return ""
    scores = tried.outputs[metric.output if metric.output is not None else next(iter(tried.outputs))]
    labels = [np.asarray(label).reshape(-1) for label in tried.labels]
    decided = [decisions(score).reshape(-1) for score in scores]
    if any(a.size != 1 or b.size != 1 or a.dtype.kind not in "iu" for a, b in zip(labels, decided, strict=True)):
        return ""
    return other_order(np.concatenate(labels).astype(np.int64), np.concatenate(decided).astype(np.int64))


def one_sided(tried: Tried) -> list[str]:
    """Return a warning where validation holds one class or one decision only: the metric is blind to the others."""
    said = []
    if tried.labels is not None and tried.count > 1:
        truths = [np.asarray(label) for label in tried.labels]
        if truths[0].size == 1 and truths[0].dtype.kind in "iubU" and _equal([t.reshape(-1) for t in truths]):
            said.append(
                f"one-sided validation: every label is {truths[0].reshape(-1)[0]}; other classes are not judged"
            )
    if traits_of(tried.metric).compares_decisions and tried.count > 1:
        name = tried.metric.output if tried.metric.output is not None else next(iter(tried.outputs))
        values = tried.outputs[name]
        if all(value.shape == values[0].shape and agreement(values[0], value) == 1 for value in values):
            said.append(f"one-sided validation: the original decides for class {decisions(values[0])[0]} every time")
    return said


def refuse_unexplained(verdicts: Sequence[Verdict], *, weak: bool) -> None:
    """Raise MetricError where a metric holds although decisions changed that it calls right before and after."""
    worst = max((v for v in verdicts if v.passed), key=lambda v: v.unexplained, default=None)
    if worst is None or worst.unexplained <= worst.allowed or weak:
        return
    raise MetricError(
        f"{worst.metric} holds while decisions change: in {worst.unexplained:.4f} of {worst.samples} samples the"
        f" model decides for another class than the original ({worst.original.estimate:.4f}), and the metric calls"
        f" both right; more than the {worst.allowed:g} allowed is refused. Does it look at the decision at all? For"
        " one that is coarser than classes (superclasses, say) go on with --allow-weak-baseline"
    )
