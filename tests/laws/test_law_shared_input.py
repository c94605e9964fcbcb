"""Laws of siblings: one first factor for all of them reproduces the original at full rank, and is counted once."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from builders import ANY, build, elements, found_in, halved, node, normal, run, value, weight
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.cost import chain_cost
from onnx_lowrank.errors import PlanError
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes import factor_shared, shared_form, shared_layout, shared_ranks
from onnx_lowrank.schemes.interpolative import WORTH
from onnx_lowrank.types import SHARED, Array, Choice, Cost, Form, Moments, Option, Plan, Positions, SharedInput
from onnx_lowrank.weights.inventory import Inventory


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Nodes that read x; outputs y0, y1, … are what they make of it."""

    model: onnx.ModelProto
    x: Array

    def __repr__(self) -> str:
        return f"Kin({[(n.op_type, list(n.input)) for n in self.model.graph.node]}, x={self.x.shape})"


@st.composite
def matmuls(draw: st.DrawFn) -> Case:
    """x W_i or W_i x, behind a Relu, with other nodes between the siblings."""
    inner, outs, seed = draw(st.integers(2, 7)), draw(st.lists(st.integers(3, 9), min_size=2, max_size=4)), draw(SEEDS)
    right, lead = draw(st.booleans()), draw(st.lists(st.integers(1, 3), max_size=2))
    rows = draw(st.integers(1, 4))
    x = normal([*lead, rows, inner] if right else [*lead, inner, rows], seed)
    nodes, weights = [node("Tanh", ["x"], ["t"])], {}
    for index in draw(st.permutations(range(len(outs)))):
        W = weight((outs[index], inner), seed + 1 + index)
        weights[f"W{index}"] = np.ascontiguousarray(W.T) if right else W
        inputs = ["t", f"W{index}"] if right else [f"W{index}", "t"]
        nodes += [node("MatMul", inputs, [f"h{index}"], f"op{index}"), node("Sigmoid", [f"h{index}"], [f"y{index}"])]
    outputs = [value(f"y{i}", [ANY] * x.ndim) for i in range(len(outs))]
    return Case(build(nodes, [value("x", x.shape)], outputs, weights), x)


@st.composite
def gemms(draw: st.DrawFn) -> Case:
    """All flags that siblings agree in, α and β of their own, with and without bias, old and new opsets."""
    inner, outs, seed = draw(st.integers(2, 7)), draw(st.lists(st.integers(3, 9), min_size=2, max_size=3)), draw(SEEDS)
    trans_x, trans_w, as_b = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    opset, rows = draw(st.sampled_from([9, 13])), draw(st.integers(1, 4))
    x = normal([rows, inner], seed)
    given_x = x.T if trans_x == as_b else x
    nodes, weights = [], {}
    for index, out in enumerate(outs):
        W = weight((out, inner), seed + 1 + index)
        weights[f"W{index}"] = np.ascontiguousarray(W if trans_w == as_b else W.T)
        inputs = ["x", f"W{index}"] if as_b else [f"W{index}", "x"]
        attributes = {"transA": int(trans_x if as_b else trans_w), "transB": int(trans_w if as_b else trans_x)}
        for name in ("alpha", "beta"):
            if draw(st.booleans()):
                attributes[name] = draw(st.sampled_from([0.5, 2.0]))
        if opset < 11 or draw(st.booleans()):
            weights[f"c{index}"] = normal([rows, out] if as_b else [out, rows], seed + 50 + index)
            inputs.append(f"c{index}")
        nodes.append(node("Gemm", inputs, [f"y{index}"], f"op{index}", **attributes))
    outputs = [value(f"y{i}", [ANY, ANY]) for i in range(len(outs))]
    model = build(nodes, [value("x", given_x.shape)], outputs, weights, opset=opset)
    return Case(model, np.ascontiguousarray(given_x))


SEEDS = st.integers(0, 10**6)
MODELS = {"MatMul": matmuls, "Gemm": gemms}


