"""Branches that lead to no output: their weights are left alone and named, and nothing else changes by them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from builders import build, constant, correlated, found_in, mlp, node, options, value, weight

from onnx_lowrank import DataSources, Gate, Goal, Lossless, Result, Session, compare, inspect, optimize, pareto
from onnx_lowrank.types import Array, Why

NODES = {
    "one": [node("MatMul", ["r0", "D"], ["d"], "nowhere")],
    "of an input": [node("MatMul", ["x", "E"], ["d"], "nowhere")],
    "two in a row": [node("MatMul", ["r0", "D"], ["d"], "nowhere"), node("MatMul", ["d", "F"], ["f"], "further")],
    "read by a dead node": [node("MatMul", ["r0", "D"], ["d"], "nowhere"), node("Relu", ["d"], ["e"])],
}
WEIGHTS = {"D": weight((32, 40), 5), "E": weight((24, 40), 6), "F": weight((40, 30), 7)}
VARIANTS: Mapping[str, dict[str, object]] = {
    **{name: {"sensitivity": name} for name in ("joint", "inputs", "weights")},
    **{name: {"then": name} for name in ("quantize", "quantize-dynamic", "quantize-weights")},
    "inter-layer": {"inter_layer": True},
    "continuation": {"continuation": 2},
    "refit": {"refit": True},
    "paper": {"sensitivity": "paper", "metric": "kl", "gamma": 1e6},
}


def goal() -> Goal:
    """Return what every model here reaches: nothing is asked of its outputs."""
    return Lossless(keep=0.8, gate=Gate(max_drop=1e9, observed=True))


def branched(name: str) -> onnx.ModelProto:
    """Return a model of two layers of full use, of rank 8 and 6, with one of the branches NODES."""
    model = mlp([24, 32, 32, 8], [6, 8, None], 1)
    model.graph.node.extend(NODES[name])
    read = {each for part in NODES[name] for each in part.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(W, key) for key, W in WEIGHTS.items() if key in read)
    return model


def data(seed: int) -> dict[str, Array]:
    return {"x": correlated(48, 24, seed), "labels": np.arange(48) % 8}


def sources() -> DataSources:
    return DataSources(data=data(1), validation=data(2))


def left_alone(result: Result) -> set[str]:
    return {skip.weight for skip in result.skips if skip.why is Why.NOWHERE}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_two_dead_layers_in_a_row_change_nothing(variant: str) -> None:
    chosen = options(**{"metric": "relative-l2", **VARIANTS[variant]})
    result = optimize(branched("two in a row"), sources(), goal(), chosen, dry_run=True)
    assert result.changed, result.reason
    assert left_alone(result) == {"D", "F"}
    assert {site.weight for site in result.sites} == {"fc0", "fc1", "fc2"}
    assert not [note for note in result.notes if "no gradient" in note]


@pytest.mark.parametrize("name", sorted(NODES))
def test_every_dead_branch_is_named_and_the_rest_is_what_it_was(name: str) -> None:
    chosen = options(metric="relative-l2")
    result = optimize(branched(name), sources(), goal(), chosen, dry_run=True)
    plain = mlp([24, 32, 32, 8], [6, 8, None], 1)
    without = optimize(plain, sources(), Lossless(keep=0.75, gate=goal().gate), chosen, dry_run=True)
    assert left_alone(result) == set(WEIGHTS) & {each for part in NODES[name] for each in part.input}
    assert {curve.site: curve.options for curve in result.curves} == {c.site: c.options for c in without.curves}
    told = {skip.weight: skip.why.value for skip in inspect(branched(name)).skips}
    assert all(told[key] == "leads to no output" for key in left_alone(result))


def test_the_whole_curve_and_the_comparison_take_such_a_model() -> None:
    model = branched("two in a row")
    assert pareto(Session.of(model, sources(), options(metric="relative-l2")), goal())
    assert compare(model, model, data(2), goal().gate, options(metric="relative-l2")).verdict.passed


def test_a_weight_that_is_also_of_use_is_factored_everywhere() -> None:
    model = mlp([24, 32, 32, 8], [6, 8, None], 1)
    model.graph.node.append(node("Gemm", ["r0", "fc1"], ["d"], "nowhere", transB=1))
    result = optimize(model, sources(), goal(), options(metric="relative-l2"), dry_run=True)
    assert result.changed, result.reason
    assert left_alone(result) == set()
    assert {site.weight for site in result.sites} == {"fc0", "fc1", "fc2"}


def test_inside_bodies_dead_nodes_are_told_from_others() -> None:
    """Of an If: one product in a branch is its result, another one there is nobody's."""
    inside = [
        node("MatMul", ["x", "W"], ["w"], "used"),
        node("MatMul", ["x", "V"], ["v"], "unused"),
    ]
    branch = onnx.helper.make_graph(inside, "then", [], [value("w", ["n", 16])])
    other = onnx.helper.make_graph([node("Identity", ["x"], ["z"])], "else", [], [value("z", ["n", 16])])
    holder = node("If", ["c"], ["y"], "choice", then_branch=branch, else_branch=other)
    weights = {"W": weight((16, 16), 1), "V": weight((16, 16), 2)}
    xy = [value("x", ["n", 16])], [value("y", ["n", 16])]
    model = build([constant("c", np.array(True)), holder], *xy, weights)
    found = found_in(model)
    assert [site.weight for site in found.sites] == ["W"]
    assert [(skip.weight, skip.why) for skip in found.skips] == [("V", Why.NOWHERE)]
