"""Law: at full rank every scheme at every operator reproduces the original in onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from builders import (
    factored,
    fits,
    fitting,
    found_in,
    full_rank,
    halved,
    linear,
    moments_of,
    plan_of,
    run,
    the_site,
    weight,
)
from hypothesis import given
from hypothesis import strategies as st
from strategies import CASES, MANY_TAPS, Case, made_for

from onnx_lowrank.ops import OPS
from onnx_lowrank.ops.op import Op
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes import SCHEMES, by_name
from onnx_lowrank.types import Site, Stage
from onnx_lowrank.weights.inventory import Inventory

SHAPES = ((8, 8), (8, 8, 1), (8, 8, 3, 3), (8, 8, 12))
"""A matrix, and kernels small and long: an operator without a kernel has the first alone."""
PAIRS = [
    (op.op_type, scheme.name)
    for op in OPS
    for scheme in SCHEMES
    if any(scheme.name in fitting(shape) for shape in (SHAPES[:1] if type(op).patches is Op.patches else SHAPES))
]
"""Every operator × every scheme that can meet it."""


def test_every_operator_and_every_scheme_is_met():
    assert {op for op, _ in PAIRS} == {op.op_type for op in OPS} == set(CASES)
    assert {op.op_type for op in OPS if type(op).patches is not Op.patches} == set(MANY_TAPS)
    for op in MANY_TAPS:
        assert [scheme for other, scheme in PAIRS if other == op] == [scheme.name for scheme in SCHEMES]


def cases(op: str, scheme: str) -> st.SearchStrategy[tuple[Case, Inventory, Site]]:
    """Nodes whose weight the tool finds worth factoring and the scheme is made for."""
    located = made_for(op, scheme).map(lambda case: (case, *_located(case)))
    return located.filter(lambda found: found[2] is not None and scheme in fits(found[2]))


def _located(case: Case) -> tuple[Inventory | None, Site | None]:
    found = found_in(case.model)
    return found, found.sites[0] if found.sites else None


@pytest.mark.parametrize(("op", "scheme"), PAIRS)
def test_full_rank_reproduces_the_original(op: str, scheme: str):
    @given(cases(op, scheme))
    def law(drawn: tuple[Case, Inventory, Site]):
        case, _, site = drawn
        expected = run(case.model, {"x": case.x})["y"]
        got = run(factored(case.model, {site.id: (scheme, full_rank(scheme, site.shape, site.groups))}), {"x": case.x})[
            "y"
        ]
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

    law()


@pytest.mark.parametrize(("op", "scheme"), PAIRS)
def test_full_rank_reproduces_the_original_in_half_precision(op: str, scheme: str):
    """What remains is rounding of the two factors and of what lies between: about two parts in a thousand."""

    @given(cases(op, scheme))
    def law(drawn: tuple[Case, Inventory, Site]):
        case, _, site = drawn
        model, feed = halved(case.model), {"x": case.x.astype(np.float16) if case.x.dtype == np.float32 else case.x}
        expected = run(model, feed)["y"].astype(np.float64)
        changed = factored(model, {site.id: (scheme, full_rank(scheme, site.shape, site.groups))})
        got = run(changed, feed)["y"]
        assert got.dtype == np.float16
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-2 * max(np.abs(expected).max(), 1.0))

    law()


@pytest.mark.parametrize(("op", "scheme"), PAIRS)
def test_full_rank_reproduces_the_original_with_a_basis_fitted_on_too_few_samples(op: str, scheme: str):
    """One sample leaves most directions unseen: they must not be lost at full rank."""

    @given(cases(op, scheme))
    def law(drawn: tuple[Case, Inventory, Site]):
        case, found, site = drawn
        moments = moments_of(case.model, [{"x": case.x}])[site.id]
        if not moments.A.any():
            return  # a window that sees nothing but padding
        rank = full_rank(scheme, site.shape, site.groups)
        made = by_name(scheme).factor(found.weight(site), moments, moments, rank, site.groups)
        factors = {(site.id, scheme): made}
        got = run(rewrite(case.model, found, plan_of({site.id: (scheme, rank)}, found), factors), {"x": case.x})["y"]
        np.testing.assert_allclose(got, run(case.model, {"x": case.x})["y"], rtol=1e-3, atol=1e-4)

    law()


@pytest.mark.parametrize(("op", "scheme"), PAIRS)
def test_less_than_full_rank_does_not_reproduce_it(op: str, scheme: str):
    """The laws above can fail: at half the rank the output is another one."""

    @given(cases(op, scheme))
    def law(drawn: tuple[Case, Inventory, Site]):
        case, _, site = drawn
        rank = tuple(r // 2 for r in full_rank(scheme, site.shape, site.groups))
        if not all(rank):
            return
        expected = run(case.model, {"x": case.x})["y"]
        got = run(factored(case.model, {site.id: (scheme, rank)}), {"x": case.x})["y"]
        if np.abs(expected - case.bias).max(initial=0.0) > 0.5:  # a window may see nothing but padding
            assert not np.allclose(got, expected, rtol=1e-6, atol=1e-7)

    law()


KERNELS = st.lists(st.integers(1, 3), min_size=1, max_size=3) | st.just([10]) | st.just([4, 3])


def whole(stage: Stage) -> np.ndarray:
    """Return a stage's weight as if it had one group."""
    out, columns, *kernel = stage.weight.shape
    full = np.zeros((stage.groups, out // stage.groups, stage.groups, columns, *kernel))
    for group, part in enumerate(np.split(stage.weight.astype(np.float64), stage.groups)):
        full[group, :, group] = part
    return full.reshape(out, stage.groups * columns, *kernel)


@given(st.integers(2, 6), st.integers(2, 6), KERNELS, st.integers(0, 99))
def test_dense_is_the_product_of_the_chain(rows: int, columns: int, kernel: list[int], seed: int):
    """What probing substitutes is what the graph will compute."""
    W = weight((rows, columns, *kernel), seed)
    for scheme in SCHEMES:
        if scheme.name not in fitting(W.shape):
            continue
        ranks = tuple(max(r // 2, 1) for r in full_rank(scheme.name, W.shape))
        factors = scheme.factor(W.astype(np.float64), None, None, ranks)
        product, *rest = (whole(stage) for stage in factors.chain(ranks).stages)
        for last in rest:  # every axis has its kernel in one stage, the others are 1 there
            product = np.einsum("or...,ri...->oi...", last, product)
        assert factors.dense(ranks).shape == W.shape
        np.testing.assert_allclose(factors.dense(ranks), product, rtol=1e-9, atol=1e-12)


def test_the_site_of_a_case_is_the_weight():
    found, site = the_site(linear(weight((6, 5), 0)))
    assert (site.weight, site.shape, site.sharers) == ("W", (5, 6), ("y",))
    assert found.parameters == 30
