"""Embedding tables: what is collected of them, which are refused, and the whole way through optimize."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import (
    ANY,
    build,
    constant,
    factored,
    found_in,
    moments_of,
    node,
    normal,
    observed,
    ops,
    options,
    run,
    the_site,
    value,
    weight,
)
from onnx import TensorProto

from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.numerics.kronecker_metric import SideMoments, bases
from onnx_lowrank.pipeline import optimize
from onnx_lowrank.pipeline.notes import inventory_notes
from onnx_lowrank.types import Why

ROWS, WIDTH, CLASSES = 60, 16, 5


def table(rank: int | None, seed: int) -> np.ndarray:
    return np.ascontiguousarray(weight((WIDTH, ROWS), seed, rank=rank).T)


def classifier(rank: int | None) -> onnx.ModelProto:
    """Tokens (n, 6) -> the mean of their rows, a Tanh and a Gemm."""
    nodes = [
        node("Gather", ["T", "x"], ["rows"], "embed"),
        node("ReduceMean", ["rows"], ["mean"], "pool", axes=[1], keepdims=0),
        node("Tanh", ["mean"], ["t"]),
        node("Gemm", ["t", "W"], ["y"], "head", transB=1),
    ]
    weights = {"T": 4 * table(rank, 1), "W": weight((CLASSES, WIDTH), 2)}
    return build(nodes, [value("x", ["n", 6], TensorProto.INT64)], [value("y", ["n", CLASSES])], weights)


def tokens(count: int, seed: int, most: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, (count, 6))


def lookup(W: np.ndarray, indices: list[onnx.NodeProto], name: str = "i", **attributes: int) -> onnx.ModelProto:
    """A lookup in W of the tensor `name`, which `indices` make of the input x (or of nothing)."""
    nodes = [*indices, node("Gather", ["W", name], ["y"], "embed", **attributes)]
    return build(nodes, [value("x", ["n"], TensorProto.INT64)], [value("y", [ANY] * W.ndim)], {"W": W})


def positions(source: str) -> list[onnx.NodeProto]:
    """Numbers 0 … n − 1, from the input's shape alone or from its values."""
    last = node("Shape", ["x"], ["n1"]) if source == "shape" else node("ReduceMax", ["x"], ["n1"], keepdims=1)
    zero, one = (constant(f"c{i}", np.array(i, np.int64)) for i in (0, 1))
    return [last, zero, one, node("Squeeze", ["n1"], ["n0"]), node("Range", ["c0", "n0", "c1"], ["i"])]


