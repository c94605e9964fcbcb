"""Local functions that hold weights, or are given them, are inlined; the others and the rest of the file stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import ANY, build, constant, correlated, found_in, node, normal, ops, options, run, value, weight
from onnx import helper

from onnx_lowrank import Compact, Gate, Lossless, inspect, optimize
from onnx_lowrank.passes.inline_functions import inlined
from onnx_lowrank.types import Why

W = weight((12, 16), 1, rank=3).T.copy()
V = weight((16, 12), 2).T.copy()
IMPORTS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def function(name: str, inputs: list[str], body: list[onnx.NodeProto], opset: int = 17) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, inputs, ["y"], body, imports)


def call(name: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return node(name, inputs, [output], f"call_{name}_{output}", domain="local")


HOLDS = function("Holds", ["x"], [constant("W", W), node("MatMul", ["x", "W"], ["y"], "in_holds")])
TAKES = function("Takes", ["x", "w"], [node("MatMul", ["x", "w"], ["y"], "in_takes")])
OUTER = function("Outer", ["x"], [call("Holds", ["x"], "h"), node("Relu", ["h"], ["y"])])
PLAIN = function("Plain", ["x"], [node("Relu", ["x"], ["y"])])
NEWER = function("Newer", ["x"], [constant("W", W), node("MatMul", ["x", "W"], ["y"])], opset=16)
BIAS = function("Bias", ["x"], [constant("b", normal([1, 12], 3)), node("Add", ["x", "b"], ["y"])])


def model(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto], **weights: np.ndarray) -> onnx.ModelProto:
    made = build(nodes, [value("x", ["n", 16])], [value("y", [ANY, ANY])], weights, domains={"local": 1},
                 functions=functions)  # fmt: skip
    made.doc_string, made.producer_name, made.model_version = "about", "someone", 7
    helper.set_model_props(made, {"labels": "a,b"})
    made.graph.metadata_props.add(key="graph", value="kept")
    for each in made.graph.node:
        each.metadata_props.add(key="node", value=each.name)
    return made


MODELS = {
    "holds": (lambda: model([call("Holds", ["x"], "h"), call("Plain", ["h"], "y")], [HOLDS, PLAIN]), ("Holds",)),
    "takes": (lambda: model([call("Takes", ["x", "W"], "h"), call("Takes", ["h", "V"], "y")], [TAKES], W=W, V=V),
              ("Takes",)),
    "nested": (lambda: model([call("Outer", ["x"], "h"), call("Plain", ["h"], "y")], [OUTER, HOLDS, PLAIN]),
               ("Outer", "Holds")),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MODELS))
def test_functions_with_weights_are_inlined_and_all_else_stays(name: str):
    make, want = MODELS[name]
    before = make()
    bytes_before = before.SerializeToString(deterministic=True)
    after, names = inlined(before)
    assert before.SerializeToString(deterministic=True) == bytes_before
    assert set(names) == set(want)
    assert found_in(after).sites[0].shape == (12, 16)
    onnx.checker.check_model(after, full_check=True)
    assert "Plain" not in names
    assert [f.name for f in after.functions] == [f.name for f in before.functions if f.name == "Plain"]
    for field in ("ir_version", "producer_name", "model_version", "doc_string", "opset_import", "metadata_props"):
        assert getattr(after, field) == getattr(before, field), field
    for field in ("name", "input", "output", "initializer", "metadata_props"):
        assert getattr(after.graph, field) == getattr(before.graph, field), field
    kept = [each for each in before.graph.node if each.op_type == "Plain"]
    assert [each for each in after.graph.node if each.op_type == "Plain"] == kept
    x = normal([3, 16], 4)
    np.testing.assert_allclose(run(after, {"x": x})["y"], run(before, {"x": x})["y"], rtol=1e-5, atol=1e-6)


def test_a_model_without_such_functions_is_not_touched():
    plain = model([call("Plain", ["x"], "h"), call("Bias", ["h"], "y")], [PLAIN, BIAS])
    assert inlined(plain) == (plain, ())
    assert inlined(plain)[0] is plain


def test_a_large_weight_that_would_be_stored_twice_stays_in_its_function(monkeypatch: pytest.MonkeyPatch):
    twice = model([call("Holds", ["x"], "h"), node("MatMul", ["h", "V"], ["v"]), call("Holds", ["v"], "y")], [HOLDS],
                  V=V)  # fmt: skip
    assert inlined(twice)[1] == ("Holds",), "a small one may be"
    monkeypatch.setattr("onnx_lowrank.passes.inline_functions.SMALL", 100)
    after, names = inlined(twice)
    assert (after, names) == (twice, ())
    (skip,) = [skip for skip in found_in(after).skips if skip.shape == (16, 12)]
    assert (skip.why, skip.detail) == (
        Why.SUBGRAPH,
        "lives in function Holds, which is called 2 times: inlined, it would be stored as often",
    )


def test_a_function_of_another_operator_set_stays():
    other = model([call("Newer", ["x"], "y")], [NEWER])
    assert inlined(other)[1] == ()
    (skip,) = found_in(other).skips
    assert (skip.why, skip.detail) == (Why.SUBGRAPH, "lives in function Newer")


def test_the_report_says_so_and_the_original_is_returned_where_nothing_holds():
    before = MODELS["nested"][0]()
    data = {"x": correlated(50, 16, 3)}
    result = optimize(
        before, data, Lossless(keep=0.6, gate=Gate(max_drop=0.1, observed=True)), options(metric="relative-l2")
    )
    assert result.changed, result.reason
    note = "local functions are inlined, so that weights in them can be factored: Outer, Holds"
    assert note in result.notes
    assert ops(result.model) == ["MatMul", "MatMul", "Concat", "Relu", "Plain"]
    refused = optimize(
        before, data, Compact(gate=Gate(max_drop=0.0, observed=True)), options(metric="relative-l2", rank_multiple=64)
    )
    assert not refused.changed
    assert refused.model == before
    assert inspect(before, rank_multiple=1).notes == (note,)
