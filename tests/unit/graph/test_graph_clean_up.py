"""What leads to a tensor, by graphsurgeon on names alone: the same as by the definition."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
import pytest
from builders import node
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from onnx_lowrank.graph.clean_up import leading_to
from onnx_lowrank.graph.traversal import reads

NAMES = [f"t{i}" for i in range(8)]


@st.composite
def graphs(draw: st.DrawFn) -> list[onnx.NodeProto]:
    """Nodes that read any tensors before them, twice the same or none among them, some of them in a subgraph."""
    nodes = []
    for index in range(1, draw(st.integers(1, 7)) + 1):
        names = draw(st.lists(st.sampled_from(["", *NAMES[:index]]), max_size=3))
        outputs = [NAMES[index], *draw(st.sampled_from([[], [""], [f"u{index}"]]))]
        if draw(st.booleans()):
            inner = helper.make_graph([node("Sum", names, ["inner"])], "body", [], [])
            nodes.append(helper.make_node("If", [NAMES[0]], outputs, then_branch=inner, else_branch=inner))
        else:
            nodes.append(node("Sum", names, outputs))
    return nodes


@given(nodes=graphs(), wanted=st.sets(st.sampled_from(NAMES), max_size=3))
def test_what_leads_to_a_tensor(nodes: list[onnx.NodeProto], wanted: set[str]):
    needed, kept = set(wanted), []
    for each in reversed(nodes):
        if needed.intersection(filter(None, each.output)):
            needed.update(reads(each))
            kept.insert(0, each)
    assert leading_to(nodes, wanted) == kept


def test_a_deep_graph():
    nodes = [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(3000)]
    assert len(leading_to(nodes, ["t2000"])) == 2000


@pytest.mark.parametrize("severity", [gs.logger.G_LOGGER.INFO, gs.logger.G_LOGGER.ERROR])
def test_the_logger_of_graphsurgeon_is_as_it_was(severity: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gs.logger.G_LOGGER, "severity", severity)
    leading_to([node("Relu", ["a"], ["b"])], ["b"])
    assert gs.logger.G_LOGGER.severity == severity
