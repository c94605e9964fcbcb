"""Random nodes of every operator: geometries that onnxruntime accepts, and everything a law needs to know of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from builders import ANY, build, constant, fitting, node, normal, value, weight
from hypothesis import assume
from hypothesis import strategies as st

from onnx_lowrank.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A model of one node with weight W, and an input for it."""

    model: onnx.ModelProto
    x: Array
    bias: Array | float = 0.0
    other: int = 0
    """Multiply-accumulates of the node that are not W's."""

    def __repr__(self) -> str:
        operator = next(n for n in self.model.graph.node if n.op_type != "Constant")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in operator.attribute}
        shapes = {t.name: list(t.dims) for t in self.model.graph.initializer}
        return f"Case({operator.op_type}, inputs={list(operator.input)}, {attributes}, x={self.x.shape}, {shapes})"


SEEDS = st.integers(0, 10**6)
WIDTHS = st.integers(2, 7)
SMALL = st.integers(1, 3)
LONG = st.integers(10, 12)
FEW_TAPS = ((), (3,), (3, 3))
"""Kernels as the strategies here draw them unless they are told to draw long ones."""


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
def convs(draw: st.DrawFn, *, unpadded_points: bool = False, long: bool = False) -> Case:
    """One to three axes, strides, dilations, explicit or automatic padding, bias in an initializer or a Constant.

    `unpadded_points`: a 1×1 kernel gets no padding (there the moments are those of all inputs, an approximation).
    `long`: a kernel of ten taps or more along the first axis, one group, and no more inputs than outputs.
    """
    axes = draw(st.integers(1, 3))
    kernel = (draw(LONG if long else SMALL), *draw(st.lists(SMALL, min_size=axes - 1, max_size=axes - 1)))
    strides = draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes))
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    dilations = [1] * axes
    if not auto.startswith("SAME"):  # onnxruntime refuses dilation with SAME
        dilations = draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes))
    channels, outer, batch = draw(WIDTHS), draw(WIDTHS), draw(st.integers(1, 2))
    groups = 1 if long else draw(st.sampled_from([1, 1, 2, 3]))
    outer = max(outer, channels) if long else outer * groups
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


@st.composite
def gathers(draw: st.DrawFn) -> Case:
    """Indices of no to three dimensions, negative ones too, the axis left out or said from either end."""
    width = draw(WIDTHS)
    rows, seed = width + draw(st.integers(0, 4)), draw(SEEDS)
    shape = draw(st.lists(SMALL, max_size=3))
    kind = draw(st.sampled_from([np.int64, np.int32]))
    x = np.random.default_rng(seed).integers(-rows, rows, shape).astype(kind)
    axis = draw(st.sampled_from([{}, {"axis": 0}, {"axis": -2}]))
    table = np.ascontiguousarray(weight((width, rows), seed + 1).T)
    given = value("x", x.shape, onnx.helper.np_dtype_to_tensor_dtype(x.dtype))
    return Case(
        build([node("Gather", ["W", "x"], ["y"], "op", **axis)], [given], [value("y", [*shape, width])], {"W": table}),
        x,
    )


