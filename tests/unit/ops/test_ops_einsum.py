"""Einsum: which equations are a matrix product, what the chain's are, and the whole way through optimize."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import ANY, build, factored, found_in, node, normal, options, run, the_site, value, weight

from onnx_lowrank.goals import Compact, Gate
from onnx_lowrank.ops import Einsum
from onnx_lowrank.pipeline import optimize
from onnx_lowrank.types import Why


def one(equation: str, x: list[int], W: tuple[int, ...], axes: int) -> onnx.ModelProto:
    nodes = [node("Einsum", ["x", "W"], ["y"], "e", equation=equation)]
    return build(nodes, [value("x", x)], [value("y", [ANY] * axes)], {"W": weight(W, 1)})


REFUSED = {
    "ij,ij->ij": ([8, 8], (8, 8), 2, "it has a matrix of its own for every index that both share"),
    "bij,bjk->bik": ([4, 8, 8], (4, 8, 8), 3, "it has a matrix of its own for every index that both share"),
    "ii,ij->j": ([8, 8], (8, 8), 1, "a letter stands twice"),
    "ij,kl->ijkl": ([8, 8], (8, 8), 4, "nothing is multiplied and summed"),
    "ij,ij->": ([8, 8], (8, 8), 0, "nothing is multiplied and summed"),
    "ij,jkl->ik": ([8, 8], (8, 8, 8), 2, "one operand alone is summed over"),
    "ij,jk->k": ([8, 8], (8, 8), 1, "one operand alone is summed over"),
    "ij,...j->...i": ([8, 8], (8, 8), 2, "the weight's axes are not all named"),
}


@pytest.mark.parametrize("equation", sorted(REFUSED))
def test_an_equation_that_is_no_matrix_product_has_its_reason(equation: str):
    x, W, axes, reason = REFUSED[equation]
    found = found_in(one(equation, x, W, axes))
    assert found.sites == ()
    assert [(s.why, s.detail) for s in found.skips] == [(Why.OPERATOR, f"Einsum: {reason}")]


def test_three_operands_are_left_alone():
    model = one("ij,jk->ik", [8, 8], (8, 8), 2)
    model.graph.node[0].input.append("x")
    model.graph.node[0].attribute[0].s = b"ij,jk,kl->il"
    assert [s.detail for s in found_in(model).skips] == ["Einsum: not two operands"]


def test_the_chain_is_said_with_a_new_letter():
    """The projection to attention heads as Keras writes it."""
    model = one("abc,cde->abde", [2, 3, 8], (8, 4, 6), 4)
    _, site = the_site(model)
    assert site.shape == (24, 8)
    changed = factored(model, {"y": ("svd", 5)})
    onnx.checker.check_model(changed, full_check=True)
    assert [n.attribute[0].s.decode() for n in changed.graph.node] == ["abc,fc->abf", "abf,def->abde"]
    assert {t.name: list(t.dims) for t in changed.graph.initializer} == {"W.lowrank0": [5, 8], "W.lowrank1": [4, 6, 5]}


def test_the_weight_stays_on_its_side():
    model = one("abc,cde->abde", [2, 3, 8], (8, 4, 6), 4)
    model.graph.node[0].input[:] = ["W", "x"]
    model.graph.node[0].attribute[0].s = b"cde,abc->abde"
    changed = factored(model, {"y": ("svd", 5)})
    assert [n.attribute[0].s.decode() for n in changed.graph.node] == ["fc,abc->abf", "def,abf->abde"]


@pytest.mark.parametrize(
    ("equation", "left", "right", "macs"),
    [
        ("ij,jk->ik", (2, 3), (3, 5), 30),
        ("b...d,kd->b...k", (2, 7, 1, 3), (5, 3), 210),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5), 120),
        (b"ij, jk", (2, 3), (3, 5), 30),
    ],
)
def test_multiplications_are_the_product_of_all_extents(
    equation: str | bytes, left: tuple[int, ...], right: tuple[int, ...], macs: int
):
    made = node("Einsum", ["a", "b"], ["c"], "e", equation=equation)
    assert Einsum().counts(made)
    assert Einsum().macs(made, left, right, ()) == macs


def attention_like(rank: int) -> onnx.ModelProto:
    """(n, 4, 12) -> heads (n, 4, 3, 6), Tanh -> (n, 4, 10), both by Einsum."""
    nodes = [
        node("Einsum", ["x", "Q"], ["q"], "to_heads", equation="abc,cde->abde"),
        node("Tanh", ["q"], ["t"]),
        node("Einsum", ["t", "O"], ["y"], "from_heads", equation="abcd,cde->abe"),
    ]
    Q = np.ascontiguousarray(2 * weight((18, 12), 1, rank=rank).T.reshape(12, 3, 6))
    O = np.ascontiguousarray(weight((10, 18), 2, rank=rank + 1).T.reshape(3, 6, 10))  # noqa: E741
    return build(nodes, [value("x", ["n", 4, 12])], [value("y", ["n", 4, 10])], {"Q": Q, "O": O})


@pytest.mark.parametrize("switches", [{}, {"sensitivity": "inputs"}, {"refit": True}])
def test_optimize_finds_the_rank(switches: dict[str, object]):
    model, x = attention_like(3), normal([80, 4, 12], 1)
    goal = Compact(gate=Gate(max_drop=1e-4, observed=True))
    result = optimize(model, {"x": x}, goal, options(metric="relative-l2", **switches))
    assert result, result.reason
    assert {c.weight: c.option.ranks for c in result.plan.factored} == {"Q": (3,), "O": (4,)}
    np.testing.assert_allclose(run(result.model, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-2, atol=1e-3)
