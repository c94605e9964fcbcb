"""Losses in numpy: the loss of every sample, and its gradient at the output, which seeds the gradient graph.

Axis 0 counts samples; the gradient is that of each sample's own loss (nothing is divided by their number). A sample's
loss is the mean over its M positions: tokens, pixels, classes of a multi-label output. `sampled…` and `noise` draw a
gradient g whose second moment E g gᵀ is the Hessian of that mean loss at its minimum (the true Fisher): the gradient of
the *sum* with targets drawn from the model's own distribution, divided by √M (docs/method.md, section 3.3).

A loss of one's own (CTC, say) is any function from outputs to such a gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_softmax, softmax, xlogy

from onnx_lowrank.types import Array

TINY = 1e-12
"""Probabilities below this are taken as this: their logarithm is finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """values: (samples,) float64. gradient: shape and type of the output."""

    values: Array
    gradient: Array


def cross_entropy(logits: Array, labels: Array, *, axis: int = -1, ignore: int | None = None) -> Loss:
    """−log softmax at the label (integers, the shape of `logits` without `axis`), mean over positions not ignored."""
    z, target = _last(logits, axis), np.asarray(labels, dtype=np.int64)
    used, weight = _weights(target, ignore)
    safe = np.where(used, target, 0)
    nats = -np.take_along_axis(log_softmax(z, axis=-1), safe[..., None], axis=-1)[..., 0]
    gradient = (softmax(z, axis=-1) - _one_hot(safe, z.shape[-1])) * weight[..., None]
    return Loss(_per_sample(nats * weight), _back(gradient, axis, logits))


def cross_entropy_of_probabilities(p: Array, labels: Array, *, axis: int = -1, ignore: int | None = None) -> Loss:
    """The same where the model returns probabilities."""
    q, target = _last(p, axis), np.asarray(labels, dtype=np.int64)
    used, weight = _weights(target, ignore)
    safe = np.where(used, target, 0)
    chosen = np.maximum(np.take_along_axis(q, safe[..., None], axis=-1)[..., 0], TINY)
    gradient = -_one_hot(safe, q.shape[-1]) * (weight / chosen)[..., None]
    return Loss(_per_sample(-np.log(chosen) * weight), _back(gradient, axis, p))


def divergence(logits: Array, reference: Array, *, axis: int = -1) -> Loss:
    """KL of the model's softmax from that of the `reference` logits, mean over positions."""
    z, r = _last(logits, axis), _last(reference, axis)
    p, share = softmax(r, axis=-1), 1 / _positions(z[..., 0])
    nats = (p * (log_softmax(r, axis=-1) - log_softmax(z, axis=-1))).sum(axis=-1)
    return Loss(_per_sample(nats * share), _back((softmax(z, axis=-1) - p) * share, axis, logits))


def divergence_of_probabilities(q: Array, reference: Array, *, axis: int = -1) -> Loss:
    """The same where the model returns probabilities."""
    given, p = np.maximum(_last(q, axis), TINY), _last(reference, axis)
    share = 1 / _positions(p[..., 0])
    nats = (xlogy(p, p) - p * np.log(given)).sum(axis=-1)
    return Loss(_per_sample(nats * share), _back(-p / given * share, axis, q))


def binary_divergence(logits: Array, reference: Array) -> Loss:
    """KL of σ(logits) from σ(reference), element by element, mean over the elements of a sample."""
    z, r = _wide(logits), _wide(reference)
    p, share = expit(r), 1 / _positions(z)
    nats = p * (r - z) + np.logaddexp(0, z) - np.logaddexp(0, r)
    return Loss(_per_sample(nats * share), ((expit(z) - p) * share).astype(logits.dtype))


def squared_error(output: Array, reference: Array, variance: float | Array) -> Loss:
    """(y − reference)² / variance, mean over the elements of a sample."""
    difference = _wide(output) - _wide(reference)
    share = 1 / (_positions(difference) * np.asarray(variance, dtype=np.float64))
    return Loss(_per_sample(difference**2 * share), (2 * difference * share).astype(output.dtype))


def sampled(logits: Array, rng: np.random.Generator, *, axis: int = -1) -> Array:
    """(softmax − one-hot of a drawn class) / √M: the true Fisher of a softmax."""
    p = softmax(_last(logits, axis), axis=-1)
    drawn = _drawn(p, rng)
    gradient = p
    gradient[(*np.indices(drawn.shape), drawn)] -= 1.0
    return _back(gradient / math.sqrt(_positions(drawn)), axis, logits)


def _drawn(p: Array, rng: np.random.Generator) -> Array:
    """Return a class for every row of weights, by the inverse of their cumulated sum; never one of weight 0."""
    cumulated = np.cumsum(p, axis=-1)
    aim = (1.0 - rng.random(size=(*p.shape[:-1], 1))) * cumulated[..., -1:]  # above 0
    return np.asarray((cumulated < aim).sum(axis=-1))


def sampled_of_probabilities(p: Array, rng: np.random.Generator, *, axis: int = -1) -> Array:
    """The same where the model returns probabilities: −1 / p at the drawn class."""
    q = np.maximum(_last(p, axis), TINY)
    drawn = _drawn(q, rng)
    gradient = -_one_hot(drawn, q.shape[-1]) / q / math.sqrt(_positions(drawn))
    return _back(gradient, axis, p)


def sampled_binary(logits: Array, rng: np.random.Generator) -> Array:
    """(σ − a drawn bit) / √M: the true Fisher of independent sigmoids."""
    p = expit(_wide(logits))
    bits = rng.random(size=p.shape) < p
    return np.asarray((p - bits) / math.sqrt(_positions(p)), dtype=logits.dtype)


def noise(output: Array, variance: float | Array, rng: np.random.Generator) -> Array:
    """ε √(2 / (M variance)) with Gaussian ε: its second moment is the Hessian of `squared_error`."""
    scale = np.sqrt(2 / (_positions(output) * np.asarray(variance, dtype=np.float64)))
    return np.asarray(rng.standard_normal(size=output.shape) * scale, dtype=output.dtype)


def _wide(array: Array) -> Array:
    return np.asarray(array, dtype=np.float64)


def _last(array: Array, axis: int) -> Array:
    """The array in float64 with the classes last."""
    return np.moveaxis(_wide(array), axis, -1)


def _back(gradient: Array, axis: int, like: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(gradient, -1, axis), dtype=like.dtype)


def _positions(array: Array) -> int:
    """M: the elements of one sample."""
    return max(math.prod(array.shape[1:]), 1)


def _weights(labels: Array, ignore: int | None) -> tuple[Array, Array]:
    """Which positions count, and one over how many of them the sample has."""
    used = np.ones(labels.shape, dtype=bool) if ignore is None else labels != ignore
    axes = tuple(range(1, labels.ndim))
    count = np.maximum(used.sum(axis=axes, keepdims=True), 1)
    return used, used / count


def _one_hot(labels: Array, classes: int) -> Array:
    hot = np.zeros((*labels.shape, classes))
    np.put_along_axis(hot, labels[..., None], 1.0, axis=-1)
    return hot


def _per_sample(values: Array) -> Array:
    return np.asarray(values.reshape(len(values), -1).sum(axis=1))
