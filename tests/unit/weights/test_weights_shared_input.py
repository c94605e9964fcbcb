"""Siblings: which weights are, and why the others are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import ANY, build, found_in, node, quantised, shared_inputs, value, weight

from onnx_lowrank.pipeline import inspect


def members(model: onnx.ModelProto, *, multiple: int = 1) -> list[tuple[str, ...]]:
    return [shared.members for shared in found_in(model, multiple=multiple).shared_inputs]


def readers(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], width: int = 6) -> onnx.ModelProto:
    names = [output for each in nodes for output in each.output if output.startswith("y")]
    return build(nodes, [value("x", ["n", width])], [value(name, [ANY, ANY]) for name in names], weights)


def made(out: int, seed: int = 0) -> np.ndarray:
    return weight((6, out), seed)


def test_weights_of_one_form_that_read_one_tensor_are_siblings_in_the_order_of_the_graph():
    """Not in the order in which their weights are stored; and one family for every tensor."""
    nodes = [
        node("MatMul", ["x", "B"], ["y0"], "second"),
        node("Relu", ["x"], ["r"]),
        node("MatMul", ["r", "C"], ["y1"], "other"),
        node("MatMul", ["x", "A"], ["y2"], "first"),
        node("MatMul", ["r", "D"], ["y3"], "more"),
    ]
    model = readers(nodes, {"A": made(8, 1), "B": made(9, 2), "C": made(8, 3), "D": made(5, 4)})
    assert members(model) == [("y0", "y2"), ("y1", "y3")]
    shared = found_in(model).shared_inputs[0]
    assert (shared.outs, shared.inner) == ((9, 8), 6)


ALONE = {
    "another operator": (
        [node("MatMul", ["x", "A"], ["y0"]), node("Gemm", ["x", "B"], ["y1"])],
        {"A": made(8, 1), "B": made(8, 2)},
    ),
    "other flags": (
        [node("Gemm", ["x", "A"], ["y0"]), node("Gemm", ["x", "B"], ["y1"], transB=1)],
        {"A": made(8, 1), "B": weight((8, 6), 2)},
    ),
    "another side": (
        [node("Gemm", ["x", "A"], ["y0"]), node("Gemm", ["B", "x"], ["y1"], transB=1)],
        {"A": made(8, 1), "B": weight((8, 6), 2)},
    ),
    "two nodes": (
        [
            node("MatMul", ["x", "A"], ["y0"]),
            node("Relu", ["x"], ["r"]),
            node("MatMul", ["r", "A"], ["y1"]),
            node("MatMul", ["x", "B"], ["y2"]),
        ],
        {"A": made(8, 1), "B": made(8, 2)},
    ),
    "a matrix for every slice": (
        [node("MatMul", ["x", "A"], ["y0"]), node("MatMul", ["x", "B"], ["y1"])],
        {"A": made(8, 1), "B": np.stack([made(8, 2), made(8, 3)])},
    ),
}


REASONS = {"two nodes": "several nodes use it", "a matrix for every slice": "it has a matrix for every slice"}


@pytest.mark.parametrize("name", ALONE)
def test_other_forms_are_none(name: str):
    nodes, weights = ALONE[name]
    model = readers(nodes, weights)
    assert len(found_in(model).sites) == 2
    assert members(model) == []
    notes = [note for note in inspect(model, rank_multiple=1).notes if "shares no first factor" in note]
    assert notes
    assert all(note.startswith(("A reads", "B reads", "A, like 1 more, reads")) for note in notes)
    assert any(REASONS.get(name, "no other has its form") in note for note in notes)


def test_integers_are_none_as_every_factor_has_scales_of_its_own():
    model = quantised(shared_inputs(16, [16, 16], rank=None, together=False), {"W0": None, "W1": None})
    assert [site.itemsize for site in found_in(model).sites if site.id.startswith("h")] == [1, 1]
    assert members(model) == []
    assert (
        "W0, like 1 more, reads what other weights read, but shares no first factor: it is stored as integers"
        in inspect(model, rank_multiple=1).notes
    )


def test_a_family_that_no_rank_makes_smaller_is_none():
    model = shared_inputs(9, [9, 9], rank=None, together=False)
    assert members(model, multiple=8) == [("h0", "h1")]  # every rank below 9 saves
    assert members(model, multiple=9) == []
    # inputs that a node transposes cannot be added: both together break even at 6
    nodes = [node("Gemm", ["x", f"W{i}"], [f"y{i}"], transA=1) for i in range(2)]
    turned = readers(nodes, {f"W{i}": weight((9, 9), i) for i in range(2)}, width=9)
    assert members(turned, multiple=5) == [("y0", "y1")]
    assert members(turned, multiple=6) == []


def test_a_family_is_gone_where_one_of_it_is():
    found = found_in(shared_inputs(16, [16, 16], rank=None, together=False))
    assert len(found.shared_inputs) == 1
    assert replace(found, sites=tuple(site for site in found.sites if site.id != "h1")).shared_inputs == ()
