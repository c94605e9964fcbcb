"""Metrics against labels: top-1, top-5, cross-entropy, perplexity, mean squared error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics.class_scores import class_count, log_probabilities, probable, ranks_of_labels, rows
from onnx_lowrank.metrics.lots import alike, lots
from onnx_lowrank.metrics.metric import IGNORED, Labels, floating, full_name, output_samples, require_labels
from onnx_lowrank.metrics.traits import Fit
from onnx_lowrank.types import Array, Outputs

NUMBER_NAMES = (
    "--classes FILE with the names of all classes, one a line, in the model's order"
    " (onnx_lowrank.samples.NamedLabels in Python)"
)
"""What to give where labels are names."""


@dataclass(frozen=True, slots=True)
class Top:
    """Share of positions whose label is among the `k` largest scores; an output of class numbers has k = 1 only."""

    k: int = 1
    output: str | None = None
    higher_is_better: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    best: ClassVar[float] = 1.0
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    on_class_scores: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`top1`, `top5`."""
        return full_name(f"top{self.k}", self.output)

    @property
    def accepts_several(self) -> bool:
        """Whether other decisions than the label count as right."""
        return self.k > 1

    def fit(self, name: str, samples: Sequence[Array], labels: Sequence[Array] | None) -> Fit | None:
        """k = 1 only: class numbers for one score per class (sure), or as many whole numbers as the output has."""
        if self.k > 1 or labels is None:
            return None
        if not floating(samples[0]):
            if _are_numbers(labels) and _as_many(labels, samples, 1):
                return Fit(f"labels and output {name!r} are whole numbers, as many: top1 counts the equal ones")
            return None
        classes = class_count(samples[0])
        if classes > 1 and _as_many(labels, samples, classes) and _are_class_numbers(labels, classes):
            return Fit(f"labels are whole numbers below the {classes} classes of output {name!r}: top1", sure=True)
        return None

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None = None) -> Array:
        """Return (n,) shares."""
        pairs = lots(_pairs(self.name, self.output, outputs, labels))
        return np.array([share for lot in pairs for share in self._shares(lot)], np.float64)

    def _shares(self, pairs: Sequence[tuple[Array, Array]]) -> Iterable[float]:
        """Return the shares of samples at once where they are small and alike, else of one after the other."""
        scores = [scores for scores, _ in pairs]
        if len(pairs) > 1 and alike(scores):
            positions = len(rows(scores[0]))
            truths = [label.reshape(-1) for _, label in pairs]
            if all(len(truth) == positions and (truth != IGNORED).any() for truth in truths):
                right, counted = self._right(np.concatenate(scores), np.concatenate(truths))
                hits, counts = (each.reshape(-1, positions).sum(1) for each in (right & counted, counted))
                return list(hits / counts)
        return [self._share(*pair) for pair in pairs]

    def _right(self, array: Array, label: Array) -> tuple[Array, Array]:
        """Return (positions,) whether the label is among the largest scores, and which positions count."""
        counted, truth = class_numbers(array, label, self.name)
        classes = class_count(array)
        if classes <= self.k > 1:
            raise MetricError(f"{self.name} is always 1 with {classes} classes; take top1")
        return ranks_of_labels(array, truth) < self.k, counted

    def _share(self, array: Array, label: Array) -> float:
        if array.dtype.kind != "f" and self.k == 1:
            truth = _whole(label, self.name)
            if truth.size != array.size:
                raise MetricError(f"{self.name}: {truth.size} labels for the {array.size} class numbers of a sample")
            counted = _counting(truth, self.name)
            return float(np.mean(array.reshape(-1)[counted] == truth[counted]))
        right, counted = self._right(array, label)
        return float(np.mean(right[counted]))


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Mean over positions of −log p(label), nats. Rows in [0, 1] that sum to 1 are probabilities, others logits."""

    output: str | None = None
    higher_is_better: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    on_class_scores: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`cross-entropy`."""
        return full_name("cross-entropy", self.output)

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None = None) -> Array:
        """Return (n,) nats."""
        return np.array([float(np.mean(nats)) for nats in _nats(self.name, self.output, outputs, labels)], np.float64)


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp of the mean over all positions of −log p(label): of a set, as texts weigh by their length.

    Its bound is that of an aggregate: a bootstrap over samples (texts).
    """

    output: str | None = None
    higher_is_better: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    on_class_scores: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`perplexity`."""
        return full_name("perplexity", self.output)

    def parts(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None = None) -> Array:
        """Return (n, 2): the nats of a sample's positions that count, in all, and their number."""
        found = _nats(self.name, self.output, outputs, labels)
        return np.array([(float(np.sum(nats)), len(nats)) for nats in found], np.float64).reshape(-1, 2)

    def pooled(self, parts: Array) -> float:
        """Return the perplexity of samples, by their parts; inf where it is beyond float64."""
        nats, positions = parts.sum(0)
        with np.errstate(over="ignore"):
            return float(np.exp(nats / positions))

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None = None) -> float:
        """Return the perplexity of all samples."""
        return self.pooled(self.parts(outputs, labels))


