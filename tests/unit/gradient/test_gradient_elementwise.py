"""Arithmetic and functions of one operand, broadcasting included."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_finite import Case, check, draw, gradients, ints, law, node, positive
from hypothesis import assume, example, given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**16)
OPSETS = st.sampled_from([13, 17, 18, 21])


@st.composite
def broadcast_shapes(draw_from, count: int = 2) -> list[tuple[int, ...]]:
    """Shapes that broadcast: each drops leading axes and sets some extents to 1."""
    full = draw_from(st.lists(st.integers(1, 4), min_size=0, max_size=4))
    shapes = []
    for _ in range(count):
        cut = draw_from(st.integers(0, len(full)))
        shapes.append(tuple(size if draw_from(st.booleans()) else 1 for size in full[cut:]))
    return shapes


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow"])
@given(shapes=broadcast_shapes(), seed=SEEDS, static=st.booleans(), opset=OPSETS)
@law
def test_two_operands(op, shapes, seed, static, opset):
    inputs = {"a": positive(seed, *shapes[0]), "b": positive(seed + 1, *shapes[1])}
    check(Case([node(op, ["a", "b"])], inputs, opset=opset, static=static), rtol=1e-6, seed=seed)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
@given(shapes=broadcast_shapes(count=3), count=st.integers(1, 3), seed=SEEDS, static=st.booleans())
@law
def test_many_operands(op, shapes, count, seed, static):
    # (onnx's reference evaluator, which takes Mean in float64, needs the widest first.)
    inputs = {f"x{i}": draw(seed + i, *shape) for i, shape in enumerate(sorted(shapes[:count], key=len)[::-1])}
    if op == "Mean":
        inputs["x0"] = inputs["x0"] + np.zeros(np.broadcast_shapes(*shapes))
    check(Case([node(op, list(inputs))], inputs, static=static), rtol=1e-6, seed=seed)


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_one_tensor_twice(op):
    check(Case([node(op, ["x", "x"])], {"x": draw(0, 3, 2)}), rtol=1e-6, seed=0)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0])
def test_fixed_exponent(exponent):
    case = Case([node("Pow", ["x", "e"])], {"x": positive(1, 3, 2)}, {"e": np.array(exponent)})
    check(case, rtol=1e-6, seed=1)


def test_exponent_of_another_type():
    case = Case([node("Pow", ["x", "e"])], {"x": draw(1, 3, 2)}, {"e": np.array([2, 3], np.int64)})
    check(case, rtol=1e-6, seed=1)


ANYWHERE = [
    "Neg",
    "Exp",
    "Erf",
    "Abs",
    "Sin",
    "Cos",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Tanh",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Relu",
    "Tan",
    "HardSwish",
    "Mish",
    "Elu",
    "Selu",
    "HardSigmoid",
    "LeakyRelu",
    "ThresholdedRelu",
    "Celu",
    "Shrink",
    "Identity",
]
INEXACT = ["Erf", "Shrink", "Gelu"]
"""onnxruntime's float64 kernels of these compute in float32."""
INSIDE = ["Sqrt", "Log", "Reciprocal", "Acosh", "Asin", "Acos", "Atanh"]


@pytest.mark.parametrize("op", ANYWHERE)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=SEEDS, static=st.booleans())
@law
def test_functions_of_one_operand(op, shape, seed, static):
    x = draw(seed, *shape) * (0.4 if op == "Tan" else 2.0)
    opset = 18 if op == "Mish" else 17
    case = Case([node(op, ["x"])], {"x": x}, static=static, opset=opset, reference=op in INEXACT)
    check(case, rtol=3e-6, seed=seed)


@pytest.mark.parametrize("op", INSIDE)
@given(shape=st.lists(st.integers(1, 4), max_size=3), seed=SEEDS)
@law
def test_functions_with_a_domain(op, shape, seed):
    x = positive(seed, *shape)
    x = {"Acosh": x + 1.2, "Asin": x / 2.5, "Acos": x / 2.5, "Atanh": x / 2.5}.get(op, x)
    check(Case([node(op, ["x"])], {"x": x}), rtol=3e-6, seed=seed)


@pytest.mark.parametrize(
    ("op", "opset", "attributes"),
    [
        ("LeakyRelu", 16, {"alpha": 0.3}),
        ("Elu", 17, {"alpha": 0.7}),
        ("Celu", 17, {"alpha": 0.6}),
        ("Selu", 17, {"alpha": 1.2, "gamma": 0.8}),
        ("ThresholdedRelu", 17, {"alpha": 0.4}),
        ("HardSigmoid", 17, {"alpha": 0.4, "beta": 0.3}),
        ("Shrink", 17, {"lambd": 0.4, "bias": 0.1}),
        ("Gelu", 20, {}),
        ("Gelu", 20, {"approximate": "tanh"}),
        ("Swish", 24, {"alpha": 1.3}),
        ("Swish", 24, {}),
    ],
)
@given(seed=SEEDS)
@law
def test_activations_with_attributes(op, opset, attributes, seed):
    case = Case([node(op, ["x"], **attributes)], {"x": draw(seed, 3, 5) * 2}, opset=opset, reference=op in INEXACT)
    check(case, rtol=1e-6, seed=seed)


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=SEEDS, data=st.data())
@law
def test_prelu(shape, seed, data):
    slope = [size if data.draw(st.booleans()) else 1 for size in shape[data.draw(st.integers(0, len(shape))) :]]
    case = Case([node("PRelu", ["x", "slope"])], {"x": draw(seed, *shape), "slope": draw(seed + 1, *slope)})
    check(case, rtol=1e-6, seed=seed)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=SEEDS, data=st.data(), opset=OPSETS)
