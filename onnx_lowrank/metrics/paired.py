"""Metrics against the original's own outputs: KL, agreement, relative L2, cosine. The original's value is `best`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_lowrank.errors import MetricError
from onnx_lowrank.goals import TOLERANCE
from onnx_lowrank.metrics.class_scores import BROKEN, class_count, decisions, log_probabilities, probable
from onnx_lowrank.metrics.evidence import class_evidence, unit_rows
from onnx_lowrank.metrics.lots import alike, lots
from onnx_lowrank.metrics.metric import Labels, floating, full_name, output_samples, require_reference
from onnx_lowrank.metrics.traits import Fit
from onnx_lowrank.types import Array, Outputs


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(original ‖ candidate), nats, mean over the positions of a sample; logits are softmaxed."""

    output: str | None = None
    higher_is_better: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    on_class_scores: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`kl`."""
        return full_name("kl", self.output)

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None) -> Array:
        """Return (n,) nats; inf where shapes differ or the candidate is not a number."""
        return np.array([kl(*pair) for pair in _pairs(self.name, self.output, reference, outputs)], np.float64)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Share of positions where candidate and original decide for the same class."""

    output: str | None = None
    higher_is_better: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    best: ClassVar[float] = 1.0
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    on_class_scores: ClassVar[bool] = True
    compares_decisions: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`agreement`."""
        return full_name("agreement", self.output)

    def fit(self, name: str, samples: Sequence[Array], labels: Sequence[Array] | None) -> Fit | None:
        """Without labels: outputs that look like class scores, and whole numbers."""
        if labels is not None:
            return None
        evidence = class_evidence(name, samples)
        if evidence:
            return Fit(f"{evidence}: agreement with the original's decisions")
        if not floating(samples[0]):
            return Fit(f"output {name!r} holds whole numbers: agreement with the original's")
        return None

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None) -> Array:
        """Return (n,) shares; 0 where shapes differ."""
        pairs = list(_pairs(self.name, self.output, reference, outputs))
        return np.array(agreements(*([pair[place] for pair in pairs] for place in range(2))), np.float64)


@dataclass(frozen=True, slots=True)
class RelativeL2:
    """‖y − y0‖ / ‖y0‖ over all elements of a sample, 1 at the most: no sample is worse than one that is all wrong."""

    output: str | None = None
    higher_is_better: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    default_drop: ClassVar[float] = TOLERANCE

    @property
    def name(self) -> str:
        """`relative-l2`."""
        return full_name("relative-l2", self.output)

    def fit(self, name: str, samples: Sequence[Array], labels: Sequence[Array] | None) -> Fit | None:
        """Without labels: every output that no metric before it fits."""
        if labels is not None:
            return None
        if unit_rows(samples):
            return Fit(f"output {name!r} holds vectors of length 1: relative-l2")
        return Fit(f"nothing says that output {name!r} holds class scores: relative-l2")

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None) -> Array:
        """Return (n,) ratios; 1 where shapes differ, or where the original is all zeros and the candidate is not."""
        return np.array(
            [min(relative_l2(*pair), 1.0) for pair in _pairs(self.name, self.output, reference, outputs)], np.float64
        )


@dataclass(frozen=True, slots=True)
class Cosine:
    """Cosine of the angle between the outputs, all elements of a sample as one vector; blind to their length."""

    output: str | None = None
    higher_is_better: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    best: ClassVar[float] = 1.0
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    @property
    def name(self) -> str:
        """`cosine`."""
        return full_name("cosine", self.output)

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None) -> Array:
        """Return (n,) cosines; 0 where shapes differ or one output alone is all zeros, 1 where both are."""
        return np.array([cosine(*pair) for pair in _pairs(self.name, self.output, reference, outputs)], np.float64)


def _pairs(name: str, output: str | None, reference: Outputs | None, outputs: Outputs) -> Iterator[tuple[Array, Array]]:
    return zip(output_samples(require_reference(reference, name), output), output_samples(outputs, output), strict=True)


def kl(original: Array, candidate: Array) -> float:
    """Return KL(original ‖ candidate), nats, mean over positions; the original's rows tell logits from probabilities.

    Raises MetricError for an output of one column or of whole numbers.
    """
    _scored(original, "kl")
    if original.shape != candidate.shape:
        return float("inf")
    if not original.size:
        return 0.0
    probabilities = probable(original)
    p = log_probabilities(original, probabilities=probabilities)
    q = log_probabilities(candidate, probabilities=probabilities)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > -np.inf, np.exp(p) * (p - q), 0.0)
    value = float(np.mean(terms.sum(1)))
    return max(value, 0.0) if not np.isnan(value) else float("inf")


def agreement(original: Array, candidate: Array) -> float:
    """Return the share of positions of equal decisions; NaN agrees with nothing. Raises MetricError for one column."""
    if original.dtype.kind == "f":
        _scored(original, "agreement")
    if original.shape != candidate.shape:
        return 0.0
    first, second = decisions(original), decisions(candidate)
    if not first.size:
        return 1.0
    equal = first == second
    if original.dtype.kind == "f":
        equal = equal & (first != BROKEN)
    return float(np.mean(equal))


def agreements(originals: Sequence[Array], candidates: Sequence[Array]) -> list[float]:
    """Return the `agreement` of every sample, of many at once where they are small and alike."""
    found: list[float] = []
    for pairs in lots(zip(originals, candidates, strict=True)):
        first, second = ([pair[place] for pair in pairs] for place in range(2))
        if len(pairs) > 1 and alike([*first, *second]):
            _scored(first[0], "agreement")
            ours, theirs = decisions(np.concatenate(first)), decisions(np.concatenate(second))
            found += ((ours == theirs) & (ours != BROKEN)).reshape(len(pairs), -1).mean(1).tolist()
        else:
            found += [agreement(*pair) for pair in pairs]
    return found


def relative_l2(original: Array, candidate: Array) -> float:
    """Return ‖candidate − original‖ / ‖original‖ over the elements where the original is finite; 0 for 0 / 0."""
    pair = _finite(original, candidate)
    if pair is None:
        return float("inf")
    apart, size = float(np.linalg.norm(pair[1] - pair[0])), float(np.linalg.norm(pair[0]))
    if not apart <= np.finfo(np.float64).max:
        return float("inf")
    return apart / size if size else (0.0 if apart == 0 else float("inf"))


def cosine(original: Array, candidate: Array) -> float:
    """Return the cosine over the elements where the original is finite."""
    pair = _finite(original, candidate)
    if pair is None or not np.isfinite(pair[1]).all():
        return 0.0
    sizes = [float(np.linalg.norm(side)) for side in pair]
    if not all(sizes):
        return float(not any(sizes))
    return float(np.clip(pair[0] / sizes[0] @ (pair[1] / sizes[1]), -1.0, 1.0))


def _finite(original: Array, candidate: Array) -> tuple[Array, Array] | None:
    """Return both as float64 vectors of the elements where the original is finite, None where shapes differ."""
    if original.shape != candidate.shape:
        return None
    first, second = np.asarray(original, np.float64).reshape(-1), np.asarray(candidate, np.float64).reshape(-1)
    finite = np.isfinite(first)
    return (first, second) if finite.all() else (first[finite], second[finite])


def _scored(array: Array, name: str) -> None:
    if array.dtype.kind != "f" or (array.size and class_count(array) < 2):
        raise MetricError(
            f"{name} needs a score a class; an output of shape {array.shape}, {array.dtype}, has none:"
            " take relative-l2, or another output with METRIC@OUTPUT"
        )
