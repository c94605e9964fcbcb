"""Half precision: computed in float64, stored in the type that the weight had, measured as it is stored."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from builders import (
    behind_cast,
    convnet,
    correlated,
    factored,
    feeds_of,
    found_in,
    full_rank,
    halved,
    linear,
    mlp,
    moments_of,
    node,
    normal,
    ops,
    options,
    run,
    value,
    weight,
)
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from onnx_lowrank import Gate, Lossless, optimize
from onnx_lowrank.gradient import GradientRunner, build_gradient, widened
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import by_name, form_of
from onnx_lowrank.schemes.product import product
from onnx_lowrank.sensitivity.substitution import stored_weight, substitutable, substitution
from onnx_lowrank.types import Chain, Cost, Form, Option, Stage
from onnx_lowrank.weights.storage import Storage, balanced
from onnx_lowrank.weights.transforms import as_type, read, tensor_of

F32, F16, B16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
X = correlated(60, 16, 3)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def pair(first: float, last: float, kernel: tuple[int, ...] = ()) -> Chain:
    axes = tuple(range(len(kernel)))
    one = Stage(first * normal([3, 5, *kernel], 1).astype(np.float64), axes)
    return Chain((one, Stage(last * normal([4, 3, *(1 for _ in kernel)], 2).astype(np.float64))))


@given(st.floats(-6, 6), st.floats(-6, 6), st.sampled_from([(), (3,), (3, 2)]))
def test_balancing_keeps_the_product_and_evens_the_norms(first: float, last: float, kernel: tuple[int, ...]):
    chain = pair(10.0**first, 10.0**last, kernel)
    even = balanced(chain, 0.5)
    np.testing.assert_allclose(product(even), product(chain), rtol=1e-9, atol=0)
    before = np.sqrt((even.stages[0].weight.reshape(3, -1) ** 2).sum(1))
    after = np.sqrt((np.moveaxis(even.stages[1].weight, 1, 0).reshape(3, -1) ** 2).sum(1))
    np.testing.assert_allclose(before, after, rtol=1e-9, atol=0)


def test_factors_beyond_the_range_of_half_precision_fit_when_balanced():
    chain = pair(1e8, 1e-8)
    assert not np.isfinite(as_type(chain.stages[0].weight, F16)).all()
    rounded = Storage(F16).seen(chain)
    np.testing.assert_allclose(product(rounded), product(chain), rtol=5e-2, atol=3e-3)


def test_a_component_that_is_zero_on_one_side_stays():
    first = np.array([[1.0, 2.0], [0.0, 0.0]])
    chain = Chain((Stage(first), Stage(np.array([[3.0, 4.0]]))))
    even = balanced(chain, 0.5)
    np.testing.assert_allclose(product(even), [[3.0, 6.0]], rtol=1e-12)
    assert np.isfinite(even.stages[1].weight).all()


def test_bfloat16_is_rounded_to_the_nearest_even():
    exact = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.140625, np.inf, 3e38], np.float32)
    want = np.array([1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -3.140625, np.inf, 3e38], np.float32)
    got = as_type(exact, B16)
    np.testing.assert_array_equal(got[:-1], want[:-1])
    np.testing.assert_allclose(got[-1], want[-1], rtol=2**-8)
    stored = tensor_of(exact, B16, "w")
    np.testing.assert_array_equal(read(stored), got)
    assert (stored.data_type, len(stored.raw_data)) == (B16, 14)


@pytest.mark.parametrize("make", [lambda: mlp([16, 32, 8], [4, None], 1), lambda: convnet([3, 8, 8], [3, 4], 5, 0)])
def test_factors_are_stored_in_half_precision_and_reproduce(make):
    model = halved(make())
    x = X[:3] if model.graph.node[0].op_type == "Gemm" else normal([2, 3, 8, 8], 1)
    feed = {"x": x.astype(np.float16)}
    for site in found_in(model).sites:
        scheme = "svd" if len(site.shape) == 2 else "kernel-last"
        changed = factored(model, {site.id: (scheme, full_rank(scheme, site.shape, site.groups))})
        onnx.checker.check_model(changed, full_check=True)
        made = [tensor for tensor in changed.graph.initializer if ".lowrank" in tensor.name]
        assert [tensor.data_type for tensor in made] == [F16, F16]
        expected, got = run(model, feed)["y"], run(changed, feed)["y"]
        assert got.dtype == np.float16
        np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("make", [lambda: mlp([16, 32, 8], [4, 3], 1), lambda: convnet([3, 8, 8], [3, 4], 5, 0)])
def test_factors_without_an_identity_are_stored_in_half_precision_and_reproduce(make):
    """At their weights' own ranks; a bias that is folded is of the type that arrives, and orders are whole numbers."""
    model = halved(make())
    x = X[:3] if model.graph.node[0].op_type == "Gemm" else normal([2, 3, 8, 8], 1)
    feed, met = {"x": x.astype(np.float16)}, 0
    found = found_in(model)
    for site in found.sites:
        rank = int(np.linalg.matrix_rank(found.weight(site).reshape(site.shape[0], -1), tol=1e-2))
        if rank == site.full_rank:
            continue
        met += 1
        pick = ("svd" if len(site.shape) == 2 else "kernel-first", (rank,))
        changed = factored(model, {site.id: pick}, interpolative=True)
        onnx.checker.check_model(changed, full_check=True)
        made = [tensor for tensor in changed.graph.initializer if re.search(r"\.lowrank\d$", tensor.name)]
        assert [tensor.data_type for tensor in made] == [F16, F16]
        rows, columns = site.shape[0], int(np.prod(site.shape[1:]))
        assert sum(len(tensor.raw_data) for tensor in made) == 2 * rank * (rows + columns - rank)
        assert {tensor.data_type for tensor in changed.graph.initializer} <= {F16, TensorProto.INT64}
        expected, got = run(model, feed)["y"], run(changed, feed)["y"]
        assert got.dtype == np.float16
        np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=2e-2, atol=1e-2)
    assert met == 2


