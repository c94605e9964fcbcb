"""Companions: what labels of calibration samples do in closed form, beside what truncation does.

Temperature and bias of the logits, and the last layer's refit. Each is a model of its own with its own gain on samples
that it was not fitted on, to be judged apart from truncation: any model profits that knows its labels badly, compressed
or not (docs/method.md, section 5.1).

for companion in companions(candidate, split.calibration, options):
    if companion:
        verdict = judge.judge(Runner(companion.model, runtime=options.runtime))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx

from onnx_lowrank.errors import MetricError, ModelError
from onnx_lowrank.graph.editing import upstream
from onnx_lowrank.metrics.class_scores import class_count, probable, rows
from onnx_lowrank.metrics.labelled import class_numbers
from onnx_lowrank.numerics.calibrated_logits import LogitFit, fit_logits
from onnx_lowrank.numerics.ridge_classifier import fit_layer
from onnx_lowrank.options import Options
from onnx_lowrank.passes.companions import Head, LastLayer, axis_of_classes, find_head, with_layer, with_logits
from onnx_lowrank.runtime.batching import batch_size, batches, join, split
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples
from onnx_lowrank.types import Array

CompanionName: TypeAlias = Literal["temperature", "bias", "temperature and bias", "last layer"]
SWITCHES = {"temperature": "--temperature", "logit_bias": "--logit-bias", "last_layer": "--last-layer"}
MOST = 2**13
"""Positions that are fitted on, at most: evenly spaced in every sample where there are more."""
COPIES = 4
"""Arrays of the size of all logits that a fit holds at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Companion:
    """A model with one thing changed, or none; it is truthy where there is one.

    gain: mean nats that the cross-entropy of calibration samples falls where they were not fitted on, 0 without a
    model. what: in words, what was changed, or why nothing was.
    """

    name: CompanionName
    model: onnx.ModelProto | None
    gain: float
    what: str

    def __bool__(self) -> bool:
        return self.model is not None


def wanted(options: Options) -> tuple[CompanionName, ...]:
    """Return the companions that the options ask for; with temperature and bias, both together as well."""
    asked: list[CompanionName] = ["temperature"] if options.temperature else []
    if options.logit_bias:
        asked.append("bias")
    if options.temperature and options.logit_bias:
        asked.append("temperature and bias")
    if options.last_layer:
        asked.append("last layer")
    return tuple(asked)


def companions(
    model: onnx.ModelProto, samples: Samples, options: Options, output: str | None = None
) -> tuple[Companion, ...]:
    """Return every companion of a model that the options ask for, each alone, fitted on these samples and labels.

    output: the one that holds class scores; None: the first. The model's nodes are in topological order, and it is not
    changed. Raises MetricError for labels that are no class numbers of the output, ModelError for an output that is not
    there, RuntimeProblem where onnxruntime refuses.
    """
    names = wanted(options)
    if not names:
        return ()
    switch = next(text for field, text in SWITCHES.items() if getattr(options, field))
    if samples.labels is None:
        raise MetricError(
            f"{switch} needs calibration labels that are class numbers: add an array 'labels' to the data, or leave"
            f" {switch} out"
        )
    present = [value.name for value in model.graph.output]
    if output is not None and output not in present:
        raise ModelError(f"the model has no output {output!r}; its outputs are {', '.join(map(repr, present))}")
    head = find_head(model, present[0] if output is None else output)
    if isinstance(head, str):
        return _none(names, head)
    seen = _observe(model, head, samples, options, switch)
    if isinstance(seen, str):
        return _none(names, seen)
    return tuple(_MAKERS[name](model, head, seen) for name in names)


