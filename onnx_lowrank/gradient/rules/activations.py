"""Activations with attributes, and the softmax family."""

from __future__ import annotations

import math

from onnx_lowrank.gradient.step import Gradients, Step
from onnx_lowrank.gradient.tensor_ops import reduce_sum, unbroadcast, where
from onnx_lowrank.gradient.values import NoRule, Value


def softmax(step: Step) -> Gradients:
    """dx = y (g − Σ g y)."""
    y, g = step.y(), step.g
    weighted = g * y
    return [weighted - y * reduce_sum(weighted, [step.axis(-1)], keepdims=True)]


def log_softmax(step: Step) -> Gradients:
    """dx = g − softmax(x) Σ g."""
    y, g = step.y(), step.g
    return [g - y.apply("Exp") * reduce_sum(g, [step.axis(-1)], keepdims=True)]


def leaky_relu(step: Step) -> Gradients:
    """Slope α below zero."""
    return [_two_slopes(step, step.x(), step.number("alpha", 0.01))]


def _two_slopes(step: Step, x: Value, below: float | Value) -> Value:
    g = step.g
    return where(x.compare("Less", 0.0), (g * below).like(g), g)


def prelu(step: Step) -> Gradients:
    """Slope `slope` below zero, broadcast to x."""
    x, slope, g = step.x(0), step.x(1), step.g
    data = _two_slopes(step, x, slope) if step.wants(0) else None
    below = unbroadcast(g * x * x.mask("Less", 0.0), slope) if step.wants(1) else None
    return [data, below]


def elu(step: Step) -> Gradients:
    """α (eˣ − 1) below zero: the slope there is y + α."""
    x, y = step.x(), step.y()
    return [_two_slopes(step, x, y + step.number("alpha", 1.0))]


def celu(step: Step) -> Gradients:
    """α (e^(x/α) − 1) below zero: the slope there is y / α + 1."""
    x, y = step.x(), step.y()
    return [_two_slopes(step, x, y / step.number("alpha", 1.0) + 1.0)]


def selu(step: Step) -> Gradients:
    """γ x above zero, γ α (eˣ − 1) below."""
    alpha, gamma = step.number("alpha", 1.67326319217681884765625), step.number("gamma", 1.05070102214813232421875)
    x, y, g = step.x(), step.y(), step.g
    return [where(x.compare("Less", 0.0), g * (y + alpha * gamma), g * gamma)]


def thresholded_relu(step: Step) -> Gradients:
    """x above α, else 0."""
    return [step.g * step.x().mask("Greater", step.number("alpha", 1.0))]


def hard_sigmoid(step: Step) -> Gradients:
    """clip(αx + β, 0, 1): slope α strictly between."""
    y = step.y()
    inside = y.mask("Greater", 0.0) * y.mask("Less", 1.0)
    return [step.g * (inside * step.number("alpha", 0.2))]


def hard_swish(step: Step) -> Gradients:
    """x clip(x/6 + ½, 0, 1)."""
    x = step.x()
    slope = where(x.compare("Less", 3.0), x * (1 / 3) + 0.5, x.emit.scalar(1.0, x.elem)).like(x)
    return [step.g * (slope * x.mask("Greater", -3.0))]


def gelu(step: Step) -> Gradients:
    """x Φ(x): slope Φ(x) + x φ(x); with the tanh approximation its own slope."""
    x, g = step.x(), step.g
    kind = step.text("approximate", "none")
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


def fast_gelu(step: Step) -> Gradients:
    """com.microsoft FastGelu: the tanh approximation of x + bias."""
    if not step.has(1):
        return [step.g * _gelu_tanh_slope(step.x())]
    data = step.g * _gelu_tanh_slope(step.x(0) + step.x(1))
    return [data, unbroadcast(data, step.x(1)) if step.wants(1) else None]


def bias_gelu(step: Step) -> Gradients:
    """com.microsoft BiasGelu: Gelu of x + bias."""
    data = step.g * _gelu_slope(step.x(0) + step.x(1))
    return [data, unbroadcast(data, step.x(1)) if step.wants(1) else None]


def swish(step: Step) -> Gradients:
    """x σ(αx): slope s + α y (1 − s). Also com.microsoft QuickGelu, whose α is 1.702 where it is left out."""
    alpha = step.number("alpha", 1.0 if step.node.op_type == "Swish" else 1.702)
    x, y = step.x(), step.y()
    s = (x * alpha).apply("Sigmoid")
    return [step.g * (s + y * (1.0 - s) * alpha)]


def mish(step: Step) -> Gradients:
    """x tanh(softplus(x)): slope t + x σ(x) (1 − t²)."""
    x = step.x()
    t = x.apply("Softplus").apply("Tanh")
    return [step.g * (t + x * x.apply("Sigmoid") * (1.0 - t * t))]


def shrink(step: Step) -> Gradients:
    """Zero within ±λ, slope 1 outside."""
    return [step.g * step.x().apply("Abs").mask("Greater", step.number("lambd", 0.5))]
