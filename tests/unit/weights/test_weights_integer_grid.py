"""8-bit weights: dequantised, factored, quantised to the same scheme again, and measured as they are stored."""

from __future__ import annotations

import math
import re

import numpy as np
import onnx
import pytest
from builders import (
    ANY,
    build,
    correlated,
    factored,
    found_in,
    mlp,
    node,
    normal,
    observed,
    ops,
    options,
    quantised,
    run,
    value,
    weight,
)
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import Gate, Lossless, optimize
from onnx_lowrank.cost import chain_cost, layout_parameters, unchanged_cost
from onnx_lowrank.gradient import GradientRunner, build_gradient, straightened
from onnx_lowrank.graph.editing import expose
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import by_name, form_of, layout_of
from onnx_lowrank.sensitivity.substitution import stored_weight, substitutable, substitution
from onnx_lowrank.types import Array, Cost, Form, Option, Stage, Why
from onnx_lowrank.weights.integer_grid import Grid
from onnx_lowrank.weights.inventory import Inventory

F16 = TensorProto.FLOAT16
W = weight((24, 32), 1, rank=3)  # (out, in)
X = normal([6, 32], 2)


@given(
    st.sampled_from([Grid(-127, 127, 0, None), Grid(1, 255, 128, 0), Grid(0, 255, None, 1), Grid(-64, 64, 0, 1),
                     Grid(-128, 127, None, 0), Grid(-127, 127, 0, 0, np.float16)]),
    st.integers(0, 10**6), st.floats(-3, 3),
)  # fmt: skip
def test_what_is_quantised_is_within_half_a_step(grid: Grid, seed: int, size: float):
    exact = 10.0**size * normal([5, 4, 3], seed).astype(np.float64)
    exact[0], exact[:, 1] = 0, 0
    made, seen = grid.quantised(exact), grid.seen(exact)
    assert made.q.min() >= grid.low
    assert made.q.max() <= grid.high
    assert made.scale.shape == (() if grid.axis is None else (exact.shape[grid.axis],))
    steps = made.scale if grid.axis is None else made.scale.reshape([-1 if i == grid.axis else 1 for i in range(3)])
    assert (np.abs(seen - exact) <= 0.51 * steps + 1e-3 * np.abs(exact) * (grid.scale is np.float16)).all()
    assert (seen[exact == 0] == 0).all(), "zero is exact"
    assert np.isin(made.zero, [grid.zero]).all() if grid.zero is not None else True


@pytest.mark.parametrize(("q", "zero", "want"), [
    (np.array([-127, 90], np.int8), [0], Grid(-127, 127, 0, None)),
    (np.array([-64, 64], np.int8), [0], Grid(-64, 64, 0, None)),
    (np.array([1, 255], np.uint8), [128], Grid(1, 255, 128, None)),
    (np.array([0, 255], np.uint8), [3, 90], Grid(0, 255, None, None)),
    (np.array([0, 127], np.uint8), [60], Grid(0, 127, None, None)),
    (np.array([-128, 127], np.int8), [5], Grid(-128, 127, None, None)),
    (np.array([0, 200], np.uint8), [0], Grid(0, 255, None, None)),
])  # fmt: skip
def test_a_grid_is_read_off_its_integers(q: Array, zero: list[int], want: Grid):
    assert Grid.of(q, np.array(zero, q.dtype), None, np.float32) == want


def matmul_model(stored: Array, *more: onnx.NodeProto, name: str = "W") -> onnx.ModelProto:
    nodes = [*more, node("MatMul", ["x", name], ["y"], "fc")]
    return build(nodes, [value("x", ["n", 32])], [value("y", ["n", 24])], {"W": stored}, opset=13)


def gemm_model() -> onnx.ModelProto:
    nodes = [node("Gemm", ["x", "W", "b"], ["y"], "fc", transB=1)]
    return build(nodes, [value("x", ["n", 32])], [value("y", ["n", 24])], {"W": W, "b": normal([24], 4)}, opset=13)