@st.composite
def conv_transposes(draw: st.DrawFn, *, long: bool = False) -> Case:
    """One to three axes, groups, strides, dilations, output padding; pads given, automatic, or by output_shape.

    `long`: see `convs`.
    """
    axes = draw(st.integers(1, 3))
    each = {"min_size": axes, "max_size": axes}
    kernel = [draw(LONG if long else SMALL), *draw(st.lists(SMALL, min_size=axes - 1, max_size=axes - 1))]
    channels, outer, batch, seed = draw(WIDTHS), draw(WIDTHS), draw(st.integers(1, 2)), draw(SEEDS)
    groups = 1 if long else draw(st.sampled_from([1, 1, 2, 3]))
    outer = max(outer, channels) if long else outer
    extent = draw(st.lists(st.integers(1, 4), **each))
    attributes: dict[str, object] = {}
    if max(kernel) > 1:  # of a 1×1 kernel only the plain one is taken
        strides, dilations = draw(st.lists(st.integers(1, 3), **each)), draw(st.lists(st.integers(1, 2), **each))
        extra = [draw(st.integers(0, stride - 1)) for stride in strides]
        attributes = {"strides": strides, "dilations": dilations, "output_padding": extra}
        spread = zip(strides, extent, extra, dilations, kernel, strict=True)
        whole = [s * (n - 1) + e + d * (k - 1) + 1 for s, n, e, d, k in spread]
        style = draw(st.sampled_from(["none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID", "shape"]))
        if style == "pads":
            begin = [draw(st.integers(0, min(2, (w - 1) // 2))) for w in whole]
            end = [draw(st.integers(0, min(2, (w - 1) // 2))) for w in whole]
            attributes["pads"] = [*begin, *end]
        elif style == "shape":
            # one smaller than the input is lost to ONNX's shape inference, and no Conv may follow it then
            attributes["output_shape"] = [
                draw(st.integers(min(max(w - 3, n), w), w)) for w, n in zip(whole, extent, strict=True)
            ]
        elif style != "none":
            attributes["auto_pad"] = style
            if style != "VALID":  # an output of input × stride has to be within what the windows touch
                assume(all(w >= n * s for w, n, s in zip(whole, extent, strides, strict=True)))
    if draw(st.booleans()):
        attributes["kernel_shape"] = kernel
    if groups > 1:
        attributes["group"] = groups
    parts = [weight((outer, channels, *kernel), seed + 1 + group).swapaxes(0, 1) for group in range(groups)]
    weights, inputs, bias = {"W": np.concatenate(parts)}, ["x", "W"], None
    if draw(st.booleans()):
        bias = weights["b"] = normal([groups * outer], seed + 2)
        inputs.append("b")
    x = normal([batch, groups * channels, *extent], seed)
    nodes = [node("ConvTranspose", inputs, ["y"], "op", **attributes)]
    model = build(nodes, [value("x", x.shape)], [value("y", [ANY] * x.ndim)], weights)
    return Case(model, x, 0.0 if bias is None else bias.reshape(1, -1, *[1] * axes))


EINSUMS = (
    *("bd,dk->bk", "bd,kd->bk", "dk,bd->bk", "bd,dk", "bd,dk->kb"),
    *("abc,cde->abde", "abcd,cde->abe", "bcsd,ecd->bse", "ab,dbce->adec"),
    *("...d,dk->...k", "b...d,kd->b...k", "d,dk->k", "ab,bc->ca"),
)


@st.composite
def einsums(draw: st.DrawFn) -> Case:
    """Matrices of one or several axes a side, in any order, on either side, with dots."""
    equation = draw(st.sampled_from(EINSUMS))
    terms = equation.split("->")[0].split(",")
    slot = 0 if equation == "dk,bd->bk" else 1
    sizes = {letter: draw(st.integers(2, 4)) for letter in "abcdeks"}
    shape = [sizes[c] for c in terms[slot]]
    dots = draw(st.lists(SMALL, max_size=2))
    before, _, after = terms[1 - slot].partition("...")
    given = [*(sizes[c] for c in before), *(dots if "..." in equation else ()), *(sizes[c] for c in after)]
    seed = draw(SEEDS)
    W, x = weight(tuple(shape), seed + 1), normal(given, seed)
    inputs = ["x", "W"] if slot == 1 else ["W", "x"]
    kept = sum(1 for c in terms[slot] if c not in terms[1 - slot])
    axes = x.ndim + 2 * kept - len(shape)
    nodes = [node("Einsum", inputs, ["y"], "op", equation=equation)]
    return Case(build(nodes, [value("x", x.shape)], [value("y", [ANY] * axes)], {"W": W}), x)


@st.composite
def recurrents(draw: st.DrawFn, *, op: str) -> Case:
    """Every direction, with and without bias, lengths, initial states and peepholes; any of the outputs is y."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    sides = 2 if direction == "bidirectional" else 1
    width, hidden, steps, batch, seed = draw(WIDTHS), draw(SMALL), draw(SMALL), draw(st.integers(1, 2)), draw(SEEDS)
    W = weight((sides * gates * hidden, width), seed + 1).reshape(sides, gates * hidden, width)
    weights = {"W": W, "R": normal([sides, gates * hidden, hidden], seed + 2)}
    given = {
        "B": lambda: normal([sides, 2 * gates * hidden], seed + 3),
        "lengths": lambda: np.random.default_rng(seed).integers(1, steps + 1, batch).astype(np.int32),
        "h0": lambda: normal([sides, batch, hidden], seed + 4),
        "c0": lambda: normal([sides, batch, hidden], seed + 5),
        "P": lambda: normal([sides, 3 * hidden], seed + 6),
    }
    inputs = ["x", "W", "R"]
    for name, make in given.items():
        use = draw(st.booleans()) and (op == "LSTM" or name not in ("c0", "P"))
        inputs.append(name if use else "")
        if use:
            weights[name] = make()
    while not inputs[-1]:
        inputs.pop()
    attributes: dict[str, object] = {"hidden_size": hidden, "direction": direction}
    if op == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    place = draw(st.integers(0, 2 if op == "LSTM" else 1))
    outputs = ["", "", ""][: place + 1]
    outputs[place] = "y"
    x = normal([steps, batch, width], seed)
    cell = node(op, inputs, outputs, "op", **attributes)
    rank = 3 if place else 4
    model = build([cell], [value("x", x.shape)], [value("y", [ANY] * rank)], weights)
    return Case(model, x, other=steps * batch * sides * gates * hidden * hidden)


@st.composite
def attentions(draw: st.DrawFn) -> Case:
    """onnxruntime's Attention, of any width, with and without bias, mask, and what comes later hidden."""
    width, batch, tokens, heads, seed = draw(WIDTHS), draw(SMALL), draw(SMALL), draw(st.integers(1, 2)), draw(SEEDS)
    hidden = heads * draw(st.integers(1, 4))
    weights = {"W": np.ascontiguousarray(weight((3 * hidden, width), seed + 1).T)}
    weights["b"] = normal([3 * hidden], seed + 2)
    inputs = ["x", "W", "b"]
    if draw(st.booleans()):
        weights["mask"] = np.random.default_rng(seed).integers(1, tokens + 1, batch).astype(np.int32)
        inputs.append("mask")
    settings = {"num_heads": heads, "unidirectional": draw(st.integers(0, 1)), "domain": "com.microsoft"}
    nodes = [node("Attention", inputs, ["y"], "op", **settings)]
    x = normal([batch, tokens, width], seed)
    given = [value("x", x.shape)], [value("y", [batch, tokens, hidden])], weights
    return Case(build(nodes, *given, domains={"com.microsoft": 1}), x, other=2 * batch * tokens * tokens * hidden)


CASES = {
    "MatMul": matmuls,
    "Gemm": gemms,
    "Conv": convs,
    "ConvTranspose": conv_transposes,
    "Einsum": einsums,
    "Gather": gathers,
    "LSTM": functools.partial(recurrents, op="LSTM"),
    "GRU": functools.partial(recurrents, op="GRU"),
    "com.microsoft.Attention": attentions,
    "RNN": functools.partial(recurrents, op="RNN"),
}
"""Every operator of OPS has its nodes here; a law asserts it."""


MANY_TAPS = {
    "Conv": functools.partial(convs, long=True),
    "ConvTranspose": functools.partial(conv_transposes, long=True),
}
"""Operators with a kernel, with one of many taps."""
SEEN_WHOLE = {**CASES, "Conv": functools.partial(convs, unpadded_points=True)}
"""Nodes whose moments are of what their weights see: no padding in front of a 1×1 kernel."""


def all_cases(op: str, cases: Mapping[str, Callable[[], st.SearchStrategy[Case]]] = CASES) -> st.SearchStrategy[Case]:
    """Nodes of an operator, kernels of many taps among them."""
    return cases[op]() | MANY_TAPS[op]() if op in MANY_TAPS else cases[op]()


def made_for(op: str, scheme: str) -> st.SearchStrategy[Case]:
    """Nodes of an operator with kernels of the size that a scheme is made for."""
    return CASES[op]() if any(scheme in fitting((8, 8, *kernel)) for kernel in FEW_TAPS) else MANY_TAPS[op]()
