"""Activations with attributes, and the softmax family."""

from __future__ import annotations

import math

from onnx_lowrank.gradient.emitter import NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.tensor_ops import reduce_sum, unbroadcast, where


def softmax(context: RuleContext) -> Gradients:
    """dx = y (g − Σ g y)."""
    y, g = context.y(), context.g
    weighted = g * y
    return [weighted - y * reduce_sum(weighted, [context.axis(-1)], keepdims=True)]


def log_softmax(context: RuleContext) -> Gradients:
    """dx = g − softmax(x) Σ g."""
    y, g = context.y(), context.g
    return [g - y.apply("Exp") * reduce_sum(g, [context.axis(-1)], keepdims=True)]


def leaky_relu(context: RuleContext) -> Gradients:
    """Slope α below zero."""
    return [_two_slopes(context, context.x(), context.number("alpha", 0.01))]


def _two_slopes(context: RuleContext, x: Value, below: float | Value) -> Value:
    g = context.g
    return where(x.compare("Less", 0.0), (g * below).like(g), g)


def prelu(context: RuleContext) -> Gradients:
    """Slope `slope` below zero, broadcast to x."""
    x, slope, g = context.x(0), context.x(1), context.g
    data = _two_slopes(context, x, slope) if context.wants(0) else None
    below = unbroadcast(g * x * x.mask("Less", 0.0), slope) if context.wants(1) else None
    return [data, below]


def elu(context: RuleContext) -> Gradients:
    """α (eˣ − 1) below zero: the slope there is y + α."""
    x, y = context.x(), context.y()
    return [_two_slopes(context, x, y + context.number("alpha", 1.0))]


def celu(context: RuleContext) -> Gradients:
    """α (e^(x/α) − 1) below zero: the slope there is y / α + 1."""
    x, y = context.x(), context.y()
    return [_two_slopes(context, x, y / context.number("alpha", 1.0) + 1.0)]


def selu(context: RuleContext) -> Gradients:
    """γ x above zero, γ α (eˣ − 1) below."""
    alpha, gamma = (
        context.number("alpha", 1.67326319217681884765625),
        context.number("gamma", 1.05070102214813232421875),
    )
    x, y, g = context.x(), context.y(), context.g
    return [where(x.compare("Less", 0.0), g * (y + alpha * gamma), g * gamma)]


def thresholded_relu(context: RuleContext) -> Gradients:
    """x above α, else 0."""
    return [context.g * context.x().mask("Greater", context.number("alpha", 1.0))]


def hard_sigmoid(context: RuleContext) -> Gradients:
    """clip(αx + β, 0, 1): slope α strictly between."""
    y = context.y()
    inside = y.mask("Greater", 0.0) * y.mask("Less", 1.0)
    return [context.g * (inside * context.number("alpha", 0.2))]


def hard_swish(context: RuleContext) -> Gradients:
    """x clip(x/6 + ½, 0, 1)."""
    x = context.x()
    slope = where(x.compare("Less", 3.0), x * (1 / 3) + 0.5, x.emit.scalar(1.0, x.elem)).like(x)
    return [context.g * (slope * x.mask("Greater", -3.0))]


def gelu(context: RuleContext) -> Gradients:
    """x Φ(x): slope Φ(x) + x φ(x); with the tanh approximation its own slope."""
    x, g = context.x(), context.g
    kind = context.text("approximate", "none")
    if kind not in ("none", "tanh"):
        raise NoRule(f"approximate={kind!r}")
    return [g * (_gelu_tanh_slope(x) if kind == "tanh" else _gelu_slope(x))]


def _gelu_slope(x: Value) -> Value:
    cumulative = (x * math.sqrt(0.5)).apply("Erf") * 0.5 + 0.5
    density = (x * x * -0.5).apply("Exp") * (1 / math.sqrt(2 * math.pi))
    return cumulative + x * density


def _gelu_tanh_slope(x: Value) -> Value:
    squares = x * x
    t = (x * (squares * (0.044715 * math.sqrt(2 / math.pi)) + math.sqrt(2 / math.pi))).apply("Tanh")
    inner = squares * (3 * 0.044715 * math.sqrt(2 / math.pi)) + math.sqrt(2 / math.pi)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner


def fast_gelu(context: RuleContext) -> Gradients:
    """com.microsoft FastGelu: the tanh approximation of x + bias."""
    if not context.has(1):
        return [context.g * _gelu_tanh_slope(context.x())]
    data = context.g * _gelu_tanh_slope(context.x(0) + context.x(1))
    return [data, unbroadcast(data, context.x(1)) if context.wants(1) else None]


def bias_gelu(context: RuleContext) -> Gradients:
    """com.microsoft BiasGelu: Gelu of x + bias."""
    data = context.g * _gelu_slope(context.x(0) + context.x(1))
    return [data, unbroadcast(data, context.x(1)) if context.wants(1) else None]


def swish(context: RuleContext) -> Gradients:
    """x σ(αx): slope s + α y (1 − s). Also com.microsoft QuickGelu, whose α is 1.702 where it is left out."""
    alpha = context.number("alpha", 1.0 if context.node.op_type == "Swish" else 1.702)
    x, y = context.x(), context.y()
    s = (x * alpha).apply("Sigmoid")
    return [context.g * (s + y * (1.0 - s) * alpha)]


def mish(context: RuleContext) -> Gradients:
    """x tanh(softplus(x)): slope t + x σ(x) (1 − t²)."""
    x = context.x()
    t = x.apply("Softplus").apply("Tanh")
    return [context.g * (t + x * x.apply("Sigmoid") * (1.0 - t * t))]


def shrink(context: RuleContext) -> Gradients:
    """Zero within ±λ, slope 1 outside."""
    return [context.g * context.x().apply("Abs").mask("Greater", context.number("lambd", 0.5))]