def conv_model() -> onnx.ModelProto:
    nodes = [node("Conv", ["x", "W"], ["y"], "conv", pads=[1, 1, 1, 1])]
    stored = weight((24, 16, 3, 3), 1, rank=3)
    return build(nodes, [value("x", ["n", 16, 5, 5])], [value("y", [ANY] * 4)], {"W": stored}, opset=13)


def turned_model() -> onnx.ModelProto:
    return matmul_model(W, node("Transpose", ["W"], ["t"], "turn", perm=[1, 0]), name="t")


def counted_from_the_end(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[0].attribute[0].i = -1
    return model


def trained_quantised() -> onnx.ModelProto:
    """As quantisation-aware training exports it, and onnxruntime where a weight is a Constant: rounded in the graph."""
    step = (np.abs(W).max(1) / 127).astype(np.float32)
    nodes = [
        node("QuantizeLinear", ["W", "W.scale", "W.zero"], ["q"], "q", axis=1),
        node("DequantizeLinear", ["q", "W.scale", "W.zero"], ["w"], "dq", axis=1),
        node("MatMul", ["x", "w"], ["y"], "fc"),
    ]
    stored = {"W": W.T.copy(), "W.scale": step, "W.zero": np.zeros(24, np.int8)}
    return build(nodes, [value("x", ["n", 32])], [value("y", ["n", 24])], stored, opset=13)


def turned_before(model: onnx.ModelProto) -> onnx.ModelProto:
    """The integers themselves come through a Transpose."""
    tensor = model.graph.initializer[0]
    assert tensor.name == "W"
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).T.copy(), "W"))
    model.graph.node[0].input[0] = "t"
    model.graph.node.insert(0, node("Transpose", ["W"], ["t"], "turn"))
    return model


MODELS = {
    "one scale": (lambda: quantised(matmul_model(W.T.copy()), {"W": None}), None, "svd"),
    "outputs": (lambda: quantised(matmul_model(W.T.copy()), {"W": 1}), 0, "svd"),
    "inputs": (lambda: quantised(matmul_model(W.T.copy()), {"W": 0}), 1, "svd"),
    "negative axis": (lambda: counted_from_the_end(quantised(matmul_model(W.T.copy()), {"W": 1})), 0, "svd"),
    "Transpose before": (lambda: turned_before(quantised(matmul_model(W.T.copy()), {"W": 1})), 0, "svd"),
    "Gemm": (lambda: quantised(gemm_model(), {"W": 0}), 0, "svd"),
    "Transpose": (lambda: quantised(turned_model(), {"W": 0}), 0, "svd"),
    "Conv": (lambda: quantised(conv_model(), {"W": 0}), 0, "kernel-first"),
    "Conv, kernel last": (lambda: quantised(conv_model(), {"W": 0}), 0, "kernel-last"),
    "rounded in the graph": (trained_quantised, 0, "svd"),
    "uint8": (lambda: quantised(gemm_model(), {"W": None}, kind=np.uint8, symmetric=False), None, "svd"),
    "uint8, zero 128": (lambda: quantised(gemm_model(), {"W": 0}, kind=np.uint8), 0, "svd"),
    "int8, zeros of their own": (lambda: quantised(gemm_model(), {"W": 0}, symmetric=False), 0, "svd"),
}


def feed_of(model: onnx.ModelProto, seed: int) -> dict[str, Array]:
    rank = len(model.graph.input[0].type.tensor_type.shape.dim)
    return {"x": normal([4, 32] if rank == 2 else [2, 16, 5, 5], seed)}


