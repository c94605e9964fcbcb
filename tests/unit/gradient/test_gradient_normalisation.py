"""Normalisations, and operators that the schema defines by others."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_finite import Case, check, draw, gradients, law, node, positive
from hypothesis import given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**16)
SHAPES = st.lists(st.integers(2, 4), min_size=2, max_size=4)


@given(shape=SHAPES, seed=SEEDS, static=st.booleans(), fixed=st.booleans(), old=st.booleans())
@law
def test_batch_normalization(shape, seed, static, fixed, old):
    c = shape[1]
    parts = {"s": draw(seed + 1, c), "b": draw(seed + 2, c), "m": draw(seed + 3, c), "v": positive(seed + 4, c)}
    norm = node("BatchNormalization", ["x", *parts], epsilon=1e-3)
    inputs = {"x": draw(seed, *shape)}
    case = Case([norm], inputs if fixed else {**inputs, **parts}, parts if fixed else {}, 9 if old else 17, static)
    check(case, rtol=1e-6, seed=seed, targets=["x"])


@given(shape=SHAPES, seed=SEEDS, static=st.booleans(), bias=st.booleans(), data=st.data())
@law
def test_layer_normalization(shape, seed, static, bias, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    width = shape[axis:]
    inputs = {"x": draw(seed, *shape), "s": draw(seed + 1, *width)}
    if bias:
        inputs["b"] = draw(seed + 2, *width)
    norm = node("LayerNormalization", list(inputs), axis=axis, epsilon=1e-3)
    check(Case([norm], inputs, static=static, reference=True), rtol=1e-6, seed=seed)


def test_layer_normalization_in_float32_uses_the_statistics_of_the_forward_run():
    """Through the extra outputs; compared with the same graph in float64, which computes them."""
    x, s, b = draw(0, 5, 8) * 3, draw(1, 8), draw(2, 8)
    found = {}
    for dtype in (np.float32, np.float64):
        inputs = {"x": x, "s": s, "b": b}
        case = Case([node("LayerNormalization", list(inputs))], inputs, single=dtype is np.float32)
        graph, _, found[dtype] = gradients(case, rng=np.random.default_rng(3))
        kinds = [made.op_type for made in graph.model.graph.node if made.name in graph.backward]
        assert ("Sqrt" in kinds) == (dtype is np.float64)
    for name in ("x", "s", "b"):
        np.testing.assert_allclose(found[np.float32][name], found[np.float64][name], rtol=1e-4, atol=1e-5)


@given(shape=st.lists(st.integers(2, 4), min_size=3, max_size=4), seed=SEEDS, static=st.booleans())
@law
def test_instance_normalization(shape, seed, static):
    inputs = {"x": draw(seed, *shape), "s": draw(seed + 1, shape[1]), "b": draw(seed + 2, shape[1])}
    norm = node("InstanceNormalization", list(inputs), epsilon=1e-2)
    check(Case([norm], inputs, static=static, reference=True), rtol=1e-6, seed=seed)


@pytest.mark.parametrize("opset", [18, 21])
@given(seed=SEEDS, static=st.booleans(), spatial=st.lists(st.integers(1, 3), min_size=1, max_size=2))
@law
def test_group_normalization(opset, seed, static, spatial):
    """Through its function body; scale and bias are per group at 18, per channel at 21."""
    width = 2 if opset == 18 else 4
    inputs = {"x": draw(seed, 2, 4, *spatial, 3), "s": draw(seed + 1, width), "b": draw(seed + 2, width)}
    norm = node(
        "GroupNormalization", list(inputs), num_groups=2, epsilon=1e-2, **({"stash_type": 11} if opset == 21 else {})
    )
    check(Case([norm], inputs, static=static, opset=opset, reference=True), rtol=1e-6, seed=seed, targets=["x"])


@given(shape=SHAPES, seed=SEEDS, static=st.booleans(), data=st.data())
@law
def test_rms_normalization(shape, seed, static, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    inputs = {"x": draw(seed, *shape), "s": draw(seed + 1, *shape[axis:])}
    norm = node("RMSNormalization", list(inputs), axis=axis, epsilon=1e-2)
    check(Case([norm], inputs, static=static, opset=23, reference=True), rtol=1e-6, seed=seed)


@pytest.mark.parametrize("p", [1, 2])
@given(shape=SHAPES, seed=SEEDS, data=st.data())
@law
def test_lp_normalization(p, shape, seed, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    check(Case([node("LpNormalization", ["x"], axis=axis, p=p)], {"x": draw(seed, *shape)}), rtol=1e-6, seed=seed)


def test_mean_variance_normalization_through_its_function():
    case = Case(
        [node("MeanVarianceNormalization", ["x"], axes=[0, 2])], {"x": draw(0, 3, 2, 4)}, single=True, step=3e-3
    )
    check(case, rtol=1e-3, seed=0)


def test_attention_through_its_function():
    """Opset 23's Attention has a body that depends on its attributes and types."""
    inputs = {name: draw(i, 2, 2, 3, 4) for i, name in enumerate("qkv")}
    check(Case([node("Attention", ["q", "k", "v"])], inputs, opset=23, reference=True), rtol=1e-6, seed=0)