@law
def test_softmax(op, shape, seed, data, opset):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    check(Case([node(op, ["x"], axis=axis)], {"x": draw(seed, *shape)}, opset=opset), rtol=1e-6, seed=seed)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [9, 11, 12])
def test_softmax_of_old_flattens(op, opset):
    """Before opset 13 all axes from `axis` on were one; the model is raised, the result stays."""
    case = Case([node(op, ["x"], axis=1)], {"x": draw(3, 2, 3, 4)}, opset=opset, static=True)
    check(case, rtol=1e-6, seed=3)


@given(shape=st.lists(st.integers(1, 4), max_size=3), seed=SEEDS, low=st.booleans(), high=st.booleans())
@law
def test_clip(shape, seed, low, high):
    inputs = {"x": draw(seed, *shape) * 2}
    if low:
        inputs["low"] = np.array(-0.5)
    if high:
        inputs["high"] = np.array(0.8)
    case = Case([node("Clip", ["x", "low" if low else "", "high" if high else ""])], inputs)
    check(case, rtol=1e-6, seed=seed)


@given(shapes=broadcast_shapes(count=3), seed=SEEDS, static=st.booleans())
@law
def test_where(shapes, seed, static):
    condition = draw(seed, *shapes[0]) > 0
    inputs = {"c": condition, "a": draw(seed + 1, *shapes[1]), "b": draw(seed + 2, *shapes[2])}
    check(Case([node("Where", ["c", "a", "b"])], inputs, static=static), rtol=1e-6, seed=seed)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_cumulative_sum(axis, reverse, exclusive):
    cum = node("CumSum", ["x", "axis"], exclusive=exclusive, reverse=reverse)
    check(Case([cum], {"x": draw(1, 3, 4)}, {"axis": np.array(axis, np.int64)}), rtol=1e-6, seed=1)


@pytest.mark.parametrize("upper", [0, 1])
def test_triangle(upper):
    case = Case([node("Trilu", ["x", "k"], upper=upper)], {"x": draw(1, 2, 3, 4)}, {"k": np.array(1, np.int64)})
    check(case, rtol=1e-6, seed=1)


def test_modulo_in_its_first_operand():
    inputs = {"x": np.array([0.3, 1.7, -2.2])}
    case = Case([node("Mod", ["x", "m"], fmod=1)], inputs, {"m": np.array([1.0])})
    check(case, rtol=1e-6, seed=1)


def test_cast_there_and_back():
    nodes = [node("Cast", ["x"], ["h"], to=1), node("Mul", ["h", "h"], ["k"]), node("Cast", ["k"], ["y"], to=11)]
    x = np.array([0.5, 0.25, 3.0])
    graph = check(Case(nodes, {"x": x}, step=1e-2), rtol=1e-4, seed=1)
    assert graph.gradients == {"x": "gradient@x"}


def test_dropout_at_inference():
    check(Case([node("Dropout", ["x"])], {"x": draw(0, 3)}), rtol=1e-6, seed=0)


@given(shapes=broadcast_shapes(count=1), seed=SEEDS, static=st.booleans())
@law
def test_expand(shapes, seed, static):
    full = [3 if size == 1 else size for size in shapes[0]]
    case = Case([node("Expand", ["x", "s"])], {"x": draw(seed, *shapes[0]), "s": ints(2, *full)}, static=static)
    check(case, rtol=1e-6, seed=seed)


@given(low=st.floats(-1e6, 1e6, width=32), width=st.floats(2**-10, 1e6, width=32), seed=st.integers(0, 99))
@example(low=0.0, width=6.0, seed=0)
@example(low=0.0, width=float(np.float32(3.4e38)), seed=0)
@law
def test_the_slope_of_clip_and_relu_is_1_inside_and_0_at_the_bounds_and_beyond(low, width, seed):
    """In single precision, where the answer comes from the distance to the middle: exact but for its own precision."""
    low32, high32 = np.float32(low), np.float32(low + width)
    assume(low32 < high32)
    middle = np.float32(low32 / 2 + high32 / 2)
    inside = np.float32([middle, high32 - np.spacing(np.float32(abs(low) / 2 + width)), low32 + (high32 - low32) / 8])
    x = np.concatenate([inside[(inside > low32) & (inside < high32)], [low32, high32, low32 - abs(low32) - 1]])
    constants = {"low": np.asarray(low32), "high": np.asarray(high32)}
    for made in (node("Clip", ["x", "low", "high"]), node("Relu", ["x"])):
        case = Case([made], {"x": x}, constants if made.op_type == "Clip" else {}, single=True)
        case.inputs = {"x": x.astype(np.float32)}
        _, seeds, found = gradients(case, rng=np.random.default_rng(seed))
        passes = (x > low32) & (x < high32) if made.op_type == "Clip" else x > 0
        np.testing.assert_array_equal(found["x"], np.where(passes, seeds["y"], 0))
