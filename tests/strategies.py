"""Random nodes of every operator: geometries that onnxruntime accepts, and everything a law needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from builders import ANY, build, constant, node, normal, value, weight
from hypothesis import strategies as st

from onnx_lowrank.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A model of one node with weight W, and an input for it."""

    model: onnx.ModelProto
    x: Array
    bias: Array | float = 0.0

    def __repr__(self) -> str:
        operator = next(n for n in self.model.graph.node if n.op_type != "Constant")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in operator.attribute}
        shapes = {t.name: list(t.dims) for t in self.model.graph.initializer}
        return f"Case({operator.op_type}, inputs={list(operator.input)}, {attributes}, x={self.x.shape}, {shapes})"


SEEDS = st.integers(0, 10**6)
WIDTHS = st.integers(2, 7)
SMALL = st.integers(1, 3)


@st.composite
def matmuls(draw: st.DrawFn) -> Case:
    """x W or W x, x of one to four dimensions."""
    if draw(st.integers(0, 3)) == 0:
        return draw(sliced_matmuls())
    inner, outer = draw(WIDTHS), draw(WIDTHS)
    lead = draw(st.lists(SMALL, max_size=2))
    seed = draw(SEEDS)
    vector = not lead and draw(st.booleans())
    rows = [] if vector else [draw(SMALL)]
    if draw(st.booleans()):
        x, W, inputs = normal([*lead, *rows, inner], seed), weight((outer, inner), seed + 1).T, ["x", "W"]
    else:
        x, W, inputs = normal([*lead, inner, *rows], seed), weight((outer, inner), seed + 1), ["W", "x"]
    nodes = [node("MatMul", inputs, ["y"], "op")]
    output = (x.ndim - 1 if vector else x.ndim) or 1
    return Case(build(nodes, [value("x", x.shape)], [value("y", [ANY] * output)], {"W": np.ascontiguousarray(W)}), x)


@st.composite
def sliced_matmuls(draw: st.DrawFn) -> Case:
    """A matrix for every slice, and x with slices of its own, with one for all, or with none."""
    slices, inner, outer, rows, seed = draw(SMALL), draw(WIDTHS), draw(WIDTHS), draw(SMALL), draw(SEEDS)
    lead = draw(st.sampled_from([[], [1], [slices], [2, slices], [2, 1]]))
    right = draw(st.booleans())
    W = weight((slices * outer, inner), seed + 1).reshape(slices, outer, inner)
    x = normal([*lead, rows, inner] if right else [*lead, inner, rows], seed)
    stored, inputs = (np.swapaxes(W, 1, 2), ["x", "W"]) if right else (W, ["W", "x"])
    nodes = [node("MatMul", inputs, ["y"], "op")]
    output = [ANY] * max(x.ndim, 3)
    return Case(build(nodes, [value("x", x.shape)], [value("y", output)], {"W": np.ascontiguousarray(stored)}), x)


@st.composite
def gemms(draw: st.DrawFn) -> Case:
    """All flags, α and β, every shape of bias, W as B and as A."""
    inner, outer, rows, seed = draw(WIDTHS), draw(WIDTHS), draw(st.integers(1, 5)), draw(SEEDS)
    trans_a, trans_b = draw(st.booleans()), draw(st.booleans())
    as_b = draw(st.booleans())
    x, W = normal([rows, inner], seed), weight((outer, inner), seed + 1)
    if as_b:
        left, right, inputs = (x.T if trans_a else x), (W if trans_b else W.T), ["x", "W"]
        given, stored, result = left, right, (rows, outer)
    else:
        left, right, inputs = (W.T if trans_a else W), (x if trans_b else x.T), ["W", "x"]
        given, stored, result = right, left, (outer, rows)
    weights = {"W": np.ascontiguousarray(stored)}
    opset = draw(st.sampled_from([9, 11, 17]))
    shapes = [(), (1,), (result[1],), (1, result[1]), (result[0], 1), result]
    if opset >= 11:
        shapes.append(None)
    shape = draw(st.sampled_from(shapes))
    if shape is not None:
        weights["b"] = normal(shape, seed + 2)
        inputs.append("b")
    attributes = {"alpha": draw(st.sampled_from([1.0, 0.5, -2.0])), "beta": draw(st.sampled_from([1.0, 0.25]))}
    gemm = node("Gemm", inputs, ["y"], "op", transA=int(trans_a), transB=int(trans_b), **attributes)
    model = build([gemm], [value("x", given.shape)], [value("y", result)], weights, opset=opset)
    return Case(model, np.ascontiguousarray(given))


@st.composite
def convs(draw: st.DrawFn, *, unpadded_points: bool = False) -> Case:
    """One to three axes, strides, dilations, explicit or automatic padding, bias in an initializer or a Constant.

    `unpadded_points`: a 1×1 kernel gets no padding (there the moments are those of all inputs, an approximation).
    """
    axes = draw(st.integers(1, 3))
    kernel = tuple(draw(st.lists(SMALL, min_size=axes, max_size=axes)))
    strides = draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes))
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    dilations = [1] * axes
    if not auto.startswith("SAME"):  # onnxruntime refuses dilation with SAME
        dilations = draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes))
    channels, outer, batch = draw(WIDTHS), draw(WIDTHS), draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    outer *= groups
    extent = [d * (k - 1) + 1 + draw(st.integers(0, 3)) for d, k in zip(dilations, kernel, strict=True)]
    seed = draw(SEEDS)
    attributes = {"strides": strides, "dilations": dilations, **({"group": groups} if groups > 1 else {})}
    if draw(st.booleans()):
        attributes["kernel_shape"] = list(kernel)
    pads = draw(st.lists(st.integers(0, 1), min_size=2 * axes, max_size=2 * axes))
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
    elif draw(st.booleans()) and not (unpadded_points and max(kernel) == 1):
        attributes["pads"] = pads
    weights = {"W": weight((outer, channels, *kernel), seed + 1)}
    nodes, inputs, bias = [], ["x", "W"], None
    place = draw(st.sampled_from(["none", "initializer", "constant"]))
    if place != "none":
        bias = normal([outer], seed + 2)
        inputs.append("b")
        if place == "constant":
            nodes.append(constant("b", bias))
        else:
            weights["b"] = bias
    nodes.append(node("Conv", inputs, ["y"], "op", **attributes))
    x = normal([batch, channels * groups, *extent], seed)
    model = build(nodes, [value("x", x.shape)], [value("y", [ANY] * x.ndim)], weights)
    return Case(model, x, 0.0 if bias is None else bias.reshape(1, -1, *[1] * axes))


CASES = {"MatMul": matmuls, "Gemm": gemms, "Conv": convs}
"""Every operator of OPS has its nodes here; a law asserts it."""