def _nats(name: str, output: str | None, outputs: Outputs, labels: Labels | None) -> Iterator[Array]:
    """Yield −log p(label) of every sample's positions that count, in nats."""
    for array, label in _pairs(name, output, outputs, labels):
        counted, truth = class_numbers(array, label, name)
        logs = log_probabilities(array, probabilities=probable(array))
        yield -np.take_along_axis(logs, truth[:, None], 1)[counted].reshape(-1)


@dataclass(frozen=True, slots=True)
class SquaredError:
    """Mean over the elements of a sample of (output − label)²; a label has as many elements as the output."""

    output: str | None = None
    higher_is_better: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    best: ClassVar[float] = 0.0

    @property
    def name(self) -> str:
        """`mse`."""
        return full_name("mse", self.output)

    def fit(self, name: str, samples: Sequence[Array], labels: Sequence[Array] | None) -> Fit | None:
        """Labels that are numbers, as many as a floating-point output has."""
        if labels is None or not floating(samples[0]):
            return None
        if _are_numbers(labels) and _as_many(labels, samples, 1):
            return Fit(f"labels are numbers, as many as output {name!r} has: mse")
        return None

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None = None) -> Array:
        """Return (n,) squared errors in the square of the output's unit."""
        errors = []
        for array, label in _pairs(self.name, self.output, outputs, labels):
            if label.dtype.kind not in "fiub":
                raise MetricError(f"{self.name} needs labels that are numbers, not {label.dtype}")
            if label.size != array.size:
                raise MetricError(
                    f"{self.name}: a label of shape {label.shape} for an output of shape {array.shape};"
                    " they need the same number of elements"
                )
            with np.errstate(over="ignore", invalid="ignore"):
                apart = array.astype(np.float64).reshape(-1) - label.astype(np.float64).reshape(-1)
                errors.append(float(np.mean(apart**2)))
        return np.array(errors, np.float64)


def _pairs(name: str, output: str | None, outputs: Outputs, labels: Labels | None) -> Iterator[tuple[Array, Array]]:
    samples, truths = output_samples(outputs, output), require_labels(labels, name)
    if len(samples) != len(truths):
        raise MetricError(f"{name}: {len(truths)} labels for {len(samples)} samples; give one label a sample")
    for sample, truth in zip(samples, truths, strict=True):
        yield sample, np.asarray(truth)


def are_names(label: Array) -> bool:
    """Return whether a label is text."""
    texts = label.dtype.kind in "OT" and all(isinstance(value, str) for value in label.ravel())
    return label.size > 0 and (texts or label.dtype.kind in "US")


def _are_numbers(labels: Sequence[Array]) -> bool:
    return all(label.dtype.kind in "fiub" for label in labels)


def _are_class_numbers(labels: Sequence[Array], classes: int) -> bool:
    for label in labels:
        if label.dtype.kind not in "fiub" or not np.isfinite(label).all():
            return False
        fits = (label == np.floor(label)) & ((label >= 0) & (label < classes) | (label == IGNORED))
        if not fits.all():
            return False
    return True


def _as_many(labels: Sequence[Array], samples: Sequence[Array], classes: int) -> bool:
    """Return whether there is one label for every `classes` elements of a sample, where both are known."""
    return all(label.size * classes == sample.size for label, sample in zip(labels, samples, strict=False))


def _whole(label: Array, name: str) -> Array:
    """Return (positions,) whole numbers."""
    flat = label.reshape(-1)
    if flat.dtype.kind not in "fiub" or not np.isfinite(flat).all() or (flat != np.floor(flat)).any():
        mend = f": give {NUMBER_NAMES}" if are_names(flat) else ""
        raise MetricError(f"{name} needs labels that are whole numbers (class numbers from 0), not {flat[:3]}{mend}")
    return flat.astype(np.int64)


def _counting(truth: Array, name: str) -> Array:
    counted: Array = truth != IGNORED
    if not counted.any():
        raise MetricError(f"{name}: a sample has no label but {IGNORED} (ignored); leave it out")
    return counted


def class_numbers(array: Array, label: Array, name: str) -> tuple[Array, Array]:
    """Return which positions count, and (positions,) class numbers, 0 where they do not."""
    truth = _whole(label, name)
    positions, classes = rows(array).shape
    if classes < 2:
        raise MetricError(f"{name} needs a score a class; an output of shape {array.shape} has one: take mse")
    if truth.size != positions:
        raise MetricError(
            f"{name}: {truth.size} labels for the {positions} positions of an output of shape {array.shape}"
        )
    counted = _counting(truth, name)
    if truth[counted].min() < 0 or truth[counted].max() >= classes:
        wrong = truth[counted][(truth[counted] < 0) | (truth[counted] >= classes)][0]
        raise MetricError(f"{name}: a label is {wrong}, but the output has {classes} classes, 0 to {classes - 1}")
    return counted, np.where(counted, truth, 0)
