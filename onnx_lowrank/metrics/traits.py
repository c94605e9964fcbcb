"""What a metric may say of itself beyond the protocol: attributes and methods that it may have, each with a default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from onnx_lowrank.goals import MAX_DROP, Gate
from onnx_lowrank.metrics.metric import Metric
from onnx_lowrank.types import Array


@dataclass(frozen=True, slots=True)
class Traits:
    """What a metric may say of itself besides, each as an attribute of that name; these are the defaults.

    on_class_scores: it reads one score per class (or class numbers); labels, where it needs any, are class numbers.
    compares_decisions: it reads the decision alone, so that a changed model can be as good as the original.
    accepts_several: a sample can be right although the decision is wrong, as for top5.
    default_drop: the drop that is allowed where the user names none.

    There are three more, each with a function that reads it: `bounds` (bounds_of), `fit` (fit_of) and `reads`, the
    outputs it was seen to read, where that is not `output` (selection.unjudged).
    """

    on_class_scores: bool = False
    compares_decisions: bool = False
    accepts_several: bool = False
    default_drop: float = MAX_DROP


def traits_of(metric: Metric) -> Traits:
    """Return what the metric says of itself, with the defaults for what it does not say."""
    said: dict[str, Any] = {
        field.name: getattr(metric, field.name) for field in fields(Traits) if hasattr(metric, field.name)
    }
    return Traits(**said)


def allowed_drop(metric: Metric, gate: Gate) -> float:
    """Return the drop that the gate allows of this metric, in the metric's unit or as a share."""
    return gate.allowed(traits_of(metric).default_drop)


@dataclass(frozen=True, slots=True)
class Fit:
    """Why a metric is the one to take by default for an output; a `sure` fit goes before all others."""

    reason: str
    sure: bool = False


def fit_of(metric: Metric, name: str, samples: Sequence[Array], labels: Sequence[Array] | None) -> Fit | None:
    """Return why the metric may be chosen for output `name` where the user names none; None where it may not.

    A method `fit` that a metric may have. samples: the output on a few samples; labels: those of all samples.
    """
    fit = getattr(metric, "fit", None)
    answer: Fit | None = None if fit is None else fit(name, samples, labels)
    return answer


def bounds_of(metric: Metric) -> tuple[float, float] | None:
    """Return between which two numbers every value a sample lies; None where the metric promises nothing.

    An attribute `bounds` that a metric may have; a promise that is broken is a MetricError where it shows.
    """
    bounds = getattr(metric, "bounds", None)
    return None if bounds is None else (float(bounds[0]), float(bounds[1]))
