"""Law: interpolative factors compute what plain ones do, with rank² numbers fewer, wherever their channels go."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import factored, fitting, full_rank, halved, normal, observed, run, settled_chain
from hypothesis import given
from hypothesis import strategies as st
from test_law_reproduces import PAIRS, cases

from onnx_lowrank.cost import chain_cost
from onnx_lowrank.numerics.interpolative import BOUND, free_rows, run_of_rows
from onnx_lowrank.passes import placement
from onnx_lowrank.schemes import SCHEMES, by_name, form_of, layout_of, ranks_of, stored_sides
from onnx_lowrank.schemes.product import product
from onnx_lowrank.types import Chain, Site, Stage

PLACES = {"neighbours": math.inf, "anywhere": 0.0, "as it comes": placement.RUN_BOUND}
"""Where chosen rows may be: the bound of neighbouring rows that leads there."""
INSIDE = {"LSTM", "GRU", "RNN", "com.microsoft.Attention"}
"""Operators whose outputs are made inside the node: only inputs can be added."""


def below_or_at(site: Site, scheme: str, full: bool) -> tuple[int, ...]:
    """The full rank, or about half of it."""
    return tuple(rank if full else max(rank // 2, 1) for rank in full_rank(scheme, site.shape, site.groups))


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize(("op", "scheme"), PAIRS)
def test_they_compute_what_plain_factors_do(op: str, scheme: str, place: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placement, "RUN_BOUND", PLACES[place])

    @given(cases(op, scheme), st.booleans())
    def law(drawn, full):
        case, found, site = drawn
        rank = below_or_at(site, scheme, full)
        form = form_of(scheme, rank, site)
        changed = factored(case.model, {site.id: (scheme, rank)}, interpolative=True)
        onnx.checker.check_model(changed, full_check=True)
        for side in ("input", "output"):  # before IR 4 factors are listed as inputs, too
            before = {v.name: v for v in getattr(case.model.graph, side) if v.name in {"x", "y"}}
            assert before == {v.name: v for v in getattr(changed.graph, side) if v.name in {"x", "y"}}
        plain = run(factored(case.model, {site.id: (scheme, rank)}), {"x": case.x})["y"]
        got = run(changed, {"x": case.x})["y"]
        assert got.shape == plain.shape
        # neighbouring rows of tiny weights may have any coefficients where no bound is set
        exact = place != "neighbours"
        np.testing.assert_allclose(got, plain, rtol=1e-4 if exact else 1e-2, atol=1e-5 if exact else 1e-2)
        if full and exact:
            np.testing.assert_allclose(got, run(case.model, {"x": case.x})["y"], rtol=1e-4, atol=1e-5)
        positions = observed(case.model, found, [{"x": case.x}]).positions[site.id]
        cost = chain_cost(site, layout_of(form, site), positions)
        stored = [t for t in changed.graph.initializer if t.name.endswith(tuple(f".lowrank{i}" for i in range(3)))]
        assert cost.parameters == sum(math.prod(t.dims) for t in stored)

    law()


@pytest.mark.parametrize(("op", "scheme"), PAIRS)
def test_they_do_in_half_precision(op: str, scheme: str):
    @given(cases(op, scheme))
    def law(drawn):
        case, _, site = drawn
        model, feed = halved(case.model), {"x": case.x.astype(np.float16) if case.x.dtype == np.float32 else case.x}
        changed = factored(model, {site.id: (scheme, below_or_at(site, scheme, True))}, interpolative=True)
        expected, got = run(model, feed)["y"].astype(np.float64), run(changed, feed)["y"]
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-2 * max(np.abs(expected).max(), 1.0))

    law()


@pytest.mark.parametrize(("op", "scheme"), [pair for pair in PAIRS if pair[1] not in ("separable", "channelwise")])
def test_every_operator_and_scheme_with_a_pointwise_stage_has_them(op: str, scheme: str):
    """Not only in law: of enough drawn nodes some are stored without an identity."""

    seen: set[tuple[str, ...]] = set()

    @given(cases(op, scheme))
    def law(drawn):
        _, _, site = drawn
        assert set(site.identity) <= ({"in"} if op in INSIDE else {"out", "in"})
        for ranks in ranks_of(by_name(scheme), site, 1):
            form = form_of(scheme, ranks, site)
            if form.interpolative:
                seen.add(site.identity)
                assert sum(math.prod(shape) for shape, _ in layout_of(form, site)) < site.parameters

    law()
    assert seen


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 12), st.integers(0, 10**6))
def test_coefficients_are_within_the_bound(rank: int, more: int, lost: int, seed: int):
    """Of any factor, singular ones included: [I; C] up to the rows' order times the chosen rows is the factor."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((rank + more, rank)) * np.exp(rng.uniform(-8, 8, rank))
    if lost:
        U = U[:, rng.integers(0, rank, rank)] @ np.diag(rng.integers(0, 2, rank))
    rows = free_rows(U)
    assert rows is not None
    assert rows.largest <= BOUND
    assert len(rows.chosen) == rank
    others = np.setdiff1d(np.arange(len(U)), rows.chosen)
    scale = np.abs(U).max(initial=1e-300)
    np.testing.assert_allclose(rows.coefficients @ U[rows.chosen], U[others], rtol=1e-9, atol=1e-9 * scale)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6), st.sampled_from([1.0, 2.0, 64.0]))