def _none(names: Sequence[CompanionName], why: str) -> tuple[Companion, ...]:
    return tuple(Companion(name, None, 0.0, why) for name in names)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Of the positions with a label: logits (n, classes), labels (n,), features (n, d), and what is left out together.

    like: the logits of one sample as the model makes them.
    """

    logits: Array
    labels: Array
    features: Array | None
    groups: Array | None
    like: Array


def _observe(model: onnx.ModelProto, head: Head, samples: Samples, options: Options, switch: str) -> _Seen | str:
    """Run a model as far as its logits; return what is fitted on, or why these are no logits to fit."""
    data = [head.layer.data] if isinstance(head.layer, LastLayer) and options.last_layer else []
    part = upstream(model, [head.tensor, *data])
    runner = Runner(part, runtime=options.runtime, outputs=[head.tensor, *data])
    most = 1
    parts: list[tuple[Array, Array, Array | None]] = []
    like = np.zeros(0)
    for value, label in _outputs(runner, samples):
        like = value[head.tensor]
        if not parts:
            if why := _no_logits(like, head):
                return why
            most = max(1, min(MOST, options.memory // (COPIES * 8 * class_count(like))) // len(samples))
        counted, truth = class_numbers(like, np.asarray(label), switch)
        chosen = np.flatnonzero(counted)
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).round().astype(int)]
        features = _features(value[data[0]], len(counted)) if data else None
        parts.append((rows(like)[chosen], truth[chosen], None if features is None else features[chosen]))
    if not parts:
        return "there are no calibration samples"
    logits = np.concatenate([z for z, _, _ in parts])
    seen = [x for _, _, x in parts if x is not None]
    if not np.isfinite(logits).all() or not all(np.isfinite(x).all() for x in seen):
        return f"the logits of output {head.output!r}, or what they are made of, are not finite on every sample"
    numbers = samples.group_numbers
    own = np.arange(len(parts)) if numbers is None else numbers
    counts = [len(z) for z, _, _ in parts]
    groups = None if numbers is None and max(counts) == 1 else own.repeat(counts)
    features = np.concatenate(seen) if len(seen) == len(parts) else None
    return _Seen(logits, np.concatenate([y for _, y, _ in parts]), features, groups, like)


def _outputs(runner: Runner, samples: Samples) -> Iterator[tuple[dict[str, Array], Any]]:
    """Yield what a model makes of every sample, with its label."""
    labels = iter(samples.labels if samples.labels is not None else ())
    for run in batches(samples.feeds, batch_size(runner, samples.feeds)):
        for made in split(runner.run(join(run)), run):
            yield made, next(labels)


def _no_logits(value: Array, head: Head) -> str:
    """Say why a sample's values are no logits of classes; empty where they are."""
    if value.dtype.kind != "f" or class_count(value) < 2:
        return f"output {head.output!r} has no score for every class"
    if head.kind == "none":
        return f"output {head.output!r} holds probabilities, and no Softmax makes them" if probable(value) else ""
    if head.axis % value.ndim != axis_of_classes(value):
        return f"the softmax of output {head.output!r} runs along axis {head.axis}, where no classes are read"
    return ""


def _features(value: Array, positions: int) -> Array | None:
    """Return (positions, d) float64; None where there are not as many vectors as positions."""
    flat = np.asarray(value, np.float64).reshape(-1, value.shape[-1])
    return flat if len(flat) == positions else None


def _logits(
    name: CompanionName, *, temperature: bool, bias: bool
) -> Callable[[onnx.ModelProto, Head, _Seen], Companion]:
    def make(model: onnx.ModelProto, head: Head, seen: _Seen) -> Companion:
        fit = fit_logits(seen.logits, seen.labels, temperature=temperature, bias=bias, groups=seen.groups)
        if not fit.changes:
            return Companion(name, None, 0.0, "no gain on calibration samples")
        changed = with_logits(model, head, fit, seen.like)
        if isinstance(changed, str):
            return Companion(name, None, 0.0, changed)
        return Companion(name, changed, fit.gain, f"{_words(fit)}; {_where(model, changed)}")

    return make


def _words(fit: LogitFit) -> str:
    texts = [f"temperature {fit.temperature:.3g}"] if fit.temperature != 1 else []
    if fit.bias is not None:
        texts.append(f"a bias of {np.abs(fit.bias).max():.2g} nats at most")
    return ", ".join(texts)


def _where(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    added = len(after.graph.node) - len(before.graph.node)
    return "in the last layer's constants" if not added else f"{added} node{'s' if added > 1 else ''} behind the logits"


def _last_layer(model: onnx.ModelProto, head: Head, seen: _Seen) -> Companion:
    layer = head.layer
    if isinstance(layer, str):
        return Companion("last layer", None, 0.0, f"no last layer to refit: {layer}")
    if seen.features is None or axis_of_classes(seen.like) != seen.like.ndim - 1:
        return Companion("last layer", None, 0.0, "no last layer to refit: classes are not its last axis")
    fit = fit_layer(seen.features, seen.logits, seen.labels, intercept=layer.takes_bias, groups=seen.groups)
    if not fit.changes:
        return Companion("last layer", None, 0.0, "no gain on calibration samples")
    changed = with_layer(model, layer, fit)
    if isinstance(changed, str):
        return Companion("last layer", None, 0.0, changed)
    text = f"{fit.layer:.2g} of {layer.weight!r} and a ridge regression of the labels, ridge {fit.ridge:g}"
    return Companion("last layer", changed, fit.gain, text)


_MAKERS: dict[CompanionName, Callable[[onnx.ModelProto, Head, _Seen], Companion]] = {
    "temperature": _logits("temperature", temperature=True, bias=False),
    "bias": _logits("bias", temperature=False, bias=True),
    "temperature and bias": _logits("temperature and bias", temperature=True, bias=True),
    "last layer": _last_layer,
}
