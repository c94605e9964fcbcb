"""A metric over samples that come a batch at a time: streamed where it can be, held where it must see all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics.estimate import Measured, best_of, measured, measured_by_parts
from onnx_lowrank.metrics.metric import Labels, Metric, Pooled, taken
from onnx_lowrank.metrics.traits import bounds_of
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Feed

FEW = 16
"""How many samples are looked at to choose a metric or a divergence."""
Sample = Mapping[str, Array]
"""The outputs of one sample."""


class Collector:
    """Takes the outputs of one model; `result` is what the metric says of them all.

    For the original itself (`original`) a metric that compares with it is not computed: it is `best`. groups: (n,)
    numbers of the sources that samples share.
    """

    def __init__(
        self, metric: Metric, labels: Labels | None, seed: int, *, original: bool, groups: Array | None = None
    ) -> None:
        self._metric, self._labels, self._seed, self._groups = metric, labels, seed, groups
        self._known = original and metric.needs_reference
        self._values: list[Array] = []
        self._outputs: list[Sample] = []
        self._reference: list[Sample] = []
        self._count = 0

    def add(self, outputs: Sequence[Sample], reference: Sequence[Sample]) -> None:
        """Take the next samples. Raises MetricError where outputs, labels and metric do not fit."""
        start, self._count = self._count, self._count + len(outputs)
        if self._known:
            return
        labels = taken(self._labels, range(start, self._count))
        if isinstance(self._metric, Pooled):
            self._values.append(self._metric.parts(listed(outputs), labels, listed(reference)))
            return
        if self._metric.whole:
            self._outputs.extend(outputs)
            self._reference.extend(reference if self._metric.needs_reference else ())
            return
        values = self._metric.values(listed(outputs), labels, listed(reference))
        if isinstance(values, float):
            raise MetricError(f"{self._metric.name} returns one number for many samples: such a metric must be `whole`")
        self._values.append(values)

    def result(self) -> Measured:
        """Return the metric of all samples taken."""
        if self._known:
            return Measured(np.full(self._count, best_of(self._metric)), self._count, np.zeros(0), self._groups, True)
        if isinstance(self._metric, Pooled):
            return measured_by_parts(self._metric, np.concatenate(self._values), self._seed, self._groups)
        if self._metric.whole:
            reference = listed(self._reference) if self._reference else None
            found = measured(self._metric, listed(self._outputs), self._labels, reference, self._seed, self._groups)
            if not isinstance(found.values, float):
                self._bounded(found.values)
            return found
        return Measured(self._bounded(np.concatenate(self._values)), self._count, np.zeros(0), self._groups)

    def _bounded(self, values: Array) -> Array:
        """Return the values. Raises MetricError where one breaks the promise of the metric's `bounds`."""
        bounds = bounds_of(self._metric)
        finite = values[np.isfinite(values)]
        if bounds is not None and finite.size and not bounds[0] <= finite.min() <= finite.max() <= bounds[1]:
            raise MetricError(
                f"{self._metric.name} promises values from {bounds[0]:g} to {bounds[1]:g} and returned"
                f" {finite.min():g} to {finite.max():g}: correct its `bounds`, or leave them out"
            )
        return values


def listed(samples: Sequence[Sample]) -> dict[str, list[Array]]:
    """Return output name -> one array a sample."""
    return {name: [sample[name] for sample in samples] for name in samples[0]}


def first_outputs(runner: Runner, feeds: Sequence[Feed]) -> dict[str, list[Array]]:
    """Return a model's outputs on the first few samples."""
    return listed([runner.run(feed) for feed in feeds[:FEW]])