def together(
    case: Case, *, rank: int | None = None, interpolative: bool = False
) -> tuple[onnx.ModelProto, Inventory, SharedInput] | None:
    """Return the model with one first factor for all, at full rank or another; None where there is no family.

    interpolative: the shared factor without its identity, where the operators can do it.
    """
    found = found_in(case.model)
    if not found.shared_inputs:
        return None
    (shared,) = found.shared_inputs
    sites = {site.id: site for site in found.sites}
    most = min(sum(shared.outs), shared.inner) if rank is None else rank
    pairs = factor_shared([found.weight(sites[m]) for m in shared.members], None, None, (most,))
    form = shared_form(shared, (most,)) if interpolative else Form(SHARED, (most,))
    option = Option(form, Cost(), shared_input=shared.members)
    plan = Plan(tuple(Choice(m, sites[m].weight, option) for m in shared.members))
    factors = {(m, SHARED): pair for m, pair in zip(shared.members, pairs, strict=True)}
    return rewrite(case.model, found, plan, factors), found, shared


def may_be_left_out(shared: SharedInput, rank: int) -> bool:
    """Whether the operators can do without the identity, and it is worth its nodes: of all factors together."""
    return "in" in shared.identity and rank**2 >= WORTH * rank * (shared.inner + sum(shared.outs))


def cases_of(op: str) -> st.SearchStrategy[Case]:
    return MODELS[op]().filter(lambda case: bool(found_in(case.model).shared_inputs))


@pytest.mark.parametrize("op", MODELS)
def test_full_rank_reproduces_the_original(op: str):
    @given(cases_of(op), st.booleans())
    def law(case: Case, interpolative: bool):
        changed, _, shared = together(case, interpolative=interpolative)
        onnx.checker.check_model(changed, full_check=True)
        first = [t.name for t in changed.graph.initializer if t.name.endswith(".shared")]
        assert len(first) == 1, "one first factor"
        assert sum(first[0] in n.input for n in changed.graph.node) == 1, "computed once"
        assert len([n for n in changed.graph.node if n.op_type == op]) == len(shared.members) + 1
        expected, got = run(case.model, {"x": case.x}), run(changed, {"x": case.x})
        for name, array in expected.items():
            assert got[name].shape == array.shape
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)

    law()


@pytest.mark.parametrize("op", MODELS)
def test_full_rank_reproduces_the_original_in_half_precision(op: str):
    """What remains is rounding of the factors and of what lies between: about two parts in a thousand."""

    @given(cases_of(op), st.booleans())
    def law(case: Case, interpolative: bool):
        half = dataclasses.replace(case, model=halved(case.model), x=case.x.astype(np.float16))
        changed, _, _ = together(half, interpolative=interpolative)
        numbers = [t for t in changed.graph.initializer if t.data_type != onnx.TensorProto.INT64]
        assert {t.data_type for t in numbers} == {onnx.TensorProto.FLOAT16}
        expected, got = run(half.model, {"x": half.x}), run(changed, {"x": half.x})
        for name, array in expected.items():
            scale = max(float(np.abs(array).max()), 1.0)
            np.testing.assert_allclose(got[name].astype(float), array.astype(float), rtol=1e-2, atol=1e-2 * scale)

    law()


@pytest.mark.parametrize("op", MODELS)
def test_without_its_identity_the_shared_factor_gives_the_same(op: str):
    """At every rank: the columns that are added are chosen for all, and every member's own factor goes with them."""
    seen = set()

    @given(cases_of(op), st.integers(1, 9))
    def law(case: Case, rank: int):
        (shared,) = found_in(case.model).shared_inputs
        rank = min(rank, shared.inner, sum(shared.outs))
        plain, interpolative = (together(case, rank=rank, interpolative=kind)[0] for kind in (False, True))
        onnx.checker.check_model(interpolative, full_check=True)
        without = rank < shared.inner and may_be_left_out(shared, rank)
        seen.add(without)
        assert elements(plain) - elements(interpolative) == (rank**2 if without else 0)
        added = [n for n in interpolative.graph.node if n.op_type == "Add"]
        assert len(added) == without, "in the shared factor alone, once"
        (first,) = (t.name for t in interpolative.graph.initializer if t.name.endswith(".shared"))
        assert sum(first in n.input for n in interpolative.graph.node) == 1, "computed once"
        expected, got = run(plain, {"x": case.x}), run(interpolative, {"x": case.x})
        for name, array in expected.items():
            assert got[name].shape == array.shape
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)

    law()
    assert seen == {True, False}


