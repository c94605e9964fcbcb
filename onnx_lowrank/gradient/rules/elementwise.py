"""Arithmetic with broadcasting, functions of one operand, choices between operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from onnx_lowrank.gradient.emitter import FLOAT, NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.tensor_ops import total, unbroadcast, where


def add(context: RuleContext) -> Gradients:
    """Also Sum, of any number of operands."""
    return [unbroadcast(context.g, context.x(i)) if context.wants(i) else None for i in range(len(context.node.input))]


def subtract(context: RuleContext) -> Gradients:
    """y = a − b."""
    return [
        unbroadcast(context.g, context.x(0)) if context.wants(0) else None,
        -unbroadcast(context.g, context.x(1)) if context.wants(1) else None,
    ]


def multiply(context: RuleContext) -> Gradients:
    """y = a b."""
    a, b, g = context.x(0), context.x(1), context.g
    return [
        unbroadcast(g * b, a) if context.wants(0) else None,
        unbroadcast(g * a, b) if context.wants(1) else None,
    ]


def divide(context: RuleContext) -> Gradients:
    """y = a / b: da = g / b, db = −g y / b."""
    a, b, y, g = context.x(0), context.x(1), context.y(), context.g
    part = g / b
    return [
        unbroadcast(part, a) if context.wants(0) else None,
        -unbroadcast(part * y, b) if context.wants(1) else None,
    ]


def mean(context: RuleContext) -> Gradients:
    """The mean of any number of operands."""
    share = context.g * (1.0 / len(context.node.input))
    return [unbroadcast(share, context.x(i)) if context.wants(i) else None for i in range(len(context.node.input))]


def power(context: RuleContext) -> Gradients:
    """y = a^b: da = g b a^(b−1), db = g y ln a."""
    a, b, y, g = context.x(0), context.x(1), context.y(), context.g
    left = right = None
    if context.wants(0):
        fixed = context.constant(1)
        if fixed is not None and fixed.size == 1:
            left = unbroadcast(g * _power_slope(a, float(fixed.reshape(-1)[0])), a)
        else:
            exponent = b.cast(a.elem)
            left = unbroadcast(g * (exponent * _pow(a, exponent - 1.0)), a)
    if context.wants(1):
        right = unbroadcast((g * y * a.apply("Log")).cast(b.elem), b)
    return [left, right]


def _power_slope(a: Value, exponent: float) -> Value:
    if exponent == 2:
        return a * 2.0
    return _pow(a, a.emit.scalar(exponent - 1.0, a.elem)) * exponent


def _pow(a: Value, exponent: Value) -> Value:
    return a.emit.op("Pow", a, exponent, dims=a.dims if exponent.dims == () else None)


def extreme(context: RuleContext) -> Gradients:
    """Max and Min: to the operand that was taken, in equal parts where several were."""
    y, g = context.y(), context.g
    masks = [y.mask("Equal", context.x(i)) for i in range(len(context.node.input))]
    share = g / total(masks) if len(masks) > 1 else g
    return [unbroadcast(share * mask, context.x(i)) if context.wants(i) else None for i, mask in enumerate(masks)]


def clip(context: RuleContext) -> Gradients:
    """Inside the bounds g passes; outside it belongs to the bound."""
    x, y, g = context.x(), context.y(), context.g
    low = high = None
    if context.wants(1):
        low = unbroadcast(g * x.mask("Less", context.x(1)), context.x(1))
    if context.wants(2):
        high = unbroadcast(g * x.mask("Greater", context.x(2)), context.x(2))
    return [g * _inside(context, x, y) if context.wants(0) else None, low, high]


def _inside(context: RuleContext, x: Value, y: Value) -> Value:
    """1 where x is between the bounds. From y alone where both are known: then Clip can be fused with what makes x."""
    low, high = context.constant(1), context.constant(2)
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


def choose(context: RuleContext) -> Gradients:
    """Where: each operand gets g where it was taken."""
    condition, g = context.x(0), context.g
    zero = g.emit.scalar(0.0, g.elem)
    yes = where(condition, g, zero).like(g) if context.wants(1) else None
    no = g.emit.op("Where", condition, zero, g, elem=g.elem, dims=g.dims) if context.wants(2) else None
    return [
        None,
        None if yes is None else unbroadcast(yes, context.x(1)),
        None if no is None else unbroadcast(no, context.x(2)),
    ]


def modulo(context: RuleContext) -> Gradients:
    """y = a − b ⌊a / b⌋ (or truncated): slope 1 in a; the slope in b is not written."""
    context.only_wants(0)
    return [unbroadcast(context.g, context.x())]


def same(context: RuleContext) -> Gradients:
    """Identity, and Dropout as it is at inference."""
    return [context.g]


def dropout(context: RuleContext) -> Gradients:
    """Nothing is dropped unless `training_mode` says so."""
    training = context.constant(2) if context.has(2) else False
    if training is None or bool(training):
        raise NoRule("in training mode")
    return [context.g]


def cast(context: RuleContext) -> Gradients:
    """The gradient is cast back (between float types; from others nothing flows)."""
    return [context.g.cast(context.x().elem)]


def nothing(context: RuleContext) -> Gradients:
    """Steps and signs: the slope is zero wherever it exists."""
    return []


def cumulative_sum(context: RuleContext) -> Gradients:
    """The sum from the other end."""
    g = context.g
    back = 1 - context.integer("reverse", 0)
    same_end = context.integer("exclusive", 0)
    return [g.emit.op("CumSum", g, context.x(1), dims=g.dims, reverse=back, exclusive=same_end)]


def grown(context: RuleContext) -> Gradients:
    """Expand: the adjoint of broadcasting."""
    return [unbroadcast(context.g, context.x())]


def triangle(context: RuleContext) -> Gradients:
    """Trilu of the gradient."""
    g = context.g
    diagonal = context.x(1) if context.has(1) else None
    return [g.emit.op("Trilu", g, diagonal, dims=g.dims, upper=context.integer("upper", 1))]


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


def unary(context: RuleContext) -> Gradients:
    """dx = g · dy/dx."""
    return [context.g * SLOPES[context.node.op_type](context.x(), context.y())]
