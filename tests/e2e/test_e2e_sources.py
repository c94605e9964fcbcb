"""Half precision, 8 bits, functions and bodies from file to file: optimize, apply the plan, compare, inspect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import behind_cast, build, constant, correlated, halved, mlp, node, options, quantised, value, weight
from onnx import TensorProto, helper

from onnx_lowrank import Gate, Lossless, apply, compare, inspect, optimize
from onnx_lowrank.graph.model_io import file_bytes
from onnx_lowrank.results.saved_plan import SavedPlan, read_plan

X = correlated(40, 16, 3)
GOAL = Lossless(keep=0.7, gate=Gate(max_drop=0.3, observed=True))


def plain() -> onnx.ModelProto:
    return mlp([16, 64, 48, 8], [4, 8, None], 1)


def function_and_body() -> onnx.ModelProto:
    """A function that holds a weight, and an If whose branches hold others."""
    body = [constant("W", weight((32, 16), 1, rank=3).T.copy()), node("MatMul", ["x", "W"], ["y"], "inside")]
    dense = helper.make_function("local", "Dense", ["x"], ["y"], body, [helper.make_opsetid("", 17)])

    def branch(name: str, seed: int) -> onnx.GraphProto:
        stored = onnx.numpy_helper.from_array(weight((32, 32), seed, rank=3), "K")
        nodes = [node("MatMul", ["h", "K"], ["a"], name)]
        return helper.make_graph(nodes, name, [], [value("a", [None, 32])], [stored])

    nodes = [
        node("Dense", ["x"], ["h"], "call", domain="local"),
        node("ReduceMean", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "nought"], ["cond"]),
        node("If", ["cond"], ["z"], "choice", then_branch=branch("then", 2), else_branch=branch("else", 3)),
        node("Relu", ["z"], ["y"]),
    ]
    return build(nodes, [value("x", ["n", 16])], [value("y", ["n", 32])], {"nought": np.float32(0)},
                 domains={"local": 1}, functions=[dense])  # fmt: skip


MODELS = {
    "fp16": lambda: halved(plain()),
    "bf16 behind Cast": lambda: behind_cast(plain(), ["fc0", "fc1", "fc2"], TensorProto.BFLOAT16),
    "int8": lambda: quantised(plain(), {"fc0": 0, "fc1": None}, activations={"x": 0.03, "r0": 0.03}),
    "function and body": function_and_body,
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_from_file_to_file(name: str, tmp_path: Path):
    source, data = tmp_path / "model.onnx", {"x": X.astype(np.float16) if name == "fp16" else X}
    onnx.save(MODELS[name](), source)
    before = source.read_bytes()
    settings = options(metric="relative-l2", rank_multiple=4)
    result = optimize(source, data, GOAL, settings, output=tmp_path / "small.onnx")
    assert result.changed, result.reason
    assert source.read_bytes() == before
    assert file_bytes(tmp_path / "small.onnx") == result.after.bytes
    original, small = onnx.load(source), onnx.load(tmp_path / "small.onnx")
    assert (small.graph.input, small.graph.output) == (original.graph.input, original.graph.output)
    assert small.opset_import == original.opset_import
    verdict = compare(
        source, tmp_path / "small.onnx", data, Gate(max_drop=0.3, observed=True), options(metric="relative-l2")
    )
    assert verdict.verdict.passed

    plan = SavedPlan.of_result(result, "test")
    (tmp_path / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    apply(read_plan(tmp_path / "plan.json"), source, data, settings, output=tmp_path / "again.onnx")
    again = onnx.load(tmp_path / "again.onnx")
    assert again.graph.SerializeToString(deterministic=True) == small.graph.SerializeToString(deterministic=True)

    seen = inspect(source, rank_multiple=2)
    assert {choice.weight for choice in result.plan.factored} <= {row.site.weight for row in seen.rows}
    assert seen.share > 0.9