@pytest.mark.parametrize("op", MODELS)
def test_less_than_full_rank_does_not_reproduce_it(op: str):
    @given(cases_of(op))
    def law(case: Case):
        changed, _, _ = together(case, rank=1)
        expected, got = run(case.model, {"x": case.x}), run(changed, {"x": case.x})
        moved = [not np.allclose(got[n], a, rtol=1e-6, atol=1e-7) for n, a in expected.items() if np.abs(a).max() > 0.5]
        assert all(moved) or case.x.size == case.x.shape[-1], "one vector is kept by one direction"

    law()


@pytest.mark.parametrize("op", MODELS)
def test_the_cost_is_what_the_file_holds_the_shared_factor_once(op: str):
    @given(cases_of(op), st.integers(1, 3))
    def law(case: Case, rank: int):
        found = found_in(case.model)
        (shared,) = found.shared_inputs
        ranks = shared_ranks(shared, 1)
        chosen = ranks[min(rank, len(ranks)) - 1]
        changed, _, _ = together(case, rank=chosen[0], interpolative=True)
        sites = {site.id: site for site in found.sites}
        costs = [chain_cost(sites[m], shared_layout(shared, m, chosen), [Positions(2.0)]) for m in shared.members]
        total = sum(costs, Cost())
        factors = [t for t in changed.graph.initializer if t.name.endswith((".shared", ".lowrank1"))]
        stored = sum(np.prod(t.dims) for t in factors)
        without = (
            chosen[0] if may_be_left_out(shared, *chosen) else 0
        )  # columns of the shared factor that are not stored
        assert total.parameters == stored == chosen[0] * (shared.inner - without + sum(shared.outs))
        assert total.bytes == 4 * stored
        assert total.macs == 2.0 * stored
        assert total.parameters < sum(shared.outs) * shared.inner, "only ranks that save are offered"
        if "in" in shared.identity:
            assert ranks == [(r,) for r in range(1, min(shared.inner, sum(shared.outs)))], "all below the full one do"

    law()


@given(cases_of("MatMul"), SEEDS, st.booleans())
def test_errors_are_those_of_the_outputs_and_never_rise_with_the_rank(case: Case, seed: int, whiten: bool):
    found = found_in(case.model)
    (shared,) = found.shared_inputs
    sites = {site.id: site for site in found.sites}
    weights = [found.weight(sites[m]) for m in shared.members]
    x = np.random.default_rng(seed).standard_normal((20, shared.inner))
    moments = Moments(A=x.T @ x, positions=20, samples=20)
    most = min(shared.inner, sum(shared.outs))
    for W, pair in zip(weights, factor_shared(weights, moments if whiten else None, moments, (most,)), strict=True):
        for rank in range(1, most + 1):
            lost = ((x @ (W - pair.dense((rank,))).T) ** 2).sum() / ((x @ W.T) ** 2).sum()
            assert pair.error((rank,)) >= min(lost, 1.0) - 1e-6
            assert pair.error((rank,)) <= pair.error((rank - 1,)) + 1e-12
        assert pair.error((most,)) == pytest.approx(0.0, abs=1e-6)


def test_siblings_are_not_torn_apart():
    case = Case(_pair(), normal([2, 6], 3))
    found = found_in(case.model)
    (shared,) = found.shared_inputs
    option = Option(Form(SHARED, (2,)), Cost(), shared_input=shared.members)
    pairs = factor_shared([found.weight(site) for site in found.sites], None, None, (2,))
    factors = {(m, SHARED): pair for m, pair in zip(shared.members, pairs, strict=True)}
    alone = Plan((Choice("y0", "W0", option),))
    with pytest.raises(PlanError, match="'W0', 'y1', which cannot share one"):
        rewrite(case.model, found, alone, factors)
    turned = Option(Form(SHARED, (2,)), Cost(), shared_input=shared.members[::-1])
    with pytest.raises(PlanError, match="cannot share one"):
        rewrite(case.model, found, Plan((Choice("y0", "W0", turned), Choice("y1", "W1", turned))), factors)


def _pair() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", f"W{i}"], [f"y{i}"], f"op{i}") for i in range(2)]
    weights = {f"W{i}": np.ascontiguousarray(weight((8, 6), i).T) for i in range(2)}
    return build(nodes, [value("x", [2, 6])], [value(f"y{i}", [2, 8]) for i in range(2)], weights)