@pytest.mark.parametrize("interpolative", [False, True])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_factors_are_quantised_like_the_weight(name: str, interpolative: bool):
    make, axis, scheme = MODELS[name]
    model = make()
    onnx.checker.check_model(model, full_check=True)
    found = found_in(model)
    (site,) = found.sites
    assert (site.weight, site.itemsize, site.scale_bytes, site.scale_axis) == ("W", 1, 5, axis)
    rank = {"kernel-last": 16, "kernel-first": 6}.get(scheme, 3)  # at 3 a kernel's identity is not worth its nodes
    form = form_of(scheme, (rank,), site) if interpolative else Form(scheme, (rank,))
    assert form.interpolative == (interpolative and scheme != "kernel-last"), "of all inputs none is left to add"
    changed = factored(model, {"y": (scheme, rank)}, interpolative=interpolative)
    onnx.checker.check_model(changed, full_check=True)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert not {"W", "W.scale", "W.zero"} & set(stored), "nothing of the old weight stays"
    assert "Transpose" not in ops(changed)
    for index in range(2):
        q, scale, zero = (stored[f"W.lowrank{index}{part}"] for part in ("", ".scale", ".zero"))
        assert q.dtype == zero.dtype == before["W.zero"].dtype
        assert scale.dtype == before["W.scale"].dtype
        assert scale.ndim == zero.ndim == before["W.scale"].ndim
        if name in ("uint8, zero 128", "Gemm", "outputs"):
            assert set(zero.ravel().tolist()) == set(before["W.zero"].ravel().tolist())
    assert [ops(changed).count(op) for op in ("DequantizeLinear", "QuantizeLinear")] == [2, 0]
    expected, got = (run(each, feed_of(model, 3))["y"].astype(float) for each in (model, changed))
    assert np.linalg.norm(got - expected) < 0.04 * np.linalg.norm(expected), "two roundings to 8 bits"
    new = {key: array for key, array in stored.items() if re.search(r"^W\.lowrank\d(\.scale|\.zero)?$", key)}
    cost = chain_cost(site, layout_of(form, site), observed(model, found, [feed_of(model, 3)]).positions[site.id])
    assert cost.bytes == sum(array.nbytes for array in new.values())
    assert cost.parameters == sum(array.size for key, array in new.items() if key[-1].isdigit())
    plain = by_name(scheme).layout(site.shape, (rank,))
    assert layout_parameters(plain) - cost.parameters == (rank**2 if form.interpolative else 0)
    kept = {array.dtype for key, array in stored.items() if key.startswith("W.lowrank") and key not in new}
    assert kept <= {np.dtype(np.int64), np.dtype(np.float32)}, "orders, and a bias that is folded"
    dense = unchanged_cost(site, ())
    assert dense.bytes == sum(before[key].nbytes for key in ("W", "W.scale", "W.zero"))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_is_measured_are_the_quantised_factors(name: str):
    """Of plain factors, each number is the one that is written."""
    make, _, scheme = MODELS[name]
    model = make()
    found = found_in(model)
    (site,) = found.sites
    factors = by_name(scheme).factor(found.weight(site), None, None, (3,))
    dense = stored_weight(found, site, factors, Option(Form(scheme, (3,)), Cost()))
    changed = unfused(factored(model, {"y": (scheme, 3)}))
    feed = feed_of(model, 4)
    runner = unfused(substitutable(model, found, [site]))
    np.testing.assert_allclose(runner.run(feed)["y"], unfused(model).run(feed)["y"], rtol=1e-4, atol=1e-5)
    measured = runner.run({**feed, **substitution(found, site, dense)})["y"]
    np.testing.assert_allclose(measured, changed.run(feed)["y"], rtol=1e-3, atol=1e-5)
    exact = laid_out(factors.dense((3,)), found, dense)
    assert 1e-4 < np.linalg.norm(exact - dense) / np.linalg.norm(exact) < 0.03, "rounding is seen"


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"Conv, kernel last"}))
def test_of_quantised_factors_without_an_identity_rounding_is_measured_as_large_as_it_is(name: str):
    """Which rows are chosen is settled when the file is written: what is measured has others, and as much rounding."""
    make, _, scheme = MODELS[name]
    model, rank = make(), 6 if scheme == "kernel-first" else 3
    found = found_in(model)
    (site,) = found.sites
    factors = by_name(scheme).factor(found.weight(site), None, None, (rank,))
    form = form_of(scheme, (rank,), site)
    assert form.interpolative
    dense = stored_weight(found, site, factors, Option(form, Cost()))
    exact = laid_out(factors.dense((rank,)), found, dense).astype(dense.dtype)
    feed = feed_of(model, 4)
    runner = unfused(substitutable(model, found, [site]))
    wanted, measured = (runner.run({**feed, **substitution(found, site, W)})["y"] for W in (exact, dense))
    written = unfused(factored(model, {"y": (scheme, rank)}, interpolative=True)).run(feed)["y"]
    lost = [np.linalg.norm(each - wanted) / np.linalg.norm(wanted) for each in (measured, written)]
    assert all(1e-4 < each < 0.04 for each in lost), lost
    assert 1 / 3 < lost[0] / lost[1] < 3, lost


