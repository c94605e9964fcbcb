"""What weights are called: by names that people gave, with the end that tells them apart."""

from __future__ import annotations

import pytest

from onnx_lowrank.report.labels import ending, label
from onnx_lowrank.report.numbers import counted
from onnx_lowrank.types import Site


def site(weight: str, node: str) -> Site:
    return Site("y", node, "MatMul", weight, (4, 4), ("y",))


@pytest.mark.parametrize(
    ("weight", "node", "shown"),
    [
        ("onnx::Conv_1025", "/layer1/conv1/Conv", "/layer1/conv1/Conv"),
        ("onnx::MatMul_12", "", "onnx::MatMul_12"),
        ("val_12", "node_linear", "node_linear"),
        ("_v_7", "a", "a"),
        ("123", "b", "b"),
        ("encoder.weight", "/encoder/MatMul", "encoder.weight"),
        ("fc1", "/fc1/Gemm", "fc1"),
    ],
)
def test_a_name_that_an_exporter_made_up_gives_way_to_the_nodes(weight: str, node: str, shown: str) -> None:
    assert label(site(weight, node)) == shown


def test_the_end_of_a_long_name_is_kept_and_wide_terminals_show_more() -> None:
    name = "bert.encoder.layer.11.attention.self.query.weight"
    assert label(site(name, "")) == "…self.query.weight"
    assert label(site(name, ""), width=120) == name
    assert len(ending(name, 24)) <= 24
    assert ending("x" * 30, 24) == "…" + "x" * 23


def test_one_is_singular() -> None:
    assert (counted(1, "weight"), counted(1200, "weight")) == ("1 weight", "1,200 weights")
