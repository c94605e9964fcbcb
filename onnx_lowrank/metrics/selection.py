"""Which metric a run is judged by, and the sentence that says why."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics.class_scores import class_count
from onnx_lowrank.metrics.custom import Custom, from_file
from onnx_lowrank.metrics.evidence import class_evidence, unit_rows
from onnx_lowrank.metrics.labelled import CrossEntropy, SquaredError, Top
from onnx_lowrank.metrics.metric import IGNORED, Labels, Metric, floating, given, numeric, taken
from onnx_lowrank.metrics.paired import Agreement, Cosine, Divergence, RelativeL2
from onnx_lowrank.types import Array, Outputs

BuiltIn: TypeAlias = Top | CrossEntropy | SquaredError | Divergence | Agreement | RelativeL2 | Cosine
MetricSpec: TypeAlias = str | Metric | Callable[..., Any]
"""A built-in's name, `name@output`, `FILE.py:function`, a function (outputs, labels), or a metric."""

BUILT_IN: tuple[BuiltIn, ...] = (
    Top(1),
    Top(5),
    CrossEntropy(),
    SquaredError(),
    Divergence(),
    Agreement(),
    RelativeL2(),
    Cosine(),
)


def parse_metric(spec: MetricSpec) -> Metric:
    """Return the metric that `spec` names. Raises MetricError; runs the user's code for FILE.py:function."""
    if isinstance(spec, Metric):
        return spec
    if not isinstance(spec, str):
        return Custom(spec, getattr(spec, "__name__", type(spec).__name__))
    name, _, output = spec.partition("@")
    for metric in BUILT_IN:
        if metric.name == name.lower():
            return replace(metric, output=output) if output else metric
    if ".py" in spec:
        return from_file(spec)
    names = [metric.name for metric in BUILT_IN]
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
            given(labels, metric.name)
        if not metric.whole:
            few = len(next(iter(outputs.values()), ()))
            metric.values(outputs, taken(labels, range(few)), outputs)
        return metric, f"{metric.name}: as asked"
    if labels is not None:
        return _for_labels(labels, outputs)
    return _for_outputs(outputs)


def _for_outputs(outputs: Outputs) -> tuple[Metric, str]:
    name = next(iter(_ordered(outputs)), None)
    if name is None:
        raise MetricError("no output of the model holds numbers: give --metric FILE.py:function")
    metric, why = _for_output(name, outputs[name], _at(name, outputs))
    return metric, f"no labels; {why}"


def _for_output(name: str, samples: Sequence[Array], at: str | None) -> tuple[Metric, str]:
    """Return the metric that judges one output by the original's own, and why."""
    evidence = class_evidence(name, samples)
    if evidence:
        return Agreement(at), f"{evidence}: agreement with the original's decisions"
    if not floating(samples[0]):
        return Agreement(at), f"output {name!r} holds whole numbers: agreement with the original's"
    if unit_rows(samples):
        return RelativeL2(at), f"output {name!r} holds vectors of length 1: relative-l2"
    return RelativeL2(at), f"nothing says that output {name!r} holds class scores: relative-l2"


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
    return {name: _for_output(name, outputs[name], name)[0] for name in names}


def _for_labels(labels: Labels, outputs: Outputs) -> tuple[Metric, str]:
    few = min(len(labels), len(next(iter(outputs.values()), ())))
    truths = [np.asarray(label) for label in labels]
    for name in _ordered(outputs):
        samples = outputs[name]
        classes = class_count(samples[0]) if floating(samples[0]) else 0
        if classes > 1 and _class_numbers(truths, classes) and _sizes(truths, samples, few, classes):
            why = f"labels are whole numbers below the {classes} classes of output {name!r}: top1"
            return Top(1, _at(name, outputs)), why
    for name in _ordered(outputs):
        if all(truth.dtype.kind in "fiub" for truth in truths) and _sizes(truths, outputs[name], few, 1):
            at = _at(name, outputs)
            if floating(outputs[name][0]):
                return SquaredError(at), f"labels are numbers, as many as output {name!r} has: mse"
            return Top(1, at), f"labels and output {name!r} are whole numbers, as many: top1 counts the equal ones"
    shape = f"{truths[0].dtype} of shape {truths[0].shape}" if truths else "none"
    raise MetricError(
        f"the labels ({shape}) fit no output ({_shapes(outputs)}): give --metric FILE.py:function,"
        " or a metric that needs no labels (agreement, relative-l2)"
    )


def _class_numbers(truths: list[Array], classes: int) -> bool:
    for truth in truths:
        if truth.dtype.kind not in "fiub" or not np.isfinite(truth).all():
            return False
        fits = (truth == np.floor(truth)) & ((truth >= 0) & (truth < classes) | (truth == IGNORED))
        if not fits.all():
            return False
    return True


def _sizes(truths: list[Array], samples: Any, few: int, classes: int) -> bool:
    return all(truths[i].size * classes == samples[i].size for i in range(few))


def _ordered(outputs: Outputs) -> list[str]:
    """Return the outputs that hold numbers, floating-point ones first."""
    names = [name for name, samples in outputs.items() if samples and all(numeric(sample) for sample in samples)]
    return sorted(names, key=lambda name: not floating(outputs[name][0]))


def _at(name: str, outputs: Outputs) -> str | None:
    return None if name == next(iter(outputs)) else name


def _shapes(outputs: Outputs) -> str:
    return ", ".join(f"{name!r} {getattr(samples[0], 'shape', '?')}" for name, samples in outputs.items() if samples)
