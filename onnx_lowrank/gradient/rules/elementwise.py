"""Arithmetic with broadcasting, functions of one operand, choices between operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from onnx_lowrank.gradient.step import Gradients, Step
from onnx_lowrank.gradient.tensor_ops import total, unbroadcast, where
from onnx_lowrank.gradient.values import FLOAT, NoRule, Value


def add(step: Step) -> Gradients:
    """Also Sum, of any number of operands."""
    return [unbroadcast(step.g, step.x(i)) if step.wants(i) else None for i in range(len(step.node.input))]


def subtract(step: Step) -> Gradients:
    """y = a − b."""
    return [
        unbroadcast(step.g, step.x(0)) if step.wants(0) else None,
        -unbroadcast(step.g, step.x(1)) if step.wants(1) else None,
    ]


def multiply(step: Step) -> Gradients:
    """y = a b."""
    a, b, g = step.x(0), step.x(1), step.g
    return [
        unbroadcast(g * b, a) if step.wants(0) else None,
        unbroadcast(g * a, b) if step.wants(1) else None,
    ]


def divide(step: Step) -> Gradients:
    """y = a / b: da = g / b, db = −g y / b."""
    a, b, y, g = step.x(0), step.x(1), step.y(), step.g
    part = g / b
    return [
        unbroadcast(part, a) if step.wants(0) else None,
        -unbroadcast(part * y, b) if step.wants(1) else None,
    ]


def mean(step: Step) -> Gradients:
    """The mean of any number of operands."""
    share = step.g * (1.0 / len(step.node.input))
    return [unbroadcast(share, step.x(i)) if step.wants(i) else None for i in range(len(step.node.input))]


def power(step: Step) -> Gradients:
    """y = a^b: da = g b a^(b−1), db = g y ln a."""
    a, b, y, g = step.x(0), step.x(1), step.y(), step.g
    left = right = None
    if step.wants(0):
        fixed = step.constant(1)
        if fixed is not None and fixed.size == 1:
            left = unbroadcast(g * _power_slope(a, float(fixed.reshape(-1)[0])), a)
        else:
            exponent = b.cast(a.elem)
            left = unbroadcast(g * (exponent * _pow(a, exponent - 1.0)), a)
    if step.wants(1):
        right = unbroadcast((g * y * a.apply("Log")).cast(b.elem), b)
    return [left, right]


def _power_slope(a: Value, exponent: float) -> Value:
    if exponent == 2:
        return a * 2.0
    return _pow(a, a.emit.scalar(exponent - 1.0, a.elem)) * exponent


def _pow(a: Value, exponent: Value) -> Value:
    return a.emit.op("Pow", a, exponent, dims=a.dims if exponent.dims == () else None)


def extreme(step: Step) -> Gradients:
    """Max and Min: to the operand that was taken, in equal parts where several were."""
    y, g = step.y(), step.g
    masks = [y.mask("Equal", step.x(i)) for i in range(len(step.node.input))]
    share = g / total(masks) if len(masks) > 1 else g
    return [unbroadcast(share * mask, step.x(i)) if step.wants(i) else None for i, mask in enumerate(masks)]


def clip(step: Step) -> Gradients:
    """Inside the bounds g passes; outside it belongs to the bound."""
    x, y, g = step.x(), step.y(), step.g
    low = high = None
    if step.wants(1):
        low = unbroadcast(g * x.mask("Less", step.x(1)), step.x(1))
    if step.wants(2):
        high = unbroadcast(g * x.mask("Greater", step.x(2)), step.x(2))
    return [g * _inside(step, x, y) if step.wants(0) else None, low, high]


def _inside(step: Step, x: Value, y: Value) -> Value:
    """1 where x is between the bounds. From y alone where both are known: then Clip can be fused with what makes x."""
    low, high = step.constant(1), step.constant(2)
    if low is None or high is None or low.size != 1 or high.size != 1:
        return y.mask("Equal", x)
    if not float(low.item()) < float(high.item()):
        return y.mask("Equal", x)
    near = _within(y, float(low.item()), float(high.item()))
    if near is not None:
        return near
    # y is above the one bound or below the other, so both hold where the answers agree (cheaper than And).
    above, below = y.compare("Greater", float(low.item())), y.compare("Less", float(high.item()))
    return above.compare("Equal", below).cast(y.elem)


def _within(y: Value, low: float, high: float) -> Value | None:
    """The same by the distance from the middle, None where single precision does not have that exactly.

    Passes over floats are quicker in onnxruntime than comparisons with their answers put together. What is closer to
    a bound than the precision of the middle counts as the bound.
    """
    middle, half = np.float32((low + high) / 2), np.float32((high - low) / 2)
    if y.elem != FLOAT or not 2.0**-60 < half < 2.0**60:
        return None
    if np.float32(high) - middle != half or middle - np.float32(low) != half:
        return None
    steep = 2.0 ** (60 - math.frexp(half)[1])  # a power of two: what it multiplies stays exact
    return (y - float(middle)).apply("Abs").apply("HardSigmoid", alpha=-steep, beta=steep * float(half))


def _positive(y: Value) -> Value:
    """1 where y is above 0, else 0: a comparison and its Cast are two passes, this is one."""
    if y.elem != FLOAT:
        return y.mask("Greater", 0.0)
    return y.apply("HardSigmoid", alpha=2.0**100, beta=0.0)


def choose(step: Step) -> Gradients:
    """Where: each operand gets g where it was taken."""
    condition, g = step.x(0), step.g
    zero = g.emit.scalar(0.0, g.elem)
    yes = where(condition, g, zero).like(g) if step.wants(1) else None
    no = g.emit.op("Where", condition, zero, g, elem=g.elem, dims=g.dims) if step.wants(2) else None
    return [
        None,
        None if yes is None else unbroadcast(yes, step.x(1)),
        None if no is None else unbroadcast(no, step.x(2)),
    ]


def modulo(step: Step) -> Gradients:
    """y = a − b ⌊a / b⌋ (or truncated): slope 1 in a; the slope in b is not written."""
    step.only_wants(0)
    return [unbroadcast(step.g, step.x())]


def same(step: Step) -> Gradients:
    """Identity, and Dropout as it is at inference."""
    return [step.g]


def dropout(step: Step) -> Gradients:
    """Nothing is dropped unless `training_mode` says so."""
    training = step.constant(2) if step.has(2) else False
    if training is None or bool(training):
        raise NoRule("in training mode")
    return [step.g]


def cast(step: Step) -> Gradients:
    """The gradient is cast back (between float types; from others nothing flows)."""
    return [step.g.cast(step.x().elem)]


def nothing(step: Step) -> Gradients:
    """Steps and signs: the slope is zero wherever it exists."""
    return []


def cumulative_sum(step: Step) -> Gradients:
    """The sum from the other end."""
    g = step.g
    back = 1 - step.integer("reverse", 0)
    same_end = step.integer("exclusive", 0)
    return [g.emit.op("CumSum", g, step.x(1), dims=g.dims, reverse=back, exclusive=same_end)]


def grown(step: Step) -> Gradients:
    """Expand: the adjoint of broadcasting."""
    return [unbroadcast(step.g, step.x())]


def triangle(step: Step) -> Gradients:
    """Trilu of the gradient."""
    g = step.g
    diagonal = step.x(1) if step.has(1) else None
    return [g.emit.op("Trilu", g, diagonal, dims=g.dims, upper=step.integer("upper", 1))]


Slope = Callable[[Value, Value], Value]
"""(x, y) -> dy/dx."""

SLOPES: Mapping[str, Slope] = MappingProxyType(
    {
        "Neg": lambda x, y: x.emit.scalar(-1.0, x.elem),
        "Sqrt": lambda x, y: 0.5 / y,
        "Exp": lambda x, y: y,
        "Log": lambda x, y: 1.0 / x,
        "Erf": lambda x, y: (-(x * x)).apply("Exp") * (2 / math.sqrt(math.pi)),
        "Abs": lambda x, y: x.apply("Sign"),
        "Reciprocal": lambda x, y: -(y * y),
        "Sin": lambda x, y: x.apply("Cos"),
        "Cos": lambda x, y: -x.apply("Sin"),
        "Tan": lambda x, y: 1.0 + y * y,
        "Asin": lambda x, y: 1.0 / (1.0 - x * x).apply("Sqrt"),
        "Acos": lambda x, y: -1.0 / (1.0 - x * x).apply("Sqrt"),
        "Atan": lambda x, y: 1.0 / (1.0 + x * x),
        "Sinh": lambda x, y: (x.apply("Exp") + (-x).apply("Exp")) * 0.5,
        "Cosh": lambda x, y: (x.apply("Exp") - (-x).apply("Exp")) * 0.5,
        "Asinh": lambda x, y: 1.0 / (x * x + 1.0).apply("Sqrt"),
        "Acosh": lambda x, y: 1.0 / (x * x - 1.0).apply("Sqrt"),
        "Atanh": lambda x, y: 1.0 / (1.0 - x * x),
        "Tanh": lambda x, y: 1.0 - y * y,
        "Sigmoid": lambda x, y: y * (1.0 - y),
        "Softplus": lambda x, y: x.apply("Sigmoid"),
        "Softsign": lambda x, y: _square_inverse(1.0 + x.apply("Abs")),
        "Relu": lambda x, y: _positive(y),
    }
)
"""Functions of one operand without attributes."""


def _square_inverse(x: Value) -> Value:
    return 1.0 / (x * x)


def unary(step: Step) -> Gradients:
    """dx = g · dy/dx."""
    return [step.g * SLOPES[step.node.op_type](step.x(), step.y())]
