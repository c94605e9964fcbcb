"""What a metric is, and how it finds its output and its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, replace
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from onnx_lowrank.errors import MetricError
from onnx_lowrank.types import Array, Outputs

Labels: TypeAlias = Sequence[Any] | Array
"""One label a sample: a whole number, an array of them (one a position, IGNORED where there is none), or floats."""

IGNORED = -100
"""The label of a position that does not count."""


@runtime_checkable
class Metric(Protocol):
    """A number for a set of samples, larger or smaller is better; any frozen object with these attributes will do."""

    @property
    def name(self) -> str:
        """What the report calls it; `metric@output` where it is not of the first output."""
        ...

    @property
    def output(self) -> str | None:
        """The output it looks at; None for the first."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Its direction."""
        ...

    @property
    def needs_labels(self) -> bool:
        """Whether it compares with labels."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the original's outputs; its value for the original is then `best`."""
        ...

    @property
    def whole(self) -> bool:
        """Whether it must see all samples at once; otherwise samples stream, a batch at a time."""
        ...

    @property
    def best(self) -> float | None:
        """The value that cannot be bettered, None where there is none."""
        ...

    def values(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None) -> Array | float:
        """Return (n,) float64 values to be averaged, one a sample, or one float of all samples (an aggregate).

        Raises MetricError where outputs, labels and metric do not fit.
        """
        ...


@runtime_checkable
class Pooled(Metric, Protocol):
    """An aggregate that needs only a few numbers a sample, so that samples stream all the same."""

    def parts(self, outputs: Outputs, labels: Labels | None, reference: Outputs | None) -> Array:
        """Return (n, k) float64, a row a sample. Raises MetricError where outputs, labels and metric do not fit."""
        ...

    def pooled(self, parts: Array) -> float:
        """Return the metric of the samples with these rows."""
        ...


class BuiltIn(Metric, Protocol):
    """A metric that a name can ask for: a frozen dataclass, one of whose fields is `output`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def on_output(metric: BuiltIn, output: str | None) -> Metric:
    """Return the metric of another output; None: the first."""
    return replace(metric, output=output)


def full_name(metric: str, output: str | None) -> str:
    """Return the metric's full name."""
    return metric if output is None else f"{metric}@{output}"


def numeric(array: object) -> bool:
    """Return whether this is an array of real numbers (onnxruntime also returns strings, lists and maps)."""
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiub"


def floating(array: object) -> bool:
    """Return whether this is an array of floating-point numbers."""
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def output_samples(outputs: Outputs, name: str | None) -> Sequence[Array]:
    """Return the samples of output `name`, or of the first. Raises MetricError where it is missing or not numbers."""
    if not outputs:
        raise MetricError("the model has no outputs to compare")
    key = next(iter(outputs)) if name is None else name
    if key not in outputs:
        raise MetricError(f"the model has no output {key!r}; its outputs are {', '.join(map(repr, outputs))}")
    samples = outputs[key]
    if not all(numeric(sample) for sample in samples):
        raise MetricError(f"output {key!r} does not hold numbers; choose another: METRIC@OUTPUT")
    return samples


def require_labels(labels: Labels | None, metric: str) -> Labels:
    """Return the labels. Raises MetricError where there are none."""
    if labels is None:
        raise MetricError(
            f"{metric} needs labels: add an array 'labels' to the data,"
            " or take a metric that needs none (agreement, relative-l2)"
        )
    return labels


def require_reference(reference: Outputs | None, metric: str) -> Outputs:
    """Return the original's outputs. Raises MetricError where there are none."""
    if reference is None:
        raise MetricError(f"{metric} compares with the original model's outputs, and none were given")
    return reference


def taken(labels: Labels | None, indices: Sequence[int] | Array) -> Labels | None:
    """Return the labels at `indices`: an array of an array, a list of any other sequence."""
    if labels is None or isinstance(labels, np.ndarray):
        return None if labels is None else labels[np.asarray(indices, int)]
    return [labels[int(index)] for index in indices]
