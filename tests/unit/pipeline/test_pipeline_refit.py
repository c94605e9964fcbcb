"""repair.refit: closed-form refits of the last factors on the compressed prefix, front to back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from builders import (
    ANY,
    build,
    convnet,
    correlated,
    feeds_of,
    found_in,
    full_rank,
    mlp,
    node,
    normal,
    options,
    plan_of,
    relative_squared,
    run,
    value,
    weight,
)
from onnx import TensorProto

from onnx_lowrank.errors import PlanError
from onnx_lowrank.graph.editing import upstream
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.refit import refit
from onnx_lowrank.schemes import Factors, by_name
from onnx_lowrank.types import Array, Plan

Picks = Mapping[str, tuple[str, int]]


def prepared(model: onnx.ModelProto, picks: Picks) -> tuple[Any, Plan, dict[tuple[str, str], Factors]]:
    """Return what is found, the plan, and factors of the plain weights: site id -> (scheme, rank)."""
    found = found_in(model)
    sites = {site.id: site for site in found.sites}
    factors = {
        (s, scheme): by_name(scheme).factor(found.weight(sites[s]), None, None, (rank,))
        for s, (scheme, rank) in picks.items()
    }
    return found, plan_of({s: (scheme, (rank,)) for s, (scheme, rank) in picks.items()}, found), factors


def errors(model: onnx.ModelProto, picks: Picks, x: Array, **changes: Any) -> tuple[float, float]:
    """Return the relative squared error of y on `x`, truncated and repaired."""
    found, plan, factors = prepared(model, picks)
    new = refit(model, found, plan, factors, feeds_of(x), options().runtime, **changes)
    assert new.keys() == factors.keys()
    expected = run(model, {"x": x})["y"]
    candidates = [rewrite(model, found, plan, each) for each in (factors, new)]
    for candidate in candidates:
        onnx.checker.check_model(candidate, full_check=True)
    before, after = (relative_squared(expected, run(c, {"x": x})["y"]) for c in candidates)
    return before, after


MLP = mlp([24, 24, 24, 16], [None] * 3, 3)
X = correlated(200, 24, 5)
HARD: Picks = {"h0": ("svd", 6), "h1": ("svd", 6), "y": ("svd", 6)}


def matmuls(slot: int) -> onnx.ModelProto:
    """x W V with the weights on the right, or Wᵀ x on columns with them on the left."""
    W, V = weight((24, 24), 1), weight((16, 24), 2)
    if slot:
        nodes = [node("MatMul", ["x", "W"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "V"], ["y"])]
        return build(nodes, [value("x", ["n", 24])], [value("y", ["n", 16])], {"W": W.T.copy(), "V": V.T.copy()})
    nodes = [
        node("Unsqueeze", ["x", "axes"], ["c"]),
        node("MatMul", ["W", "c"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["V", "r"], ["y"]),
    ]
    weights = {"W": W, "V": V, "axes": np.array([2])}
    return build(nodes, [value("x", ["n", 24])], [value("y", ["n", 16, 1])], weights)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_outputs_error_falls_on_gemms(batch: int):
    before, after = errors(MLP, HARD, X, batch=batch)
    assert before > 0.1
    assert after < 0.8 * before


@pytest.mark.parametrize("slot", [0, 1])
def test_the_outputs_error_falls_on_matmuls(slot: int):
    before, after = errors(matmuls(slot), {"h": ("svd", 5), "y": ("svd", 5)}, X)
    assert after < 0.8 * before


def test_the_outputs_error_falls_on_convolutions():
    model = convnet([3, 12, 12], [None, None], 6, 2)
    x = normal([40, 3, 8, 8], 1)
    before, after = errors(model, {"c0": ("kernel-first", 4), "c1": ("kernel-first", 4), "y": ("svd", 3)}, x)
    assert after < 0.8 * before


def test_samples_that_were_not_seen_gain_too():
    found, plan, factors = prepared(MLP, HARD)
    new = refit(MLP, found, plan, factors, feeds_of(X[:100]), options().runtime)
    expected = run(MLP, {"x": X[100:]})["y"]
    before, after = (
        relative_squared(expected, run(rewrite(MLP, found, plan, each), {"x": X[100:]})["y"]) for each in (factors, new)
    )
    assert after < before


def test_it_is_the_ridge_solution_by_hand():
    """One Gemm, one ridge: against numpy.linalg.solve of the normal equations."""
    W, alpha, beta, ridge = weight((8, 10), 1), 0.5, 3.0, 0.05
    nodes = [node("Gemm", ["x", "W", "b"], ["y"], "g", transB=1, alpha=alpha, beta=beta)]
    model = build(nodes, [value("x", ["n", 10])], [value("y", ["n", 8])], {"W": W, "b": normal([8], 3)})
    found, plan, factors = prepared(model, {"y": ("svd", 3)})
    x = correlated(60, 10, 4)
    new = refit(model, found, plan, factors, feeds_of(x), options().runtime, ridges=(ridge,))
    first, last = (stage.weight.astype(np.float64) for stage in factors["y", "svd"].chain((3,)).stages)
    u, y = alpha * x.astype(np.float64) @ first.T, alpha * x.astype(np.float64) @ W.T.astype(np.float64)
    shrink = ridge * np.trace(u.T @ u) / 3 * np.eye(3)
    expected = np.linalg.solve(u.T @ u + shrink, u.T @ y + shrink @ last.T).T
    assert np.abs(expected - last).max() > 1e-2
    np.testing.assert_allclose(new["y", "svd"].chain((3,)).stages[1].weight, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["y", "svd"].dense((3,)), expected @ first, rtol=1e-4, atol=1e-5)


def test_gemm_with_alpha_beta_and_the_weight_on_the_left():
    W, V = weight((24, 24), 1), weight((16, 24), 2)
    nodes = [
        node("Gemm", ["W", "x", "b"], ["h"], "one", transB=1, alpha=0.25, beta=2.0),
        node("Tanh", ["h"], ["r"]),
        node("Gemm", ["r", "V"], ["y"], "two", transA=1, transB=1, alpha=-3.0),
    ]
    weights = {"W": W, "V": V, "b": normal([24, 1], 3)}
    model = build(nodes, [value("x", ["n", 24])], [value("y", ["n", 16])], weights)
    before, after = errors(model, {"h": ("svd", 5), "y": ("svd", 5)}, X)
    assert after < 0.8 * before


def test_strides_pads_and_a_bias_that_is_no_constant():
    nodes = [
        node("Conv", ["x", "W"], ["h"], "one", pads=[1, 0, 1, 2], strides=[2, 1], dilations=[1, 2]),
        node("Relu", ["h"], ["r"]),
        node("Neg", ["b"], ["minus"]),
        node("Conv", ["r", "V", "minus"], ["c"], "two", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Conv", ["c", "P", "given"], ["y"], "three", strides=[2, 1]),
    ]
    weights = {
        "W": weight((12, 4, 3, 3), 1),
        "V": weight((12, 12, 3, 3), 2),
        "P": weight((10, 12, 1, 1), 4),
        "b": normal([12], 3),
    }
    inputs = [value("x", ["n", 4, 9, 9]), value("given", [10])]
    model = build(nodes, inputs, [value("y", [ANY] * 4)], weights)
    picks: Picks = {"h": ("kernel-first", 4), "c": ("kernel-first", 4), "y": ("svd", 4)}
    found, plan, factors = prepared(model, picks)
    x, given = normal([30, 4, 9, 9], 1), normal([10], 7)
    feeds = [{"x": x[i : i + 1], "given": given} for i in range(len(x))]
    new = refit(model, found, plan, factors, feeds, options().runtime)
    expected = run(model, {"x": x, "given": given})["y"]
    before, after = (
        relative_squared(expected, run(rewrite(model, found, plan, each), {"x": x, "given": given})["y"])
        for each in (factors, new)
    )
    assert after < 0.8 * before


def test_a_shared_weight_is_fitted_to_all_its_calls():
    """Two calls of other scale: the sums of both decide, so the best factor for the first alone loses."""
    nodes = [
        node("Gemm", ["x", "W", "b"], ["h"], "one", transB=1, alpha=0.5),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "W"], ["y"], "two", transB=1, alpha=2.0),
    ]
    weights = {"W": weight((24, 24), 1), "b": normal([24], 2)}
    model = build(nodes, [value("x", ["n", 24])], [value("y", ["n", 24])], weights)
    picks: Picks = {"h": ("svd", 6)}
    found, plan, factors = prepared(model, picks)
    before, after = errors(model, picks, X)
    assert after < before
    new = refit(model, found, plan, factors, feeds_of(X), options().runtime, ridges=(0.01,))
    values = run(upstream(model, ["h", "r", "y"]), {"x": X})
    middle = run(upstream(rewrite(model, found, plan, factors), ["r"]), {"x": X})["r"]
    first, last = (stage.weight.astype(np.float64) for stage in factors["h", "svd"].chain((6,)).stages)
    u = np.concatenate([0.5 * X @ first.T, 2.0 * middle @ first.T]).astype(np.float64)
    y = np.concatenate([values["h"] - weights["b"], values["y"]]).astype(np.float64)
    shrink = 0.01 * np.trace(u.T @ u) / 6 * np.eye(6)
    expected = np.linalg.solve(u.T @ u + shrink, u.T @ y + shrink @ last.T).T
    np.testing.assert_allclose(new["h", "svd"].chain((6,)).stages[1].weight, expected, rtol=1e-3, atol=1e-4)


def test_a_later_site_sees_the_refitted_prefix():
    """The second site of a chain: the solution by hand needs the candidate with the first one refitted."""
    found, plan, factors = prepared(MLP, {"h0": ("svd", 6), "h1": ("svd", 6)})
    ridge = 0.01
    new = refit(MLP, found, plan, factors, feeds_of(X), options().runtime, ridges=(ridge,))
    half = dict(factors) | {("h0", "svd"): new["h0", "svd"]}
    r0 = run(upstream(rewrite(MLP, found, plan, half), ["r0"]), {"x": X})["r0"].astype(np.float64)
    bias = next(onnx.numpy_helper.to_array(t) for t in MLP.graph.initializer if t.name == "b1")
    y = run(upstream(MLP, ["h1"]), {"x": X})["h1"].astype(np.float64) - bias
    first, last = (stage.weight.astype(np.float64) for stage in factors["h1", "svd"].chain((6,)).stages)
    u = r0 @ first.T
    shrink = ridge * np.trace(u.T @ u) / 6 * np.eye(6)
    expected = np.linalg.solve(u.T @ u + shrink, u.T @ y + shrink @ last.T).T
    np.testing.assert_allclose(new["h1", "svd"].chain((6,)).stages[1].weight, expected, rtol=1e-3, atol=1e-4)


def test_dense_sites_are_never_touched_and_the_given_factors_stay():
    found, plan, factors = prepared(MLP, {"h0": ("svd", 6), "h1": ("svd", 6)})
    original = MLP.SerializeToString(deterministic=True)
    old = dict(factors)
    chain = factors["h0", "svd"].chain((6,))
    kept = [stage.weight.copy() for stage in chain.stages]
    new = refit(MLP, found, plan, factors, feeds_of(X), options().runtime)
    assert MLP.SerializeToString(deterministic=True) == original
    assert factors == old
    for stage, weights in zip(factors["h0", "svd"].chain((6,)).stages, kept, strict=True):
        np.testing.assert_array_equal(stage.weight, weights)
    repaired = {t.name: t for t in rewrite(MLP, found, plan, new).graph.initializer}
    truncated = {t.name: t for t in rewrite(MLP, found, plan, factors).graph.initializer}
    changed = {name for name, tensor in truncated.items() if repaired[name] != tensor}
    assert changed == {"fc0.lowrank1", "fc1.lowrank1"}


def test_factors_at_other_ranks_are_as_they_were():
    found, _, factors = prepared(MLP, {"h0": ("svd", 8)})
    plan = plan_of({"h0": ("svd", (5,))}, found)
    old = factors["h0", "svd"]
    new = refit(MLP, found, plan, factors, feeds_of(X), options().runtime)["h0", "svd"]
    assert new.scheme == "svd"
    assert new.error((5,)) == old.error((5,))
    assert new.chain((5,)).layout == old.chain((5,)).layout
    assert not np.array_equal(new.chain((5,)).stages[1].weight, old.chain((5,)).stages[1].weight)
    np.testing.assert_array_equal(new.chain((7,)).stages[1].weight, old.chain((7,)).stages[1].weight)
    np.testing.assert_array_equal(new.dense((7,)), old.dense((7,)))


def test_full_rank_stays_exact():
    picks: Picks = {"h0": ("svd", 24), "h1": ("svd", 24), "y": ("svd", 16)}
    before, after = errors(MLP, picks, X)
    assert before < 1e-10
    assert after < 1e-10
    model = convnet([3, 12], [None], 6, 2)
    picks = {"c0": ("kernel-first", full_rank("kernel-first", (12, 3, 3, 3))[0])}
    assert max(errors(model, picks, normal([12, 3, 8, 8], 1))) < 1e-10


def test_kernel_last_sites_stay():
    model = convnet([6, 12, 12], [None, None], 6, 2)
    found, plan, factors = prepared(model, {"c0": ("kernel-last", 2), "c1": ("kernel-first", 4)})
    new = refit(model, found, plan, factors, feeds_of(normal([20, 6, 8, 8], 1)), options().runtime)
    assert new["c0", "kernel-last"] is factors["c0", "kernel-last"]
    assert new["c1", "kernel-first"] is not factors["c1", "kernel-first"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_samples_with_a_large_ridge_stay_near_the_old_factor(count: int):
    found, plan, factors = prepared(MLP, HARD)
    new = refit(MLP, found, plan, factors, feeds_of(X[:count]), options().runtime, ridges=(1e6,))
    for key, old in factors.items():
        last = old.chain((6,)).stages[1].weight
        np.testing.assert_allclose(new[key].chain((6,)).stages[1].weight, last, rtol=0, atol=1e-4)


@pytest.mark.parametrize("x", [X[:1], X[:0], np.zeros((6, 24), np.float32)], ids=["one", "none", "zeros"])
def test_samples_that_say_nothing_change_nothing(x: Array):
    found, plan, factors = prepared(MLP, {"h0": ("svd", 6)})
    assert refit(MLP, found, plan, factors, feeds_of(x), options().runtime) == factors


def test_sums_that_are_not_finite_change_nothing():
    x = X[:20].copy()
    x[3, 2] = np.inf
    found, plan, factors = prepared(MLP, HARD)
    assert refit(MLP, found, plan, factors, feeds_of(x), options().runtime) == factors


def test_shapes_that_depend_on_values_change_nothing():
    """The rows that are kept differ between the original and the candidate."""
    nodes = [
        node("MatMul", ["x", "W"], ["h"]),
        node("ReduceMax", ["h"], ["top"], axes=[1], keepdims=0),
        node("Greater", ["top", "edge"], ["keep"]),
        node("Compress", ["h", "keep"], ["some"], axis=0),
        node("MatMul", ["some", "V"], ["y"]),
    ]
    weights = {"W": weight((12, 12), 1), "V": weight((12, 12), 2), "edge": np.float32(0.3)}
    model = build(nodes, [value("x", ["n", 12])], [value("y", [ANY, 12])], weights)
    found, plan, factors = prepared(model, {"h": ("svd", 3), "y": ("svd", 3)})
    new = refit(model, found, plan, factors, [{"x": x} for x in np.split(correlated(240, 12, 5), 6)], options().runtime)
    assert new["h", "svd"] is not factors["h", "svd"]
    assert new["y", "svd"] is factors["y", "svd"]


def test_branches_share_a_pass_and_progress_counts_them():
    nodes = [
        *(node("MatMul", ["x", name], [f"h{name}"]) for name in "QKV"),
        node("Mul", ["hQ", "hK"], ["m"]),
        node("Add", ["m", "hV"], ["a"]),
        node("MatMul", ["a", "O"], ["y"]),
    ]
    weights = {name: weight((24, 24), i) for i, name in enumerate("QKVO")}
    model = build(nodes, [value("x", ["n", 24])], [value("y", ["n", 24])], weights)
    picks: Picks = {"y": ("svd", 6), **{f"h{name}": ("svd", 6) for name in "QKV"}}
    found, plan, factors = prepared(model, picks)
    seen: list[int] = []
    new = refit(model, found, plan, factors, feeds_of(X[:21]), options().runtime, batch=4, progress=seen.append)
    assert sum(seen) == 2 * 21
    assert not any(new[key] is factors[key] for key in factors)


def test_samples_that_memory_has_no_room_for_are_left_out_from_there_on():
    found, plan, factors = prepared(MLP, HARD)
    seen: list[int] = []
    feeds = feeds_of(X[:40])
    whole = refit(MLP, found, plan, factors, feeds, options().runtime, ridges=(1e-2,))
    few = refit(MLP, found, plan, factors, feeds, options().runtime, ridges=(1e-2,), memory=1, progress=seen.append)
    assert sum(seen) == 3 * 2  # one of each half is always there
    by_hand = refit(MLP, found, plan, factors, feeds[:2], options().runtime, ridges=(1e-2,))
    for key in factors:
        ranks = plan.choices[0].option.ranks
        got, expected = (each[key].chain(ranks).stages[-1].weight for each in (few, by_hand))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert not np.allclose(got, whole[key].chain(ranks).stages[-1].weight, rtol=1e-3)


def test_weights_in_constants_double_weights_and_ir_3():
    ends = value("x", ["n", 24], TensorProto.DOUBLE), value("y", ["n", 16], TensorProto.DOUBLE)
    nodes = [
        node("Gemm", ["x", "W", "b"], ["h"], "one", transB=1),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "V", "c"], ["y"], "two", transB=1),
    ]
    weights = {
        "W": weight((24, 24), 1).astype(np.float64),
        "b": normal([24], 2).astype(np.float64),
        "V": weight((16, 24), 3).astype(np.float64),
        "c": normal([16], 4).astype(np.float64),
    }
    model = build(nodes, [ends[0]], [ends[1]], weights, opset=9, ir=3)
    before, after = errors(model, {"h": ("svd", 6), "y": ("svd", 5)}, X.astype(np.float64))
    assert after < 0.8 * before


def test_a_plan_for_another_model_is_a_plan_error():
    _, plan, factors = prepared(MLP, HARD)
    other = mlp([8, 8], [None], 1)
    with pytest.raises(PlanError, match="'fc0', which cannot be factored in this model"):
        refit(other, found_in(build([], [], [], {})), plan, factors, feeds_of(X), options().runtime)


def test_upstream_keeps_what_leads_there_and_every_input():
    cut = upstream(MLP, ["r0", "h0"])
    assert [n.op_type for n in cut.graph.node] == ["Gemm", "Relu"]
    assert [t.name for t in cut.graph.initializer] == ["fc0", "b0"]
    assert [v.name for v in cut.graph.input] == ["x"]
    got = run(cut, {"x": X})
    assert list(got) == ["r0", "h0"]
    np.testing.assert_array_equal(got["r0"], np.maximum(got["h0"], 0))