def test_neighbouring_rows_are_neighbours_within_their_bound(rank: int, more: int, seed: int, bound: float):
    U = np.random.default_rng(seed).standard_normal((rank + more, rank))
    rows = run_of_rows(U, bound)
    if rows is None:
        return
    assert rows.largest <= bound
    assert (np.diff(rows.chosen) == 1).all()


def test_neighbouring_rows_that_are_singular_are_none():
    U = np.zeros((6, 2))
    U[[0, 5], [0, 1]] = 1
    assert run_of_rows(U, 1e9) is None
    assert free_rows(U) is not None


@given(st.sampled_from(SCHEMES), st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
def test_the_product_of_the_stored_stages_is_the_weight(scheme, rows: int, columns: int, seed: int):
    shapes = [(rows, columns), (rows, columns, 3), (rows, columns, 3, 3)]
    for shape in (shape for shape in shapes if scheme.name in fitting(shape)):
        W = normal(shape, seed).astype(np.float64)
        ranks = tuple(max(rank - 1, 1) for rank in full_rank(scheme.name, shape))
        chain = scheme.factor(W, None, None, ranks).chain(ranks)
        sides = stored_sides(chain.layout, 1, ("out", "in"))
        stored = settled_chain(chain, ("out", "in"))
        np.testing.assert_allclose(product(stored), product(chain), rtol=1e-5, atol=1e-5)
        ends = [rank for side, rank in (("in", ranks[0]), ("out", ranks[-1])) if side in sides]
        saved = sum(s.weight.size for s in chain.stages) - sum(s.weight.size for s in stored.stages)
        assert saved == sum(rank**2 for rank in ends)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_an_identity_of_every_group(groups: int, rank: int, more: int, out: bool, seed: int):
    """Rows that pass and columns that are added are transposes of each other, block by block."""
    rng = np.random.default_rng(seed)
    chosen = tuple(int(g * (rank + more) + i) for g in range(groups) for i in rng.permutation(rank + more)[:rank])
    shape = (groups * more, rank) if out else (groups * rank, more)
    stage = Stage(rng.standard_normal(shape), groups=groups, **{"passed" if out else "added": chosen})
    assert (stage.rows, stage.columns) == ((rank + more) * groups, rank * groups)[:: 1 if out else -1]
    x = rng.standard_normal(stage.columns)
    blocks = zip(np.split(stage.full, groups), np.split(x, groups), strict=True)
    y = np.concatenate([block @ part for block, part in blocks])
    if out:
        np.testing.assert_allclose(y[list(chosen)], x)
    if groups == 1:
        np.testing.assert_array_equal(stage.transposed.full, stage.full.T)
        assert Chain((stage,)).transposed.stages[0].identity == chosen
    wrong = (*chosen[:-1], 10**6)
    with pytest.raises(ValueError, match="in every group"):
        replace(stage, passed=wrong if out else (), added=() if out else wrong)