def unfused(model: onnx.ModelProto) -> Runner:
    """onnxruntime makes 8-bit products with 8-bit activations of weight-only MatMul, if it may."""
    return Runner(model, runtime=Runtime(provider="cpu", threads=1), optimize=False)


def laid_out(dense: Array, inventory: Inventory, like: Array) -> Array:
    """Return a canonical weight as its operator stores it."""
    ((call,),) = inventory.calls.values()
    stored = call.stored(Stage(dense, tuple(range(dense.ndim - 2))))
    assert stored.shape == like.shape
    return stored


def int4() -> onnx.ModelProto:
    q = helper.make_tensor("W", TensorProto.INT4, [32, 24], np.ones(32 * 24, np.int64).tolist())
    model = quantised(matmul_model(W.T.copy()), {"W": None})
    names = [tensor.name for tensor in model.graph.initializer]
    model.graph.initializer[names.index("W")].CopyFrom(q)
    zero = helper.make_tensor("W.zero", TensorProto.INT4, [], [0])
    model.graph.initializer[names.index("W.zero")].CopyFrom(zero)
    model.opset_import[0].version = 21
    return model


def blocked() -> onnx.ModelProto:
    weights = {"W": np.ones((32, 24), np.int8), "s": np.ones((2, 24), np.float32)}
    nodes = [
        node("DequantizeLinear", ["W", "s"], ["w"], "dq", axis=0, block_size=16),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    return build(nodes, [value("x", ["n", 32])], [value("y", ["n", 24])], weights, opset=21)


def integers() -> onnx.ModelProto:
    nodes = [node("MatMulInteger", ["x", "W"], ["y"], "fc")]
    return build(nodes, [value("x", ["n", 32], TensorProto.UINT8)], [value("y", ["n", 24], TensorProto.INT32)],
                 {"W": np.ones((32, 24), np.int8)})  # fmt: skip


def nibbles() -> onnx.ModelProto:
    weights = {"W": np.ones((24, 1, 16), np.uint8), "s": np.ones(24, np.float32)}
    nodes = [node("MatMulNBits", ["x", "W", "s"], ["y"], "fc", domain="com.microsoft", K=32, N=24, bits=4,
                  block_size=32)]  # fmt: skip
    return build(nodes, [value("x", ["n", 32])], [value("y", ["n", 24])], weights, domains={"com.microsoft": 1})


def in_the_graph() -> onnx.ModelProto:
    model = trained_quantised()
    model.graph.node[0].input[0] = "same"
    model.graph.node.insert(0, node("Cast", ["W"], ["same"], to=TensorProto.FLOAT))
    return model


def along_the_kernel() -> onnx.ModelProto:
    return quantised(conv_model(), {"W": 2})


REFUSED = {
    "int4": (int4, "int4: only int8 and uint8 are factored and quantised again"),
    "blocks": (blocked, "scales of blocks: only one scale for all, or one for each channel, can be kept"),
    "MatMulInteger": (integers, "MatMulInteger: only int8 and uint8 behind a plain DequantizeLinear are factored"),
    "MatMulNBits": (nibbles, "MatMulNBits: only int8 and uint8 behind a plain DequantizeLinear are factored"),
    "in the graph": (in_the_graph, "made of float by Cast, QuantizeLinear, DequantizeLinear"),
    "along the kernel": (along_the_kernel, "its scales belong neither to inputs nor to outputs"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_formats_are_refused_with_their_reason(name: str):
    make, detail = REFUSED[name]
    found = found_in(make())
    assert found.sites == ()
    (skip,) = [skip for skip in found.skips if skip.weight == "W"]
    assert (skip.why, skip.detail) == (Why.QUANTISED, detail)
    assert {each.why for each in found.skips if each.weight != "W"} <= {Why.ELEMENTWISE}


def test_a_cut_activation_has_the_gradient_of_the_cut():
    """Where a Relu is left to the quantiser, its zero is the lowest integer: below it there is no gradient."""
    model = quantised(mlp([16, 32, 8], [None, None], 1), {}, activations={"r0": 0.02})
    twin = straightened(model)
    assert ops(twin).count("Clip") == 1
    assert straightened(twin) is twin
    graph = build_gradient(twin, ["r0"], ["y"])
    assert graph.unreached == {}
    x, seed = 3 * normal([5, 16], 1), normal([5, 8], 2)
    gradient = (
        GradientRunner(graph, runtime=Runtime(provider="cpu")).run({"x": x}, lambda _: {"y": seed}).gradients["r0"]
    )
    head = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "fc1")
    kept = run(expose(model, ["r0"]), {"x": x})["r0"] < 127 * 0.02
    assert 0.02 < 1 - kept.mean() < 0.5
    np.testing.assert_allclose(gradient, kept * (seed @ head), rtol=1e-5, atol=1e-6)
    assert build_gradient(model, ["r0"], ["y"]).unreached, "without it there is none"


@pytest.mark.parametrize("activations", [{}, {"x": 0.02, "r0": 0.02, "r1": 0.02}])
@pytest.mark.parametrize("switches", [{}, {"sensitivity": "inputs", "refit": True}, {"continuation": 2}])
def test_the_whole_way(activations: dict[str, float], switches: dict):
    plain = mlp([16, 64, 64, 8], [4, 6, None], 1)
    model = quantised(plain, {"fc0": 0, "fc1": 0, "fc2": 0}, activations=activations)
    result = optimize(model, {"x": correlated(60, 16, 3)}, Lossless(keep=0.5, gate=Gate(max_drop=0.2, observed=True)),
                      options(metric="relative-l2", rank_multiple=2, **switches))  # fmt: skip
    assert result.changed, result.reason
    assert not any("no gradient" in note for note in result.notes), result.notes
    said = "3 weights are stored as 8-bit integers, and so are their factors, with scales of the same kind;"
    assert any(note.startswith(said) for note in result.notes)
    made = [t for t in result.model.graph.initializer if t.name.split(".")[-1].startswith("lowrank")]
    assert {t.data_type for t in made} == {TensorProto.INT8}
    saved = result.before.bytes - result.after.bytes
    assert saved > 0
    assert math.isfinite(result.verdict.drop.estimate)


def test_scales_and_shapes_may_come_through_nodes_themselves():
    model = quantised(matmul_model(W.T.copy()), {"W": 1})
    model.graph.node[0].input[1] = "s"
    model.graph.node.insert(0, node("Identity", ["W.scale"], ["s"]))
    changed = factored(model, {"y": ("svd", 3)})
    onnx.checker.check_model(changed, full_check=True)
    assert ops(changed).count("Identity") == 0
    expected, got = (run(each, {"x": X})["y"] for each in (model, changed))
    assert np.linalg.norm(got - expected) < 0.04 * np.linalg.norm(expected)


def test_a_scale_of_half_precision():
    model = matmul_model(W.T.copy())
    model = quantised(model, {"W": 1}, scale=np.float16)
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.elem_type = F16
    model.opset_import[0].version = 19
    (site,) = found_in(model).sites
    assert (site.itemsize, site.scale_bytes) == (1, 3)
    changed = factored(model, {"y": ("svd", 3)})
    onnx.checker.check_model(changed, full_check=True)
    expected, got = (run(each, {"x": X.astype(np.float16)})["y"].astype(float) for each in (model, changed))
    assert np.linalg.norm(got - expected) < 0.04 * np.linalg.norm(expected)
