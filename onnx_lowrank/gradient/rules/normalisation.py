"""Normalisations as they are at inference: statistics of the data (layer, instance) or fixed ones (batch)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_lowrank.gradient.emitter import FLOAT, NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.tensor_ops import reduce_mean, reduce_sum, reshape, unbroadcast


def batch_normalization(context: RuleContext) -> Gradients:
    """y = (x − mean) · scale / √(var + ε) + bias: a fixed slope for every channel."""
    context.only_wants(0)
    if context.integer("training_mode", 0):
        raise NoRule("in training mode")
    x, epsilon = context.x(), context.number("epsilon", 1e-5)
    scale, variance = context.constant(1), context.constant(4)
    if scale is not None and variance is not None:
        slope = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        dtype = np.float64 if scale.dtype == np.float64 else np.float32
        factor = context.emit.constant(slope.astype(dtype).reshape(-1, *[1] * (x.rank - 2))).cast(x.elem)
    else:
        factor = _channels(context.x(1) / (context.x(4) + epsilon).apply("Sqrt"), x.rank)
    return [context.g * factor]


def _channels(vector: Value, rank: int) -> Value:
    """A vector over channels, ready to be broadcast."""
    size = vector.dims[0] if vector.dims is not None else None
    return reshape(vector, [-1, *[1] * (rank - 2)], (size, *[1] * (rank - 2)))


def layer_normalization(context: RuleContext) -> Gradients:
    """With x̂ the normalised data and h = g · scale: dx = (h − mean h − x̂ mean(h x̂)) / σ."""
    x = context.x(0)
    axes = list(range(context.axis(-1), x.rank))
    if context.integer("stash_type", 1) != FLOAT:
        raise NoRule("statistics in another type than float")
    if x.elem == FLOAT:
        row = tuple(1 if i in axes else size for i, size in enumerate(x.dims or ()))
        center = context.extra_output(1, FLOAT)
        inverse = context.extra_output(2, FLOAT)
        normal = (x - center).like(x) * Value(context.emit, inverse.name, FLOAT, row)
        return _affine(context, normal, inverse, axes)
    # onnxruntime returns the statistics of other types as float: not precise enough.
    return _affine(context, *_normalised(x, axes, context.number("epsilon", 1e-5)), axes)


def _affine(context: RuleContext, normal: Value, inverse: Value, axes: Sequence[int]) -> Gradients:
    x, scale, g = context.x(0), context.x(1), context.g
    data = None
    if context.wants(0):
        data = _through_statistics((g * scale).like(x), normal, inverse, axes).like(x)
    return [
        data,
        unbroadcast(g * normal, scale) if context.wants(1) else None,
        unbroadcast(g, context.x(2)) if context.wants(2) else None,
    ]


def _normalised(x: Value, axes: Sequence[int], epsilon: float) -> tuple[Value, Value]:
    """(x − mean) / σ and 1 / σ over the axes."""
    centred = x - reduce_mean(x, axes)
    inverse = 1.0 / (reduce_mean(centred * centred, axes) + epsilon).apply("Sqrt")
    return centred * inverse, inverse


def _through_statistics(h: Value, normal: Value, inverse: Value, axes: Sequence[int]) -> Value:
    """The gradient of x̂ back to x, mean and variance included."""
    along = reduce_mean(h * normal, axes)
    return (h - reduce_mean(h, axes) - normal * along) * inverse


def instance_normalization(context: RuleContext) -> Gradients:
    """Statistics of every sample and channel over the spatial axes."""
    x, g = context.x(0), context.g
    axes = list(range(2, x.rank))
    normal, inverse = _normalised(x, axes, context.number("epsilon", 1e-5))
    scale = _channels(context.x(1), x.rank)
    channels = [0, *axes]
    return [
        _through_statistics((g * scale).like(x), normal, inverse, axes).like(x) if context.wants(0) else None,
        reduce_sum(g * normal, channels, keepdims=False) if context.wants(1) else None,
        reduce_sum(g, channels, keepdims=False) if context.wants(2) else None,
    ]


def rms_normalization(context: RuleContext) -> Gradients:
    """y = x / √(mean x² + ε) · scale: dx = (h − x̂ mean(h x̂)) / σ."""
    x, scale, g = context.x(0), context.x(1), context.g
    axes = list(range(context.axis(-1), x.rank))
    inverse = 1.0 / (reduce_mean(x * x, axes) + context.number("epsilon", 1e-5)).apply("Sqrt")
    normal = x * inverse
    data = None
    if context.wants(0):
        h = (g * scale).like(x)
        data = ((h - normal * reduce_mean(h * normal, axes)) * inverse).like(x)
    return [data, unbroadcast(g * normal, scale) if context.wants(1) else None]


def lp_normalization(context: RuleContext) -> Gradients:
    """y = x / ‖x‖_p: dx = (g − s Σ g y) / ‖x‖ with s = y for p = 2, sign x for p = 1."""
    x, y, g = context.x(), context.y(), context.g
    axes, p = [context.axis(-1)], context.integer("p", 2)
    if p == 2:
        norm, slope = reduce_sum(x * x, axes, keepdims=True).apply("Sqrt"), y
    else:
        norm, slope = reduce_sum(x.apply("Abs"), axes, keepdims=True), x.apply("Sign")
    return [((g - slope * reduce_sum(g * y, axes, keepdims=True)) / norm).like(x)]
