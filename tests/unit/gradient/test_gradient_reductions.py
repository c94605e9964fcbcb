"""Reductions and poolings."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_finite import Case, check, draw, gradients, ints, law, node, positive
from hypothesis import given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**16)
REDUCTIONS = ["Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSum", "LogSumExp", "Prod"]


@pytest.mark.parametrize("kind", REDUCTIONS)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=SEEDS,
    static=st.booleans(),
    keepdims=st.sampled_from([None, 0, 1]),
    opset=st.sampled_from([11, 13, 17, 18, 20]),
    data=st.data(),
)
@law
def test_reduction(kind, shape, seed, static, keepdims, opset, data):
    axes = data.draw(st.none() | st.sets(st.integers(0, len(shape) - 1), min_size=1).map(sorted))
    if axes is not None:
        axes = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    as_input = opset >= (13 if kind == "Sum" else 18)
    attributes = {} if keepdims is None else {"keepdims": keepdims}
    if axes is not None and not as_input:
        attributes["axes"] = axes
    given_axes = as_input and axes is not None
    reduce = node(f"Reduce{kind}", ["x", "axes"] if given_axes else ["x"], **attributes)
    constants = {"axes": ints(*axes)} if given_axes else {}
    case = Case([reduce], {"x": positive(seed, *shape)}, constants, opset, static)
    check(case, rtol=1e-6, seed=seed)


@pytest.mark.parametrize("kind", ["Sum", "Mean", "L2"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_known_only_at_run_time(kind, keepdims):
    case = Case(
        [node(f"Reduce{kind}", ["x", "axes"], keepdims=keepdims)],
        {"x": positive(0, 2, 3, 4), "axes": ints(-1, 0)},
        opset=18,
    )
    check(case, rtol=1e-6, seed=0)


def test_nothing_to_reduce():
    case = Case([node("ReduceSum", ["x", "axes"], noop_with_empty_axes=1)], {"x": draw(0, 2, 3)}, {"axes": ints()})
    check(case, rtol=1e-6, seed=0)


def test_ties_share():
    """Two equal maxima get half each: the one-sided slopes are 0 and 1."""
    case = Case([node("ReduceMax", ["x"], keepdims=0)], {"x": np.array([1.0, 3.0, 3.0])})
    _, seeds, found = gradients(case, rng=np.random.default_rng(0))
    np.testing.assert_allclose(found["x"], float(seeds["y"]) * np.array([0, 0.5, 0.5]), rtol=1e-12)


@pytest.mark.parametrize("largest", [0, 1])
@given(seed=SEEDS, axis=st.integers(-3, 2), k=st.integers(1, 3))
@law
def test_top_k(largest, seed, axis, k):
    top = node("TopK", ["x", "k"], ["y", "i"], axis=axis, largest=largest)
    check(Case([top], {"x": draw(seed, 3, 4, 3)}, {"k": ints(k)}), rtol=1e-6, seed=seed)


@st.composite
def pools(pick):
    n = pick(st.integers(1, 3))
    kernel = [pick(st.integers(1, 3)) for _ in range(n)]
    strides = [pick(st.integers(1, 3)) for _ in range(n)]
    sizes = [k + pick(st.integers(0, 4)) for k in kernel]
    attributes = {"kernel_shape": kernel, "strides": strides}
    auto = pick(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes["pads"] = [pick(st.integers(0, kernel[i % n] - 1)) for i in range(2 * n)]
        attributes["ceil_mode"] = pick(st.integers(0, 1))
    else:
        attributes["auto_pad"] = auto
        attributes["strides"] = [min(s, k) for s, k in zip(strides, kernel, strict=True)]
    return (2, 2, *sizes), attributes


@given(geometry=pools(), seed=SEEDS, static=st.booleans(), include=st.integers(0, 1))
@law
def test_average_pool(geometry, seed, static, include):
    shape, attributes = geometry
    pool = node("AveragePool", ["x"], count_include_pad=include, **attributes)
    check(Case([pool], {"x": draw(seed, *shape)}, static=static, single=True, step=1.0), rtol=1e-5, seed=seed)


@given(seed=SEEDS, dilation=st.integers(1, 2), pad=st.integers(0, 1), include=st.integers(0, 1))
@law
def test_dilated_average_pool(seed, dilation, pad, include):
    pool = node(
        "AveragePool",
        ["x"],
        kernel_shape=[2, 2],
        dilations=[dilation, 1],
        pads=[pad] * 4,
        count_include_pad=include,
    )
    check(Case([pool], {"x": draw(seed, 1, 2, 5, 4)}, opset=19, single=True, step=1.0), rtol=1e-5, seed=seed)


@given(geometry=pools(), seed=SEEDS, static=st.booleans(), data=st.data())
@law
def test_max_pool(geometry, seed, static, data):
    shape, attributes = geometry
    if "auto_pad" not in attributes and data.draw(st.booleans()):
        attributes["dilations"] = [
            2 if size > 2 * (k - 1) else 1 for size, k in zip(shape[2:], attributes["kernel_shape"], strict=True)
        ]
        attributes["pads"] = [0] * len(attributes["pads"])
    check(Case([node("MaxPool", ["x"], **attributes)], {"x": draw(seed, *shape)}, static=static), rtol=1e-6, seed=seed)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@given(shape=st.lists(st.integers(1, 4), min_size=3, max_size=5), seed=SEEDS, static=st.booleans())
@law
def test_global_pools(op, shape, seed, static):
    x = np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape) / 10  # no two close together
    case = Case([node(op, ["x"])], {"x": x}, static=static, single=True, step=1e-3)
    check(case, rtol=1e-3, seed=seed)
