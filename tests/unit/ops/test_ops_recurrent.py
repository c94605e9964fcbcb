"""Recurrent cells: the input matrix is factored, exactly at full rank; the rest is left with its reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import (
    ANY,
    build,
    factored,
    found_in,
    moments_of,
    node,
    normal,
    options,
    relative_squared,
    run,
    value,
    weight,
)
from builders import ops as kinds
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.collection.sample_axis import tells_samples_apart
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.pipeline import optimize
from onnx_lowrank.schemes import by_name
from onnx_lowrank.types import Why

STEPS, WIDTH, HIDDEN, CLASSES = 5, 12, 6, 4


def two_layers(first: int | None = None, second: int | None = None, *, head: int | None = None) -> onnx.ModelProto:
    """(n, 5, 12) -> a bidirectional LSTM, an LSTM of which only Y_h is used, a Gemm; W of these ranks."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "W1", "R1", "B1"], ["h1"], "one", hidden_size=HIDDEN, direction="bidirectional"),
        node("Transpose", ["h1"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "shape"], ["both"]),
        node("LSTM", ["both", "W2", "R2"], ["", "h2"], "two", hidden_size=HIDDEN),
        node("Squeeze", ["h2", "zero"], ["last"]),
        node("Gemm", ["last", "V", "b"], ["y"], "head", transB=1),
    ]
    weights = {
        "W1": weight((8 * HIDDEN, WIDTH), 1, rank=first).reshape(2, 4 * HIDDEN, WIDTH),
        "R1": 0.3 * normal([2, 4 * HIDDEN, HIDDEN], 2),
        "B1": 0.1 * normal([2, 8 * HIDDEN], 3),
        "W2": 2 * weight((4 * HIDDEN, 2 * HIDDEN), 4, rank=second).reshape(1, 4 * HIDDEN, 2 * HIDDEN),
        "R2": 0.3 * normal([1, 4 * HIDDEN, HIDDEN], 5),
        "V": 2 * weight((CLASSES, HIDDEN), 6, rank=head),
        "b": normal([CLASSES], 7),
        "shape": np.array([0, 0, -1]),
        "zero": np.array([0]),
    }
    return build(nodes, [value("x", ["n", STEPS, WIDTH])], [value("y", ["n", CLASSES])], weights)


def test_only_the_input_matrix_is_factored():
    found = found_in(two_layers())
    assert {s.weight: (s.id, s.shape) for s in found.sites} == {
        "W1": ("h1", (8 * HIDDEN, WIDTH)),
        "W2": ("h2", (4 * HIDDEN, 2 * HIDDEN)),
        "V": ("y", (CLASSES, HIDDEN)),
    }
    said = {s.weight: (s.why, s.detail) for s in found.skips}
    reason = (Why.RECURRENT, "LSTM multiplies by it at every step, inside the node")
    assert said == {
        "R1": reason,
        "R2": reason,
        "B1": (Why.ELEMENTWISE, "bias of LSTM"),
        "b": (Why.ELEMENTWISE, "bias of Gemm"),
    }


def test_two_layers_are_exact_at_full_rank():
    model, x = two_layers(), normal([3, STEPS, WIDTH], 8)
    changed = factored(model, {"h1": ("svd", WIDTH), "h2": ("svd", 2 * HIDDEN)})
    onnx.checker.check_model(changed, full_check=True)
    assert kinds(changed) == [
        "Transpose",
        "MatMul",
        "LSTM",
        "Transpose",
        "Reshape",
        "MatMul",
        "LSTM",
        "Squeeze",
        "Gemm",
    ]
    assert list(changed.graph.node[6].output) == ["", "h2"]
    np.testing.assert_allclose(run(changed, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_batch_in_front_stays_in_front(op: str, gates: int):
    """layout = 1, which onnxruntime does not run on the CPU, by ONNX's reference implementation."""
    weights = {"W": normal([1, gates * 4, 5], 1), "R": 0.3 * normal([1, gates * 4, 4], 2)}
    cell = node(op, ["x", "W", "R"], ["y", "h"], "cell", hidden_size=4, layout=1)
    outputs = [value("y", [ANY] * 4), value("h", [ANY] * 3)]
    model, x = build([cell], [value("x", [3, 7, 5])], outputs, weights), normal([3, 7, 5], 3)
    changed = factored(model, {"y": ("svd", min(5, gates * 4))})
    for got, expected in zip(*(ReferenceEvaluator(m).run(None, {"x": x}) for m in (changed, model)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_its_error_is_that_of_the_product_inside():
    """C is W A Wᵀ: no tensor of the graph holds W x."""
    model, x = two_layers(), normal([6, STEPS, WIDTH], 8)
    moments = moments_of(model, [{"x": row[None]} for row in x])["h1"]
    assert (moments.C, moments.positions) == (None, 6 * STEPS)
    found = found_in(model)
    site = next(s for s in found.sites if s.id == "h1")
    W, rows = found.weight(site), x.reshape(-1, WIDTH).astype(np.float64)
    factors = by_name("svd").factor(W, moments, moments, (WIDTH,))
    for rank in (1, 4, 9):
        measured = relative_squared(rows @ W.T, rows @ factors.dense((rank,)).astype(np.float64).T)
        assert factors.error((rank,)) == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize("refit", [False, True])
def test_joint_falls_back_to_measuring_at_the_cells(refit: bool):
    model, x = two_layers(3, 4, head=2), normal([60, STEPS, WIDTH], 9)
    goal = Compact(gate=Gate(max_drop=1e-4, observed=True))
    result = optimize(model, {"x": x}, goal, options(metric="relative-l2", refit=refit))
    assert result, result.reason
    assert {c.weight: c.option.ranks for c in result.plan.factored} == {"W1": (3,), "W2": (4,), "V": (2,)}
    assert [note for note in result.notes if "no gradient" in note] == [
        "2 of 3 weights have no gradient (LSTM keeps its product inside): their factors keep the outputs on calibration"
        " inputs, and their losses are measured"
    ]


def test_weights_in_front_of_a_cell_fall_back_as_well():
    model = two_layers(3, 4)
    model.graph.node[0].input[0] = "p"
    model.graph.node.insert(0, node("MatMul", ["x", "P"], ["p"], "project"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight((WIDTH, WIDTH), 8, rank=5), "P"))
    goal = Lossless(keep=0.8, gate=Gate(max_drop=0.01, observed=True))
    result = optimize(model, {"x": normal([60, STEPS, WIDTH], 9)}, goal, options(metric="relative-l2"))
    assert result, result.reason
    (note,) = (note for note in result.notes if "no gradient" in note)
    assert note.startswith("3 of 4 weights have no gradient (LSTM keeps its product inside; no rule for LSTM): ")


def test_steps_in_front_do_not_keep_other_weights_from_batches():
    """A cell's own tensors are not asked for gradients: that they lead with the steps does not matter."""
    model, x = two_layers(), normal([8, STEPS, WIDTH], 8)
    feeds = [{"x": row[None]} for row in x]
    assert tells_samples_apart(model, found_in(model), feeds, options())