@pytest.mark.parametrize("kind", [F16, B16])
def test_a_weight_behind_a_cast_is_stored_as_it_was(kind: int):
    """The factors keep the weight's type, so the file does not grow; the Cast that nobody needs any more is gone."""
    model = behind_cast(mlp([16, 32, 8], [4, None], 1), ["fc0", "fc1"], kind)
    site = found_in(model).sites[0]
    assert (site.weight, site.itemsize, site.id) == ("fc0", 2, "h0")
    changed = factored(model, {"h0": ("svd", 4)})
    onnx.checker.check_model(changed, full_check=True)
    assert ops(changed) == ["Cast", "Cast", "Cast", "Gemm", "Gemm", "Relu", "Gemm"]
    stored = initializers(changed)
    assert {name: tensor.data_type for name, tensor in stored.items() if name.startswith("fc")} == {
        "fc1": kind, "fc0.lowrank0": kind, "fc0.lowrank1": kind,
    }  # fmt: skip
    assert not any("fc0.single" in (*each.input, *each.output) for each in changed.graph.node)
    np.testing.assert_allclose(run(changed, {"x": X[:3]})["y"], run(model, {"x": X[:3]})["y"], rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("make", [
    lambda: halved(linear(weight((16, 12), 1))), lambda: behind_cast(linear(weight((16, 12), 1)), ["W"], F16),
    lambda: behind_cast(linear(weight((16, 12), 1)), ["W"], B16),
])  # fmt: skip
def test_what_is_measured_is_what_is_stored(make):
    """A substituted weight is the product of the rounded factors, so the loss of rounding is seen before the file."""
    model = make()
    found = found_in(model)
    (site,) = found.sites
    factors = by_name("svd").factor(found.weight(site), None, None, (3,))
    dense = stored_weight(found, site, factors, Option(Form("svd", (3,)), Cost()))
    changed = initializers(factored(model, {site.id: ("svd", 3)}))
    first, last = (read(changed[f"W.lowrank{i}"]).astype(np.float64) for i in range(2))
    np.testing.assert_array_equal(dense, (first @ last).astype(dense.dtype))
    x = X[:4].astype(np.float16 if dense.dtype == np.float16 else np.float32)
    runner = Runner(substitutable(model, found, [site]), runtime=Runtime(provider="cpu", threads=1))
    np.testing.assert_array_equal(runner.run({"x": x})["y"], run(model, {"x": x})["y"])
    got = runner.run({"x": x, **substitution(found, site, dense)})["y"]
    np.testing.assert_allclose(got.astype(float), x.astype(float) @ dense.astype(float), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", [F16, B16])
def test_of_factors_without_an_identity_rounding_is_measured_as_large_as_it_is(kind: int):
    """Which rows are chosen is settled when the file is written: what is measured has others, and as much rounding."""
    model = behind_cast(linear(weight((16, 12), 1)), ["W"], kind)
    found = found_in(model)
    (site,) = found.sites
    factors = by_name("svd").factor(found.weight(site), None, None, (6,))
    form = form_of("svd", (6,), site)
    assert form.interpolative
    exact = factors.dense((6,)).astype(np.float64)
    measured = stored_weight(found, site, factors, Option(form, Cost())).T.astype(np.float64)
    changed = factored(model, {"y": ("svd", 6)}, interpolative=True)
    written = run(changed, {"x": np.eye(16, dtype=np.float32)})["y"].T.astype(np.float64)
    lost = [np.linalg.norm(each - exact) / np.linalg.norm(exact) for each in (measured, written)]
    step = 2.0**-11 if kind == F16 else 2.0**-8
    assert all(0.1 * step < each < 2 * step for each in lost), lost
    assert 0.5 < lost[0] / lost[1] < 2


def test_moments_of_large_activations_do_not_overflow():
    x = (300 + 100 * normal([200, 16], 1)).astype(np.float16)
    moments = moments_of(halved(linear(weight((16, 12), 1))), feeds_of(x))["y"]
    np.testing.assert_allclose(moments.A, x.astype(float).T @ x.astype(float), rtol=1e-12)
    assert moments.A.max() > 65504


def test_the_twin_has_the_gradient_of_the_model_in_single_precision():
    model = mlp([16, 32, 8], [None, None], 1)
    rounded = widened(halved(model))
    assert [v.type.tensor_type.elem_type for v in (*rounded.graph.input, *rounded.graph.output)] == [F16, F32]
    assert widened(model) is model
    seed = normal([3, 8], 5)
    gradients = []
    for each, x in ((model, X[:3]), (rounded, X[:3].astype(np.float16))):
        graph = build_gradient(each, ["h0"], ["y"])
        assert graph.unreached == {}
        gradients.append(
            GradientRunner(graph, runtime=Runtime(provider="cpu")).run({"x": x}, lambda _: {"y": seed}).gradients["h0"]
        )
    assert gradients[1].dtype == np.float32
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-2, atol=1e-2)


def test_the_twin_reaches_into_nodes_subgraphs_and_what_they_read_from_outside():
    def branch(name: str) -> onnx.GraphProto:
        half = numpy_helper.from_array(np.float16(2), f"{name}_two")
        nodes = [node("Constant", [], [f"{name}_c"], value=half), node("Mul", ["x", f"{name}_c"], [f"{name}_y"])]
        return onnx.helper.make_graph(nodes, name, [], [value(f"{name}_y", [None, 4], F16)])

    nodes = [
        node("ConstantOfShape", ["s"], ["on"], value=numpy_helper.from_array(np.array([1], np.float16), "one")),
        node("Cast", ["on"], ["cond"], to=TensorProto.BOOL),
        node("If", ["cond"], ["z"], then_branch=branch("a"), else_branch=branch("b")),
        node("Cast", ["z"], ["w"], to=TensorProto.FLOAT16),
        node("Identity", ["w"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", [None, 4], F16)], [value("y", [None, 4], F16)],
        [numpy_helper.from_array(np.array([], np.int64), "s")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    x = normal([2, 4], 0).astype(np.float16)
    got = run(widened(model), {"x": x})["y"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, 2 * x.astype(np.float32))


def test_the_joint_collection_runs_on_the_twin():
    model = halved(mlp([16, 32, 8], [4, None], 1))
    data = {"x": X.astype(np.float16)}
    result = optimize(model, data, Lossless(keep=0.7, gate=Gate(max_drop=1e-2, observed=True)),
                      options(metric="relative-l2", rank_multiple=2))  # fmt: skip
    assert result.changed, result.reason
    assert not any("gradient" in note for note in result.notes), result.notes
    assert [choice.weight for choice in result.plan.factored] == ["fc0"]
    assert {t.data_type for t in result.model.graph.initializer} == {F16}
    assert result.model.graph.output == model.graph.output
    saved = result.before.parameters - result.after.parameters
    choice = next(c for c in result.plan.factored)
    assert 2 * saved == 2 * (32 * 16) - choice.option.cost.bytes


def test_gradients_beyond_the_range_of_half_precision_count():
    """The loss's gradient is one over the outputs' size, 1e5 here: without the twin no sample would be left."""
    model = halved(mlp([16, 32, 8], [4, None], 1))
    model.graph.node[-1].output[0] = "large"
    model.graph.node.append(node("Mul", ["large", "little"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float16(1e-5), "little"))
    result = optimize(model, {"x": X.astype(np.float16)}, Lossless(keep=0.7, gate=Gate(max_drop=0.2, observed=True)),
                      options(metric="relative-l2", rank_multiple=2), dry_run=True)  # fmt: skip
    assert result.changed, result.reason
    assert not any("not finite" in note for note in result.notes), result.notes
    assert [choice.weight for choice in result.plan.factored] == ["fc0"]


@pytest.mark.parametrize("make", [
    lambda: halved(mlp([16, 32, 16, 8], [4, 6, None], 1)),
    lambda: behind_cast(mlp([16, 32, 16, 8], [4, 6, None], 1), ["fc0", "fc1", "fc2"], F16),
])  # fmt: skip
@pytest.mark.parametrize("switches", [
    {"sensitivity": "inputs", "refit": True}, {"sensitivity": "weights"}, {"continuation": 2},
])  # fmt: skip
def test_every_way_to_factor_works_in_half_precision(make, switches: dict):
    model = make()
    half = model.graph.input[0].type.tensor_type.elem_type == F16
    result = optimize(model, {"x": X.astype(np.float16) if half else X}, Lossless(keep=0.62, gate=Gate(max_drop=0.2,
                      observed=True)), options(metric="relative-l2", rank_multiple=2, **switches))  # fmt: skip
    assert result.changed, result.reason
    made = {t.name: t.data_type for t in result.model.graph.initializer if ".lowrank" in t.name}
    assert {kind for name, kind in made.items() if re.search(r"\.lowrank\d$", name)} == {F16}
    rest = {name: kind for name, kind in made.items() if not re.search(r"\.lowrank\d$", name)}
    assert {kind for name, kind in rest.items() if name.endswith(".bias")} <= {F16 if half else F32}
    assert {kind for name, kind in rest.items() if not name.endswith(".bias")} <= {TensorProto.INT64}, "orders alone"
    assert 0 < result.verdict.drop.estimate < 0.2