REFUSED = {
    "columns": (
        lambda: lookup(table(None, 1), [], "x", axis=1), "Gather along axis 1: only rows (axis 0) are looked up",
    ),
    "three axes": (lambda: lookup(normal([9, 4, 4], 1), [], "x"), "3-D table: only matrices are factored"),
    "short": (lambda: lookup(normal([8, 9], 1), [], "x"), "a table of 8 rows, fewer than their width 9"),
    "positions": (
        lambda: lookup(table(None, 1), positions("shape")), "all samples look up the same rows (of positions, say)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_table_that_is_left_alone_has_its_reason(name: str):
    make, detail = REFUSED[name]
    found = found_in(make())
    assert found.sites == ()
    assert [(s.why, s.detail) for s in found.skips if s.weight == "W"] == [(Why.EMBEDDING, detail)]


def test_indices_that_depend_on_the_values_are_no_positions():
    assert the_site(lookup(table(None, 1), positions("values")))[1].op == "Gather"


def test_a_table_is_canonical_by_width():
    """So schemes project the outputs; the inputs are as many as there are rows."""
    _, site = the_site(lookup(table(None, 1), [], "x"))
    assert site.shape == (WIDTH, ROWS)


def test_only_the_second_moment_of_the_outputs_is_a_matrix():
    """One-hot inputs are never formed: of A there is the diagonal, how often each row was looked up."""
    model, x = lookup(table(None, 1), [], "x"), np.array([3, 0, -1, 3, 59])
    moments = moments_of(model, [{"x": x[:2]}, {"x": x[2:]}])["y"]
    counts = np.bincount(x % ROWS, minlength=ROWS)
    np.testing.assert_array_equal(moments.A, counts)
    y = run(model, {"x": x})["y"].astype(np.float64)
    np.testing.assert_allclose(moments.C, y.T @ y, rtol=1e-6, atol=1e-9)
    assert (moments.energy, moments.positions, moments.patches) == (5, 5, None)


def test_a_table_of_many_rows_needs_no_matrix_as_wide():
    """(rows, rows) in float64 would be 320 GB."""
    rows = 200_000
    moments = moments_of(lookup(normal([rows, 4], 1), [], "x"), [{"x": np.arange(7)}])["y"]
    assert (moments.A.shape, moments.C.shape, moments.energy) == ((rows,), (4, 4), 7)


def test_a_lookup_multiplies_nothing():
    model = classifier(None)
    seen = observed(model, found_in(model), [{"x": tokens(2, 1)[:1]}])
    assert seen.macs == CLASSES * WIDTH
    cut = factored(model, {"rows": ("svd", 3)})
    assert observed(cut, found_in(cut), [{"x": tokens(2, 1)[:1]}]).macs == CLASSES * WIDTH + 6 * 3 * WIDTH
    assert ops(cut) == ["Gather", "MatMul", "ReduceMean", "Tanh", "Gemm"]


@pytest.mark.parametrize("sensitivity", ["joint", "inputs", "weights"])
def test_optimize_finds_the_rank_of_a_table(sensitivity: str):
    model = classifier(4)
    goal = Compact(gate=Gate(max_drop=1e-4, observed=True))
    chosen = options(metric="relative-l2", sensitivity=sensitivity)
    result = optimize(model, {"x": tokens(150, 3)}, goal, chosen)
    assert result, result.reason
    ranks = {c.weight: c.option.ranks for c in result.plan.factored}
    assert ranks["T"] == (4,)
    x = tokens(20, 9)
    np.testing.assert_allclose(run(result.model, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-3, atol=1e-3)


def test_a_table_that_is_looked_up_twice_is_stored_once():
    nodes = [node("Gather", ["W", "x"], ["one"], "first"), node("Gather", ["W", "z"], ["two"], "second")]
    nodes.append(node("Add", ["one", "two"], ["y"], "add"))
    ends = [value(name, ["n"], TensorProto.INT64) for name in "xz"], [value("y", ["n", WIDTH])]
    model = build(nodes, *ends, {"W": table(None, 1)})
    (site,) = found_in(model).sites
    assert site.sharers == ("one", "two")
    changed = factored(model, {"one": ("svd", WIDTH)})
    assert {t.name: list(t.dims) for t in changed.graph.initializer} == {
        "W.lowrank0": [ROWS, WIDTH],
        "W.lowrank1": [WIDTH, WIDTH],
    }
    feed = {"x": np.array([1, 5]), "z": np.array([7, -1])}
    np.testing.assert_allclose(run(changed, feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-5)


def test_a_goal_in_multiplications_leaves_the_table_alone():
    """A factored lookup multiplies where the table itself did not."""
    model = classifier(4)
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(weight((CLASSES, WIDTH), 2, rank=1), "W"))
    goal = Lossless(target_macs=0.5, gate=Gate(max_drop=1e-4, observed=True))
    result = optimize(model, {"x": tokens(150, 3)}, goal, options(metric="relative-l2"))
    assert result, result.reason
    assert {c.weight for c in result.plan.factored} == {"W"}


def test_refit_takes_the_product_behind_the_lookup():
    model = classifier(None)
    goal = Compact(gate=Gate(max_drop=0.5, observed=True))
    chosen = options(metric="relative-l2", refit=True)
    result = optimize(model, {"x": tokens(150, 3)}, goal, chosen)
    assert result, result.reason
    assert "T" in {c.weight for c in result.plan.factored}


def test_rows_that_no_sample_looks_up_are_kept_by_the_shrinkage():
    """Samples reach ten rows in one direction; the others lie in another one, which must come next, not last."""
    rng = np.random.default_rng(0)
    W = 0.01 * rng.standard_normal((WIDTH, ROWS))
    W[0, :10] += 1.0  # what the samples see
    W[1, 10:] += 1.0  # what they never see
    seen = W[:, :10]
    moments = SideMoments(seen @ seen.T, np.eye(WIDTH) * 10, 10, 10)
    (basis,) = bases(moments, "out", W @ W.T, 2, [1e-2])
    kept = basis.write @ (basis.read.T @ W)
    assert np.linalg.norm(kept - W) < 0.2 * np.linalg.norm(W[:, 10:])


@pytest.mark.parametrize(("most", "said"), [(20, "20 of the 60 rows"), (ROWS, "")])
def test_rows_that_calibration_never_looks_up_are_told(most: int, said: str):
    """Nothing is known of them, so no measurement speaks for them."""
    model = classifier(None)
    found = found_in(model)
    x = np.arange(600).reshape(-1, 6) % most
    notes = inventory_notes(found, [{"x": row[None]} for row in x])
    assert len(notes) == bool(said)
    assert all(f"embed: calibration looks up {said} of its table" in note and "--exclude 'T'" in note for note in notes)
