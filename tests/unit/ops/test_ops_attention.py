"""onnxruntime's Attention: its weights are factored, though their product is inside it."""

from __future__ import annotations

import numpy as np
import onnx
from builders import build, factored, found_in, node, normal, ops, options, run, value, weight

from onnx_lowrank.goals import Compact, Gate
from onnx_lowrank.pipeline import optimize
from onnx_lowrank.types import Why

WIDTH, HIDDEN, TOKENS = 12, 8, 5


def model_of(rank: int | None) -> onnx.ModelProto:
    """(n, 5, 12) -> attention with two heads of 4, then a MatMul."""
    nodes = [
        node("Attention", ["x", "W", "b"], ["a"], "attend", domain="com.microsoft", num_heads=2),
        node("MatMul", ["a", "V"], ["y"], "out"),
    ]
    weights = {
        "W": np.ascontiguousarray(2 * weight((3 * HIDDEN, WIDTH), 1, rank=rank).T),
        "b": normal([3 * HIDDEN], 2),
        "V": np.ascontiguousarray(weight((6, HIDDEN), 3, rank=rank).T),
    }
    ends = [value("x", ["n", TOKENS, WIDTH])], [value("y", ["n", TOKENS, 6])]
    return build(nodes, *ends, weights, domains={"com.microsoft": 1})


def test_the_weights_are_a_site_and_the_bias_is_not():
    found = found_in(model_of(None))
    assert {s.weight: (s.op, s.shape) for s in found.sites} == {
        "W": ("com.microsoft.Attention", (3 * HIDDEN, WIDTH)),
        "V": ("MatMul", (6, HIDDEN)),
    }
    assert [(s.weight, s.why, s.detail) for s in found.skips] == [("b", Why.ELEMENTWISE, "bias of Attention")]


def test_its_input_gets_narrower_than_its_heads():
    model, x = model_of(None), normal([2, TOKENS, WIDTH], 4)
    changed = factored(model, {"a": ("svd", 5)})
    assert ops(changed) == ["MatMul", "Attention", "MatMul"]
    assert changed.graph.node[1].domain == "com.microsoft"
    assert run(changed, {"x": x})["y"].shape == (2, TOKENS, 6)
    exact = factored(model, {"a": ("svd", WIDTH)})
    np.testing.assert_allclose(run(exact, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-4, atol=1e-5)


def test_optimize_finds_its_rank_by_measuring():
    model, x = model_of(3), normal([80, TOKENS, WIDTH], 4)
    goal = Compact(gate=Gate(max_drop=1e-4, observed=True))
    result = optimize(model, {"x": x}, goal, options(metric="relative-l2"))
    assert result, result.reason
    assert {c.weight: c.option.ranks for c in result.plan.factored} == {"W": (3,), "V": (3,)}
    (note,) = (note for note in result.notes if "no gradient" in note)
    assert "(com.microsoft.Attention keeps its product inside)" in note
