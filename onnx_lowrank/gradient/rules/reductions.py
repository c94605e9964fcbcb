"""Reductions, with axes as an attribute or as an input, and TopK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from onnx_lowrank.gradient.emitter import INT64, NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.tensor_ops import count, expand_like, reduce_sum, zeros_like


def reduction(context: RuleContext) -> Gradients:
    """g, with the reduced axes put back, times the slope of the reduction."""
    context.only_wants(0)
    axes = _axes(context)
    x, y, g = context.x(), context.y(), context.g
    if axes is not None and not axes and context.integer("noop_with_empty_axes", 0):
        return [g] if context.node.op_type in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin") else _refuse()
    if context.integer("keepdims", 1) == 0:
        y, g = _kept(context, y, axes), _kept(context, g, axes)
    return [SLOPES[context.node.op_type](x, y, g).like(x)]


def _refuse() -> Gradients:
    raise NoRule("reduces nothing")


def _axes(context: RuleContext) -> list[int] | Value | None:
    """Axes counted from the front (empty: all), or the tensor that holds them at run time."""
    listed: list[int] | None
    if context.has(1):
        fixed = context.constant(1)
        if fixed is None:
            return context.x(1)
        listed = [int(axis) for axis in np.asarray(fixed).reshape(-1)]
    else:
        listed = context.integers("axes")
    if not listed:
        return []
    return sorted(axis if axis >= 0 else axis + context.x().rank for axis in listed)


def _kept(context: RuleContext, value: Value, axes: list[int] | Value | None) -> Value:
    """A result of keepdims=0 with its axes back, in extent 1."""
    emit = context.emit
    if isinstance(axes, Value):
        return emit.op("Unsqueeze", value, axes)
    if not axes:
        return value
    dims = context.x().dims
    kept = None if dims is None else tuple(1 if i in axes else size for i, size in enumerate(dims))
    return emit.op("Unsqueeze", value, emit.ints(axes), dims=kept)


def _mean(x: Value, y: Value, g: Value) -> Value:
    return expand_like(g / count(x, y), x)


def _extreme(x: Value, y: Value, g: Value) -> Value:
    """To the elements that are the extreme, in equal parts where several are."""
    mask = x.mask("Equal", y)
    return mask * (g / _ties(mask, y))


def _ties(mask: Value, y: Value) -> Value:
    """How many elements are the extreme: Σ of the mask over the axes where y has extent 1."""
    if y.dims is not None and len(y.dims) == mask.rank:
        return reduce_sum(mask, [i for i, size in enumerate(y.dims) if size == 1], keepdims=True)
    if y.dims == ():
        return mask.emit.op("ReduceSum", mask, dims=(), keepdims=0)
    raise NoRule("reduces over axes known only at run time")


def _product(x: Value, y: Value, g: Value) -> Value:
    return g * y / x


Slope = Callable[[Value, Value, Value], Value]
"""(x, y, g), y and g with the reduced axes in extent 1 -> gradient at x."""

SLOPES: Mapping[str, Slope] = MappingProxyType(
    {
        "ReduceSum": lambda x, y, g: expand_like(g, x),
        "ReduceMean": _mean,
        "ReduceMax": _extreme,
        "ReduceMin": _extreme,
        "ReduceL1": lambda x, y, g: x.apply("Sign") * g,
        "ReduceL2": lambda x, y, g: x * (g / y),
        "ReduceSumSquare": lambda x, y, g: x * (g * 2.0),
        "ReduceLogSum": lambda x, y, g: expand_like(g * (-y).apply("Exp"), x),
        "ReduceLogSumExp": lambda x, y, g: (x - y).apply("Exp") * g,
        "ReduceProd": _product,
    }
)


def top_k(context: RuleContext) -> Gradients:
    """g goes back to where the values were taken from."""
    x, g = context.x(), context.g
    indices = context.extra_output(1, INT64)
    axis = context.axis(-1)
    return [context.emit.op("ScatterElements", zeros_like(x), indices, g, dims=x.dims, axis=axis)]
