"""Nodes are put in order where they are not, however deep the graph, and no more of them are moved than have to be."""

from __future__ import annotations

import onnx
from builders import build, node, value
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.passes.topological_sort import topologically_sorted

DEEP = 3000


def chain(count: int) -> onnx.ModelProto:
    nodes = [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    return build(nodes, [value("t0", [1])], [value(f"t{count}", [1])], {})


@st.composite
def shuffled(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[int]]:
    """Some nodes, of which each reads two that come before it, and an order to put them in."""
    count = draw(st.integers(2, 9))
    sources = [[draw(st.integers(0, i)) for _ in range(2)] for i in range(count)]
    nodes = [node("Add", [f"t{a}", f"t{b}"], [f"t{i + 1}"]) for i, (a, b) in enumerate(sources)]
    return build(nodes, [value("t0", [1])], [value(f"t{count}", [1])], {}), draw(st.permutations(range(count)))


def reordered(model: onnx.ModelProto, order: list[int]) -> onnx.ModelProto:
    nodes = [model.graph.node[i] for i in order]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


@given(case=shuffled())
def test_every_node_comes_after_what_it_reads(case: tuple[onnx.ModelProto, list[int]]):
    model, order = case
    made = topologically_sorted(reordered(model, order))
    there = {"t0"}
    for each in made.graph.node:
        assert there.issuperset(reads(each))
        there.update(each.output)
    assert sorted(n.output[0] for n in made.graph.node) == sorted(n.output[0] for n in model.graph.node)
    assert topologically_sorted(made) is made


def test_a_deep_graph_in_reverse():
    model = chain(DEEP)
    assert topologically_sorted(reordered(model, list(range(DEEP))[::-1])) == model


def test_nodes_that_are_in_order_stay():
    nodes = [node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["b"]), node("Neg", ["x"], ["c"])]
    late = [node("Add", ["b", "d"], ["y"]), node("Neg", ["c"], ["d"])]
    model = build([*nodes, *late], [value("x", [1])], [value("y", [1])], {})
    assert [n.output[0] for n in topologically_sorted(model).graph.node] == ["a", "b", "c", "d", "y"]
