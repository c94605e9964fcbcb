"""Weights that arrive through Transpose, Reshape, Cast and their like: seen as they arrive, stored plainly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from builders import (
    ANY,
    behind_cast,
    build,
    constant,
    correlated,
    elements,
    factored,
    found_in,
    node,
    normal,
    ops,
    options,
    run,
    value,
    weight,
)
from onnx import TensorProto

from onnx_lowrank import Gate, Lossless, optimize
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import by_name
from onnx_lowrank.sensitivity.substitution import stored_weight, substitutable, substitution
from onnx_lowrank.types import Array, Cost, Form, Option, Why

W = weight((12, 16), 1, rank=3)  # (out, in)
X = normal([5, 16], 2)
INT = np.int64


def step(op: str, *more: str, **attributes: object) -> tuple[str, tuple[str, ...], dict[str, object]]:
    return op, more, attributes


CHAINS: dict[str, tuple[Sequence[tuple], Array, dict[str, Array]]] = {
    "Transpose": ([step("Transpose", perm=[1, 0])], W, {}),
    "Transpose by default": ([step("Transpose")], W, {}),
    "Reshape": ([step("Reshape", "s")], W.T.reshape(4, 4, 12), {"s": np.array([16, -1], INT)}),
    "Reshape that copies a size": ([step("Reshape", "s")], W.T.reshape(16, 4, 3), {"s": np.array([0, 12], INT)}),
    "Flatten": ([step("Flatten", axis=2)], W.T.reshape(4, 4, 12), {}),
    "Squeeze": ([step("Squeeze", "a")], W.T[None], {"a": np.array([0], INT)}),
    "Unsqueeze": ([step("Unsqueeze", "a"), step("Squeeze", "a")], W.T, {"a": np.array([0], INT)}),
    "Cast": ([step("Cast", to=TensorProto.FLOAT)], W.T.astype(np.float16), {}),
    "Cast to what it is": ([step("Cast", to=TensorProto.FLOAT)], W.T, {}),
    "a chain": (
        [step("Reshape", "s"), step("Identity"), step("Transpose", perm=[1, 0]), step("Cast", to=TensorProto.FLOAT)],
        W.reshape(-1).astype(np.float16), {"s": np.array([12, 16], INT)},
    ),
}  # fmt: skip


def chain_model(name: str, *, constants: bool = False, out: str = "y") -> onnx.ModelProto:
    """x W through a chain of nodes, all of it initializers, or all of it Constant nodes."""
    steps, stored, more = CHAINS[name]
    given = {"W": np.ascontiguousarray(stored), **more}
    nodes = [constant(key, array) for key, array in given.items()] if constants else []
    current = "W"
    for index, (op, inputs, attributes) in enumerate(steps):
        nodes.append(node(op, [current, *inputs], [f"w{index}"], f"step{index}", **attributes))
        current = f"w{index}"
    nodes.append(node("MatMul", ["x", current], [out], "fc"))
    if out != "y":
        nodes.append(node("Relu", [out], ["y"], "relu"))
    return build(nodes, [value("x", ["n", 16])], [value("y", ["n", 12])], {} if constants else given)


@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize("name", sorted(CHAINS))
def test_a_weight_is_what_arrives_at_the_operator(name: str, constants: bool):
    model = chain_model(name, constants=constants)
    onnx.checker.check_model(model, full_check=True)
    found = found_in(model)
    (site,) = found.sites
    half = CHAINS[name][1].dtype == np.float16
    assert (site.weight, site.shape, site.itemsize, found.skips) == ("W", (12, 16), 2 if half else 4, ())
    np.testing.assert_allclose(found.weight(site), W, rtol=2**-10 if half else 0, atol=1e-6 if half else 0)
    changed = factored(model, {site.id: ("svd", 3)})
    onnx.checker.check_model(changed, full_check=True)
    np.testing.assert_allclose(run(changed, {"x": X})["y"], run(model, {"x": X})["y"], rtol=1e-2 if half else 1e-4,
                               atol=1e-2 if half else 1e-5)  # fmt: skip
    casts = sum(op == "Cast" for op, _, _ in CHAINS[name][0])
    assert ops(changed) == [*["Cast"] * (2 * casts), "MatMul", "MatMul"], "nothing of the chain stays"
    assert elements(changed) == 3 * (12 + 16), "nor of its constants"


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_substituting_it_replaces_what_arrives(name: str):
    model = chain_model(name)
    found = found_in(model)
    (site,) = found.sites
    factors = by_name("svd").factor(found.weight(site), None, None, (2,))
    dense = stored_weight(found, site, factors, Option(Form("svd", (2,)), Cost()))
    runner = Runner(substitutable(model, found, [site]), runtime=Runtime(provider="cpu", threads=1))
    np.testing.assert_array_equal(runner.run({"x": X})["y"], run(model, {"x": X})["y"])
    got = runner.run({"x": X, **substitution(found, site, dense)})["y"]
    np.testing.assert_allclose(got, run(factored(model, {site.id: ("svd", 2)}), {"x": X})["y"], rtol=1e-3, atol=1e-5)


def test_a_kernel_through_reshape():
    kernel = weight((8, 6, 3, 3), 1, rank=4)
    nodes = [node("Reshape", ["W", "s"], ["k"], "shape"), node("Conv", ["x", "k"], ["y"], "conv", pads=[1, 1, 1, 1])]
    weights = {"W": kernel.reshape(8, -1), "s": np.array([8, 6, 3, 3], INT)}
    model = build(nodes, [value("x", ["n", 6, 5, 5])], [value("y", [ANY] * 4)], weights)
    found = found_in(model)
    (site,) = found.sites
    assert site.shape == (8, 6, 3, 3)
    changed = factored(model, {"y": ("kernel-first", 4)})
    x = normal([2, 6, 5, 5], 3)
    np.testing.assert_allclose(run(changed, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-4, atol=1e-4)


def shared(second: Sequence[onnx.NodeProto], **more: Array) -> onnx.ModelProto:
    """Two products with one weight: the first through a Transpose of its own."""
    nodes = [node("Transpose", ["W"], ["t"], "turn", perm=[1, 0]), node("MatMul", ["x", "t"], ["h"], "one"), *second]
    return build(nodes, [value("x", ["n", 8])], [value("y", [ANY, ANY])], {"W": weight((8, 8), 1, rank=2), **more})


def test_uses_that_agree_share_the_factors():
    again = [
        node("Identity", ["W"], ["same"]),
        node("Transpose", ["same"], ["u"], "turn again", perm=[1, 0]),
        node("MatMul", ["h", "u"], ["y"], "two"),
    ]
    model = shared(again)
    found = found_in(model)
    (site,) = found.sites
    assert (site.sharers, found.sources[site.id].entries) == (("h", "y"), ("t", "u"))
    changed = factored(model, {"h": ("svd", 2)})
    assert ops(changed) == ["MatMul"] * 4
    assert elements(changed) == 2 * 16
    x = normal([3, 8], 2)
    np.testing.assert_allclose(run(changed, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-4, atol=1e-5)
    runner = Runner(substitutable(model, found, [site]), runtime=Runtime(provider="cpu", threads=1))
    eye = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(runner.run({"x": x, **substitution(found, site, eye)})["y"], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("second", "why", "detail"), [
    ([node("MatMul", ["h", "W"], ["y"], "two")], Why.SHARED, "its nodes read it in different forms"),
    ([node("Transpose", ["W"], ["u"], "other", perm=[0, 1]), node("MatMul", ["h", "u"], ["y"], "two")],
     Why.SHARED, "its nodes read it in different forms"),
    ([node("Mul", ["h", "t"], ["y"], "two")], Why.SHARED, "also used as elementwise, bias or normalisation (Mul)"),
    ([node("Cast", ["h"], ["i"], to=TensorProto.INT64), node("Squeeze", ["i"], ["j"]),
      node("Transpose", ["W"], ["u"], "other", perm=[0, 1]), node("Gather", ["u", "j"], ["y"], "two")],
     Why.SHARED, "its nodes read it in different forms"),
])  # fmt: skip
def test_uses_that_disagree_are_refused(second: list[onnx.NodeProto], why: Why, detail: str):
    (skip,) = found_in(shared(second)).skips
    assert (skip.weight, skip.why, skip.detail) == ("W", why, detail)


def test_a_form_that_the_graph_returns_is_no_site():
    model = chain_model("Transpose")
    model.graph.output.append(value("w0", [16, 12]))
    (skip,) = found_in(model).skips
    assert (skip.why, skip.detail) == (Why.OPERATOR, "behind Transpose, whose output the graph returns")


def test_a_form_that_depends_on_the_input_is_no_site():
    nodes = [node("Shape", ["x"], ["n"]), node("Reshape", ["W", "n"], ["k"]), node("MatMul", ["x", "k"], ["y"])]
    model = build(nodes, [value("x", [8, 8])], [value("y", [ANY, ANY])], {"W": weight((8, 8), 1).reshape(-1)})
    (skip,) = found_in(model).skips
    assert (skip.why, skip.detail) == (Why.OPERATOR, "behind Reshape, which also reads what the graph computes")


def test_a_shape_that_others_read_stays():
    model = chain_model("Reshape")
    model.graph.node.append(node("Identity", ["s"], ["z"]))
    model.graph.output.append(value("z", [2], TensorProto.INT64))
    changed = factored(model, {"y": ("svd", 3)})
    assert "s" in {tensor.name for tensor in changed.graph.initializer}


@pytest.mark.parametrize(("name", "switches"), [
    ("Transpose", {}), ("a chain", {"sensitivity": "inputs", "refit": True}), ("a chain", {"continuation": 2}),
])  # fmt: skip
def test_the_whole_way(name: str, switches: dict):
    model = chain_model(name, out="h")
    result = optimize(model, {"x": correlated(50, 16, 3)}, Lossless(keep=0.6, gate=Gate(max_drop=0.1, observed=True)),
                      options(metric="relative-l2", **switches))  # fmt: skip
    assert result.changed, result.reason
    assert not any("no gradient" in note for note in result.notes), result.notes
    assert result.after.parameters == elements(result.model)


def test_bfloat16_behind_a_cast_goes_the_whole_way():
    model = behind_cast(chain_model("Transpose", out="h"), ["W"], TensorProto.BFLOAT16)
    (site,) = found_in(model).sites
    assert (site.itemsize, site.shape) == (2, (12, 16))
    changed = factored(model, {"h": ("svd", 3)})
    np.testing.assert_allclose(run(changed, {"x": X})["y"], run(model, {"x": X})["y"], rtol=5e-2, atol=5e-2)
