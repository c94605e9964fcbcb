"""Which metric a run is judged by, and the sentence that says why."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics.custom import Custom, from_file
from onnx_lowrank.metrics.labelled import NUMBER_NAMES, CrossEntropy, Perplexity, SquaredError, Top, are_names
from onnx_lowrank.metrics.metric import (
    BuiltIn,
    Labels,
    Metric,
    floating,
    numeric,
    on_output,
    require_labels,
    taken,
)
from onnx_lowrank.metrics.paired import Agreement, Cosine, Divergence, RelativeL2
from onnx_lowrank.metrics.traits import Fit, fit_of
from onnx_lowrank.types import Array, Outputs

MetricSpec: TypeAlias = str | Metric | Callable[..., Any]
"""A built-in's name, `name@output`, `FILE.py:function`, a function (outputs, labels), or a metric."""

METRICS: tuple[BuiltIn, ...] = (
    Top(1),
    Top(5),
    CrossEntropy(),
    Perplexity(),
    SquaredError(),
    Divergence(),
    Agreement(),
    RelativeL2(),
    Cosine(),
)
"""All metrics that have a name. Where several fit an output by default, the first is taken."""


def parse_metric(spec: MetricSpec) -> Metric:
    """Return the metric that `spec` names. Raises MetricError; runs the user's code for FILE.py:function."""
    if isinstance(spec, Metric):
        return spec
    if not isinstance(spec, str):
        return Custom(spec, getattr(spec, "__name__", type(spec).__name__))
    name, _, output = spec.partition("@")
    for metric in METRICS:
        if metric.name == name.lower():
            return on_output(metric, output) if output else metric
    if ".py" in spec:
        return from_file(spec)
    names = [metric.name for metric in METRICS]
    close = difflib.get_close_matches(name.lower(), names, 1)
    hint = f"did you mean {close[0]}? There are" if close else "there are"
    raise MetricError(f"unknown metric {spec!r}: {hint} {', '.join(names)}, and FILE.py:function for your own")


def choose_metric(spec: MetricSpec | None, labels: Labels | None, outputs: Outputs) -> tuple[Metric, str]:
    """Return the metric asked for, or the one that fits, and one sentence that says why.

    `outputs` are the original's on the first few samples, in the model's order; `labels` are those of all samples.
    Raises MetricError where a built-in does not fit outputs or labels, or where labels fit no built-in.
    """
    if spec is not None:
        metric = parse_metric(spec)
        if metric.needs_labels:
            require_labels(labels, metric.name)
        if not metric.whole:
            few = len(next(iter(outputs.values()), ()))
            metric.values(outputs, taken(labels, range(few)), outputs)
        return metric, f"{metric.name}: as asked"
    return _for_outputs(outputs) if labels is None else _for_labels(labels, outputs)


def _for_outputs(outputs: Outputs) -> tuple[Metric, str]:
    best = _best_fit(outputs, _ordered(outputs), None)
    if best is None:
        raise MetricError("no output of the model holds numbers: give --metric FILE.py:function")
    name, metric, reason = best
    return on_output(metric, _unless_first(name, outputs)), f"no labels; {reason}"


def _for_labels(labels: Labels, outputs: Outputs) -> tuple[Metric, str]:
    truths = [np.asarray(label) for label in labels]
    best = _best_fit(outputs, _ordered(outputs), truths)
    if best is not None:
        name, metric, reason = best
        return on_output(metric, _unless_first(name, outputs)), reason
    if truths and are_names(truths[0]):
        raise MetricError(
            f"the labels are names ({_shown(truths[0])}, say), and outputs have numbers: give {NUMBER_NAMES}, or"
            " --metric FILE.py:function"
        )
    shape = f"{truths[0].dtype} of shape {truths[0].shape}" if truths else "none"
    raise MetricError(
        f"the labels ({shape}) fit no output ({_shapes(outputs)}): give --metric FILE.py:function,"
        " or a metric that needs no labels (agreement, relative-l2)"
    )


def _shown(label: Array) -> str:
    return repr(str(label.reshape(-1)[0]))[:40]


def _best_fit(
    outputs: Outputs, names: Sequence[str], truths: Sequence[Array] | None
) -> tuple[str, BuiltIn, str] | None:
    """Return the first sure fit, else the first: output, metric and reason. Outputs in the order of `names`."""
    fallback: tuple[str, BuiltIn, str] | None = None
    for name in names:
        for metric in METRICS:
            fit: Fit | None = fit_of(metric, name, outputs[name], truths)
            if fit is not None and fit.sure:
                return name, metric, fit.reason
            if fit is not None and fallback is None:
                fallback = name, metric, fit.reason
    return fallback


def unjudged(metric: Metric, outputs: Outputs, wanted: Sequence[str] | None) -> dict[str, Metric]:
    """Return the outputs that hold numbers and that a metric does not look at, each with a metric of its own.

    wanted: only those among them; None: all. A metric of the user's own looks at what it was seen to read.
    """
    read = getattr(metric, "reads", None)
    if read == ():  # not called yet, so nothing is known of it
        return {}
    if read is None:
        read = (metric.output if metric.output is not None else next(iter(outputs), None),)
    names = [name for name in _ordered(outputs) if name not in read and (wanted is None or name in wanted)]
    fits = [_best_fit(outputs, [name], None) for name in names]
    return {name: on_output(metric, name) for name, metric, _ in filter(None, fits)}


def _ordered(outputs: Outputs) -> list[str]:
    """Return the outputs that hold numbers, floating-point ones first."""
    names = [name for name, samples in outputs.items() if samples and all(numeric(sample) for sample in samples)]
    return sorted(names, key=lambda name: not floating(outputs[name][0]))


def _unless_first(name: str, outputs: Outputs) -> str | None:
    return None if name == next(iter(outputs)) else name


def _shapes(outputs: Outputs) -> str:
    return ", ".join(f"{name!r} {getattr(samples[0], 'shape', '?')}" for name, samples in outputs.items() if samples)
