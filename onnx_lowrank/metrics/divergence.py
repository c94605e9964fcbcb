"""How far outputs moved, on a scale that adds over outputs and compares sites: what sensitivity is probed with.

docs/method.md, section 3.3: without labels the loss is the divergence from the original's own outputs, KL for
distributions, for any other output the squared error over that output's variance.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import rel_entr

from onnx_lowrank.metrics.class_scores import class_count
from onnx_lowrank.metrics.evidence import class_evidence
from onnx_lowrank.metrics.metric import Metric, floating, numeric
from onnx_lowrank.metrics.paired import kl
from onnx_lowrank.metrics.traits import traits_of
from onnx_lowrank.types import Array, Outputs

DivergenceKind: TypeAlias = Literal["kl", "relative-l2"]
OutputKind: TypeAlias = Literal["kl", "bernoulli", "relative-l2"]


@dataclass(frozen=True, slots=True)
class OutputDivergence:
    """The divergence of one output: KL in nats (of a choice, of bits), or mean squared error / `variance`."""

    name: str
    kind: OutputKind
    variance: float = 1.0

    def of(self, original: Array, candidate: Array) -> float:
        """Return the divergence of one sample, 0 or more; inf where the candidate has another shape, NaN or Inf."""
        if original.shape != candidate.shape:
            return math.inf
        if self.kind == "kl":
            return kl(original, candidate)
        if self.kind == "bernoulli":
            return _bernoulli(original, candidate)
        first = np.asarray(original, np.float64)
        sound = np.isfinite(first)
        apart = np.asarray(candidate, np.float64)[sound] - first[sound]
        value = float(np.mean(apart**2)) / self.variance if apart.size else 0.0
        return value if math.isfinite(value) else math.inf


@dataclass(frozen=True, slots=True)
class Probing:
    """The divergence of a whole model, summed over its outputs; fixed by the original, so sites compare."""

    outputs: tuple[OutputDivergence, ...]

    def values(self, reference: Outputs, outputs: Outputs) -> Array:
        """Return (n,) divergences, one a sample."""
        n = len(next(iter(reference.values()), ()))
        total = np.zeros(n)
        for output in self.outputs:
            total += [output.of(*pair) for pair in zip(reference[output.name], outputs[output.name], strict=True)]
        return total

    def summed(self, reference: Mapping[str, Array], outputs: Mapping[str, Array], samples: int = 1) -> float:
        """Return the sum over the samples of one joined run: all have one layout, so it is their mean × `samples`."""
        return samples * math.fsum(output.of(reference[output.name], outputs[output.name]) for output in self.outputs)


def class_output(metric: Metric | None, reference: Outputs) -> str | None:
    """Return the output that holds class scores: the metric's own where it works on them, else the first that looks so.

    `reference` are the original's outputs on a few samples. None where there is no such output.
    """
    if metric is not None and traits_of(metric).on_class_scores:
        name = metric.output if metric.output is not None else next(iter(reference), None)
        if name is not None and _scores(reference[name]):
            return name
    return next((name for name, samples in reference.items() if class_evidence(name, samples)), None)


def divergence_kind(metric: Metric | None, reference: Outputs) -> DivergenceKind:
    """Return 'kl' where the metric works on class scores or an output looks like them, else 'relative-l2'."""
    return "kl" if class_output(metric, reference) is not None else "relative-l2"


def _bernoulli(original: Array, candidate: Array) -> float:
    """Return KL(original ‖ candidate) of independent bits, nats, mean over the elements of a sample."""
    p, q = np.asarray(original, np.float64), np.asarray(candidate, np.float64)
    if not np.isfinite(q).all():
        return math.inf
    least = float(np.finfo(original.dtype).eps)
    q = np.clip(q, least, 1 - least)
    p = np.clip(p, least, 1 - least)
    return float(np.mean(rel_entr(p, q) + rel_entr(1 - p, 1 - q))) if p.size else 0.0


def probing(kind: DivergenceKind, reference: Outputs, sigmoids: Collection[str] = ()) -> Probing:
    """Return the divergence from `reference`, the original's outputs on the probe samples.

    'kl' applies to the outputs that look like class scores (to all that could be, where none does); the others, and
    all under 'relative-l2', by squared error over their variance, taken over all elements of all samples. Outputs of
    whole numbers count only where there is no other. `sigmoids` come out of a sigmoid: each element is a bit's chance.
    """
    names = [name for name, samples in reference.items() if samples and all(map(floating, samples))]
    names = names or [name for name, samples in reference.items() if samples and all(map(numeric, samples))]
    classes: list[str] = []
    if kind == "kl":
        classes = [name for name in names if class_evidence(name, reference[name])]
        classes = classes or [name for name in names if _scores(reference[name])]
    return Probing(
        tuple(
            OutputDivergence(name, "bernoulli")
            if name in sigmoids and all(map(_bits, reference[name]))
            else OutputDivergence(name, "kl")
            if name in classes
            else OutputDivergence(name, "relative-l2", _variance(reference[name]))
            for name in names
        )
    )


def divergence(kind: DivergenceKind, reference: Outputs, outputs: Outputs) -> Array:
    """Return (n,) divergences of `outputs` from `reference`, summed over outputs: nats, or relative squared error."""
    return probing(kind, reference).values(reference, outputs)


def _bits(sample: Array) -> bool:
    return bool(floating(sample) and np.isfinite(sample).all() and sample.min() >= 0 and sample.max() <= 1)


def _scores(samples: Sequence[Array]) -> bool:
    return bool(samples) and all(floating(sample) and class_count(sample) > 1 for sample in samples)


def _variance(samples: Sequence[Array]) -> float:
    """Return the variance over all finite elements; their mean square where they are all equal, 1 where all 0."""
    finite = [values[np.isfinite(values)] for values in (np.asarray(s, np.float64).reshape(-1) for s in samples)]
    count = sum(values.size for values in finite)
    if not count:
        return 1.0
    mean = math.fsum(float(values.sum()) for values in finite) / count
    variance = math.fsum(float(((values - mean) ** 2).sum()) for values in finite) / count
    return variance if variance > 1e-12 * mean**2 else mean**2 or 1.0
