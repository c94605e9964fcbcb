"""Law: a predicted cost is that of the real arrays, and predicted multiply-accumulates are those really done."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx
import pytest
from builders import (
    elements,
    factored,
    fits,
    fitting,
    found_in,
    full_rank,
    ladder,
    linear,
    lowest,
    normal,
    observed,
    run,
    weight,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import CASES, Case, all_cases

from onnx_lowrank.cost import chain_cost, unchanged_cost
from onnx_lowrank.graph.editing import expose
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import SCHEMES, by_name


def brute_macs(model: onnx.ModelProto, x: np.ndarray) -> int:
    """Count from the tensors that onnxruntime gives: output elements × the terms of each."""
    names = [n.output[0] for n in model.graph.node if n.op_type != "Constant" and n.output[0] not in ("", "y")]
    runner = Runner(expose(model, names), runtime=Runtime(provider="cpu", threads=1), optimize=False)
    shapes = {name: array.shape for name, array in runner.run({"x": x}).items()} | {"x": x.shape}
    shapes |= {t.name: tuple(t.dims) for t in model.graph.initializer}
    total = 0
    for each in model.graph.node:
        if each.op_type in ("Constant", "Gather"):
            continue
        flags = {a.name: a.i for a in each.attribute}
        left, right = shapes[each.input[0]], shapes[each.input[1]]
        if each.op_type == "Einsum":  # every element of the output is a sum over the letters that it does not have
            text = each.attribute[0].s.decode().replace("...", "")
            terms, _, out = text.partition("->")
            sizes = {}
            for term, shape in zip(terms.split(","), (left, right), strict=True):
                sizes |= dict(zip(term, shape, strict=True)) if len(term) == len(shape) else {}
            gone = set(terms.replace(",", "")) - set(out or [c for c in terms if terms.count(c) == 1])
            total += math.prod(shapes[each.output[0]]) * math.prod(sizes[c] for c in gone)
            continue
        if each.op_type in ("LSTM", "GRU", "RNN", "Attention"):  # what it does with W x is left out
            total += math.prod(left[:-1]) * math.prod(right)
            continue
        if each.op_type == "ConvTranspose":  # every input times every kernel element
            total += math.prod(left) * math.prod(right[1:])
            continue
        terms = math.prod(right[1:]) if each.op_type == "Conv" else left[0] if flags.get("transA") else left[-1]
        total += math.prod(shapes[each.output[0]]) * terms
    return total


@pytest.mark.parametrize("op", sorted(CASES))
def test_cost_is_that_of_the_real_arrays(op: str):
    @given(all_cases(op), st.integers(0, 2**31))
    def law(case: Case, pick: int):
        found = found_in(case.model)
        assume(found.sites)
        (site,) = found.sites
        positions = observed(case.model, found, [{"x": case.x}]).positions[site.id]
        dense = unchanged_cost(site, positions)
        assert dense.parameters == math.prod(site.shape)
        assert dense.bytes == 4 * dense.parameters
        assert dense.macs == brute_macs(case.model, case.x)
        assert observed(case.model, found, [{"x": case.x}]).macs == pytest.approx(dense.macs + case.other, rel=1e-12)
        for name in fits(site):
            rank = tuple(1 + pick % r for r in full_rank(name, site.shape, site.groups))
            cost = chain_cost(site, by_name(name).layout(site.shape, rank, site.groups), positions)
            changed = factored(case.model, {site.id: (name, rank)})
            stored = [t for t in changed.graph.initializer if ".lowrank" in t.name and ".zero" not in t.name]
            assert cost.parameters == sum(math.prod(t.dims) for t in stored)
            assert cost.bytes == sum(len(t.raw_data) for t in stored)
            assert cost.macs == brute_macs(changed, case.x)
            spare = elements(changed) - (elements(case.model) - dense.parameters + cost.parameters)
            assert spare == (1 if op == "Gemm" and case.model.opset_import[0].version < 11 else 0)  # a zero bias

    law()


KERNELS = st.lists(st.integers(1, 3), max_size=2) | st.just([11]) | st.just([4, 4])


@given(st.tuples(st.integers(1, 12), st.integers(1, 12)), KERNELS, st.integers(1, 4))
def test_offered_ranks_save_and_are_all_that_save(ends: tuple[int, int], kernel: list[int], multiple: int):
    shape = (*ends, *kernel)
    for scheme in SCHEMES:
        offered = scheme.ranks(shape, multiple)
        if scheme.name not in fitting(shape):
            assert not offered
            continue
        every = itertools.product(*(range(1, r + 1) for r in full_rank(scheme.name, shape)))
        cost = {r: sum(math.prod(s) for s, _ in scheme.layout(shape, r)) for r in every}
        whole = (shape[1], shape[0])  # to keep all channels of a side as they are is another scheme's option
        width = scheme.layout(shape, lowest(scheme.name, shape))[0][0][0]  # of rank 1: one of every block
        step = -(-multiple // width)
        saving = [
            r for r in cost
            if all(k % step == 0 for k in r) and cost[r] < math.prod(shape)
            and (len(r) == 1 or all(k < width for k, width in zip(r, whole, strict=True)))
        ]  # fmt: skip
        assert offered == saving


@pytest.mark.parametrize(("shape", "ranks"), [((2, 2), []), ((4, 4), [1]), ((3, 6), [1]), ((4, 2, 2), [1])])
def test_a_rank_that_only_breaks_even_is_not_offered(shape: tuple[int, ...], ranks: list[int]):
    (name, *_) = fitting(shape)
    assert [r for (r,) in by_name(name).ranks(shape, 1)] == ranks


@given(st.tuples(st.integers(2, 6), st.integers(2, 6)), KERNELS, st.integers(0, 99))
def test_layout_is_that_of_the_chain(ends: tuple[int, int], kernel: list[int], seed: int):
    shape = (*ends, *kernel)
    W = np.random.default_rng(seed).standard_normal(shape)
    for name in fitting(shape):
        for rank in ladder(name, shape):
            chain = by_name(name).factor(W, None, None, rank).chain(rank)
            assert chain.layout == by_name(name).layout(shape, rank)
            assert all(stage.weight.dtype == np.float32 for stage in chain.stages)


def test_brute_force_counts_what_it_should():
    assert brute_macs(linear(weight((6, 5), 0)), normal([3, 6], 1)) == 3 * 6 * 5
    assert run(linear(weight((6, 5), 0)), {"x": normal([3, 6], 1)})["y"].shape == (3, 5)
