"""Weights used inside If, Loop and Scan: moved out, factored by plain SVD, measured by substitution; and node order."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import ANY, build, constant, correlated, found_in, mlp, node, normal, options, plan_of, run, value
from builders import weight as random_weight
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import Gate, Lossless, inspect, optimize
from onnx_lowrank.collection import overridable
from onnx_lowrank.graph.traversal import bodies
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.passes.lift_body_weights import lifted
from onnx_lowrank.passes.topological_sort import topologically_sorted
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import by_name
from onnx_lowrank.types import Array, Why

W, V = random_weight((16, 16), 1, rank=3), random_weight((16, 16), 2, rank=3)
U = random_weight((8, 16), 3).T.copy()
BOOL, INT = TensorProto.BOOL, TensorProto.INT64


def branch(name: str, nodes: list[onnx.NodeProto], output: str, **stored: Array) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, key) for key, array in stored.items()]
    return helper.make_graph(nodes, name, [], [value(output, [ANY, 16])], tensors)


def with_if(then: onnx.GraphProto, other: onnx.GraphProto, **stored: Array) -> onnx.ModelProto:
    """x -> If (mean of x above 0) -> Relu -> MatMul -> y."""
    nodes = [
        node("ReduceMean", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "nought"], ["cond"]),
        node("If", ["cond"], ["h"], "choice", then_branch=then, else_branch=other),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "U"], ["y"], "last"),
    ]
    given = {"nought": np.float32(0), "U": U, **stored}
    return build(nodes, [value("x", ["n", 16])], [value("y", ["n", 8])], given)


def product(left: str, right: str, out: str) -> onnx.NodeProto:
    return node("MatMul", [left, right], [out], f"mul_{out}")


def shared_by_both() -> onnx.ModelProto:
    """As merged decoders are: both branches read the main graph's weights, and their tensors have the same names."""
    then = branch("then", [product("x", "W", "a"), node("Tanh", ["a"], ["t"])], "t")
    other = branch("else", [node("Neg", ["x"], ["n"]), product("n", "W", "a")], "a")
    return with_if(then, other, W=W)


def stored_inside() -> onnx.ModelProto:
    then = branch("then", [product("x", "K", "a")], "a", K=W)
    other = branch("else", [constant("K", V), product("x", "K", "a")], "a")
    return with_if(then, other)


def nested() -> onnx.ModelProto:
    deep = [branch(name, [product("x", "W", "d")], "d") for name in ("one", "two")]
    inner = node("If", ["cond"], ["a"], "inner", then_branch=deep[0], else_branch=deep[1])
    return with_if(branch("then", [inner], "a"), branch("else", [product("x", "V", "a")], "a"), W=W, V=V)


def in_a_loop() -> onnx.ModelProto:
    """h <- tanh(h K), three times."""
    body = helper.make_graph(
        [product("h", "K", "a"), node("Tanh", ["a"], ["t"]), node("Identity", ["go"], ["on"])],
        "body", [value("i", [], INT), value("go", [], BOOL), value("h", [ANY, 16])],
        [value("on", [], BOOL), value("t", [ANY, 16])], [numpy_helper.from_array(W, "K")],
    )  # fmt: skip
    nodes = [node("Loop", ["three", "", "x"], ["h3"], "loop", body=body), product("h3", "U", "y")]
    return build(nodes, [value("x", ["n", 16])], [value("y", ["n", 8])], {"three": np.int64(3), "U": U})


MODELS = {
    "shared by both": (shared_by_both, ["W"], 2),
    "stored inside": (stored_inside, ["If choice#then_branch/K", "If choice#else_branch/K"], 1),
    "nested": (nested, ["W", "V"], 2),
    "loop": (in_a_loop, ["Loop loop#body/K"], 1),
}
FEEDS = [{"x": s * np.abs(normal([3, 16], 4))} for s in (np.float32(1), np.float32(-1))]
"""Both ways of the If."""


@pytest.mark.parametrize("name", sorted(MODELS))
def test_weights_inside_bodies_are_sites(name: str):
    make, weights, _ = MODELS[name]
    model, _ = lifted(make())
    onnx.checker.check_model(model, full_check=True)
    found = found_in(model)
    inside = found.part(bodies=True).sites
    assert sorted(site.weight for site in inside) == sorted(weights)
    assert {site.id for site in inside} == set(found.bodies)
    assert [site.weight for site in found.part(bodies=False).sites] == ["U"]
    assert found.skips == () or {skip.why for skip in found.skips} == {Why.ELEMENTWISE}


@pytest.mark.parametrize("kind", ["plain", "half"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_factors_are_written_into_the_bodies(name: str, kind: str):
    make, weights, _ = MODELS[name]
    before = make()
    model, _ = lifted(before)
    for tensor in model.graph.initializer if kind == "half" else ():
        if tensor.name in weights:  # behind a Cast in the main graph
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, f"{tensor.name}.half"))
            name = tensor.name.removesuffix(".half")
            model.graph.node.insert(0, node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    found = found_in(model)
    inside = found.part(bodies=True).sites
    assert len(inside) == len(weights)
    factors = {(s.id, "svd"): by_name("svd").factor(found.weight(s), None, None, (3,)) for s in inside}
    changed = rewrite(model, found, plan_of({site.id: ("svd", (3,)) for site in inside}, found), factors)
    onnx.checker.check_model(changed, full_check=True)
    assert not {site.weight for site in inside} & {t.name for t in changed.graph.initializer}, "old weights are gone"
    rtol, atol = (2e-2, 2e-2) if kind == "half" else (1e-3, 1e-4)
    for feed in FEEDS:
        np.testing.assert_allclose(run(changed, feed)["y"], run(before, feed)["y"], rtol=rtol, atol=atol)


def test_moving_weights_out_changes_nothing_else():
    model = stored_inside()
    bytes_before = model.SerializeToString(deterministic=True)
    after, count = lifted(model)
    assert count == 2
    assert model.SerializeToString(deterministic=True) == bytes_before
    for feed in FEEDS:
        np.testing.assert_array_equal(run(after, feed)["y"], run(model, feed)["y"])
    assert [[n.op_type for n in inner.node] for _, _, inner in bodies(after.graph)] == [["MatMul"], ["MatMul"]]
    plain = shared_by_both()
    assert lifted(plain) == (plain, 0)
    assert lifted(plain)[0] is plain


def test_a_weight_in_a_body_can_be_replaced_from_outside():
    model, _ = lifted(stored_inside())
    runner = Runner(overridable(model, ["If choice#then_branch/K"]), runtime=Runtime(provider="cpu", threads=1))
    zeros = np.zeros((16, 16), np.float32)
    above, below = (runner.run({**feed, "If choice#then_branch/K": zeros})["y"] for feed in FEEDS)
    assert not above.any()
    np.testing.assert_allclose(below, run(model, FEEDS[1])["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("then", "why", "detail"), [
    ([node("Add", ["x", "W"], ["a"], "add")], Why.ELEMENTWISE, "Add"),
    ([node("Transpose", ["W"], ["t"]), product("x", "t", "a")], Why.OPERATOR, "behind Transpose inside If choice"),
    ([node("Identity", ["x"], ["a"])], Why.SUBGRAPH, "read inside If choice, and outside of it"),
])  # fmt: skip
def test_what_cannot_be_factored_in_there_is_told(then: list[onnx.NodeProto], why: Why, detail: str):
    outside = detail.endswith("of it")
    other = [product("x", "W", "a")] if outside else [node("Neg", ["x"], ["a"])]
    model = with_if(branch("then", then, "a"), branch("else", other, "a"), W=W)
    if outside:
        model.graph.node.extend([product("x", "W", "z")])
        model.graph.output.append(value("z", [ANY, 16]))
    (skip,) = [skip for skip in found_in(model).skips if skip.weight == "W"]
    assert (skip.why, skip.detail) == (why, detail)


@pytest.mark.parametrize(("name", "switches"), [
    *((name, {}) for name in sorted(MODELS)),
    ("shared by both", {"sensitivity": "inputs", "refit": True}),
    ("stored inside", {"continuation": 2}),
])  # fmt: skip
def test_the_whole_way(name: str, switches: dict):
    make, weights, _ = MODELS[name]
    model = make()
    x = correlated(60, 16, 3)
    x *= np.where(np.arange(60) % 2, 1, -1)[:, None].astype(np.float32)
    keep = 0.75
    result = optimize(model, {"x": x}, Lossless(keep=keep, gate=Gate(max_drop=0.2, observed=True)),
                      options(metric="relative-l2", **switches))  # fmt: skip
    assert result.changed, result.reason
    assert {choice.weight for choice in result.plan.factored} & set(weights)
    are = "is" if len(weights) == 1 else "are"
    told = f"{len(weights)} of {len(weights) + 1} weights {are} used inside If, Loop or Scan, where nothing can be"
    assert any(note.startswith(told) for note in result.notes), result.notes
    onnx.checker.check_model(result.model, full_check=True)
    assert inspect(model, rank_multiple=1).share > 0.9


def test_the_papers_rule_leaves_them_as_they_are():
    goal = Lossless(keep=0.9, gate=Gate(max_drop=9.0, observed=True))
    chosen = options(metric="kl", sensitivity="paper", gamma=0.9)
    result = optimize(shared_by_both(), {"x": correlated(60, 16, 3)}, goal, chosen, dry_run=True)
    assert result.changed, result.reason
    assert [choice.weight for choice in result.plan.factored] == ["U"]


def test_nodes_out_of_order_are_put_in_order():
    model = mlp([16, 32, 8], [4, None], 1)
    assert topologically_sorted(model) is model
    mixed = onnx.ModelProto()
    mixed.CopyFrom(model)
    del mixed.graph.node[:]
    mixed.graph.node.extend(reversed(model.graph.node))
    assert topologically_sorted(mixed) == model
    nested_model = nested()
    late = onnx.ModelProto()
    late.CopyFrom(nested_model)
    late.graph.node.append(late.graph.node[1])
    del late.graph.node[1]
    assert [n.op_type for n in topologically_sorted(late).graph.node] == [n.op_type for n in nested_model.graph.node]
    circle = onnx.ModelProto()
    circle.CopyFrom(model)
    circle.graph.node[0].input[0] = "y"
    assert topologically_sorted(circle) is circle
