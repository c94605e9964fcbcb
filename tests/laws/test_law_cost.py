"""Law: a predicted cost is that of the real arrays, and predicted multiply-accumulates are those really done."""

from __future__ import annotations

import itertools
import math
import re

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
from onnx_lowrank.schemes import SCHEMES, Scheme, by_name, form_of, layout_of, ranks_of
from onnx_lowrank.schemes.interpolative import WORTH
from onnx_lowrank.types import Cost, Form, Ranks, SideName, Site

MOVES = {"Constant", "Gather", "Concat", "Split", "Identity", "Reshape", "Add", "Mul"}
"""Nodes that multiply no matrix: those that put pieces together, and what is added to W x or scales it."""


def brute_macs(model: onnx.ModelProto, x: np.ndarray) -> int:
    """Count from the tensors that onnxruntime gives: output elements × the terms of each."""
    names = [o for n in model.graph.node if n.op_type != "Constant" for o in n.output if o not in ("", "y")]
    runner = Runner(expose(model, names), runtime=Runtime(provider="cpu", threads=1), optimize=False)
    shapes = {name: array.shape for name, array in runner.run({"x": x}).items()} | {"x": x.shape}
    shapes |= {t.name: tuple(t.dims) for t in model.graph.initializer}
    total = 0
    for each in model.graph.node:
        if each.op_type in MOVES:
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
            plain = by_name(name).layout(site.shape, rank, site.groups)
            check_cost(case, site, Form(name, rank), chain_cost(site, plain, positions))
            form = form_of(name, rank, site)
            check_cost(case, site, form, chain_cost(site, layout_of(form, site), positions))

    law()


def check_cost(case: Case, site: Site, form: Form, cost: Cost) -> None:
    """Assert that what is written in this form is what it is said to cost, and what is added besides."""
    changed = factored(case.model, {site.id: (form.scheme, form.ranks)}, interpolative=form.interpolative)
    stored = [t for t in changed.graph.initializer if re.search(r"\.lowrank\d$", t.name)]
    assert cost.parameters == sum(math.prod(t.dims) for t in stored)
    assert cost.bytes == sum(len(t.raw_data) for t in stored)
    assert cost.macs == brute_macs(changed, case.x)
    before = {t.name for t in case.model.graph.initializer}
    more = [t for t in changed.graph.initializer if t.name not in before and t not in stored]
    whole = [t for t in more if t.data_type == onnx.TensorProto.INT64]  # orders and sizes of pieces: no parameters
    biases = [t for t in more if t.name.endswith(".bias")]  # of the last two stages, where there was one
    numbers = [t for t in more if t not in whole and t not in biases]
    assert sum(math.prod(t.dims) for t in biases) in (0, site.shape[0])
    assert all(t.name.endswith((".zero", ".factor")) and math.prod(t.dims) == 1 for t in numbers), "of a Gemm"
    if not form.interpolative:
        old = site.op == "Gemm" and case.model.opset_import[0].version < 11
        assert (len(whole), len(biases), len(numbers)) == (0, 0, int(old)), "but for a zero bias nothing is added"
    rest = elements(changed) - cost.parameters - sum(math.prod(t.dims) for t in (*numbers, *biases))
    assert rest == (0 if biases else elements(case.model) - site.parameters), "a bias that is folded is gone"


KERNELS = st.lists(st.integers(1, 3), max_size=2) | st.just([11]) | st.just([4, 4])


ABLE = st.sampled_from([(), ("out",), ("in",), ("out", "in")])


def site_of(shape: tuple[int, ...], able: tuple[SideName, ...], groups: int = 1) -> Site:
    return Site("y", "op", "Conv", "W", shape, ("y",), groups=groups, identity=able)


def ranks_by_scheme(shape: tuple[int, ...], groups: int = 1) -> dict[str, list[Ranks]]:
    """Return every scheme's ranks, the full ones among them."""
    full = {name: full_rank(name, shape, groups) for name in fitting(shape, groups)}
    return {name: list(itertools.product(*(range(1, r + 1) for r in most))) for name, most in full.items()}


def stored(scheme: Scheme, shape: tuple[int, ...], ranks: Ranks, able: tuple[SideName, ...], groups: int) -> int:
    """Count the numbers of a chain without its identities: of every cut between stages one, of pointwise stages."""
    layout = scheme.layout(shape, ranks, groups)
    whole = sum(math.prod(stage) for stage, _ in layout)
    (first, first_owns), (last, last_owns) = layout[0], layout[-1]
    inner = {"in": math.prod(first) + math.prod(layout[1][0]), "out": math.prod(layout[-2][0]) + math.prod(last)}
    gains = {}
    if not first_owns and first[0] < groups * first[1]:
        gains["in"] = groups * (first[0] // groups) ** 2
    if not last_owns and last[0] > groups * last[1]:
        gains["out"] = groups * last[1] ** 2
    kept = scheme.name != "channelwise"  # whose stages are grouped differently; little is not worth its nodes
    gains = {side: gain for side, gain in gains.items() if side in able and kept and gain >= WORTH * inner[side]}
    return whole - (max(gains.values(), default=0) if len(layout) == 2 else sum(gains.values()))


@given(st.tuples(st.integers(1, 12), st.integers(1, 12)), KERNELS, st.integers(1, 4), st.integers(1, 3), ABLE)
def test_offered_ranks_save_and_are_all_that_save(
    ends: tuple[int, int], kernel: list[int], multiple: int, groups: int, able: tuple[SideName, ...]
):
    """All below the full one where an identity need not be stored, those up to the break-even rank where it must."""
    shape = (groups * ends[0], ends[1], *kernel)
    site, every = site_of(shape, able, groups), ranks_by_scheme(shape, groups)
    for scheme in SCHEMES:
        possible, offered = scheme.ranks(shape, multiple, groups), ranks_of(scheme, site, multiple)
        if scheme.name not in every:
            assert not possible
            assert not offered
            continue
        whole = (shape[1], shape[0])  # to keep all channels of a side as they are is another scheme's option
        width = scheme.layout(shape, lowest(scheme.name, shape, groups), groups)[0][0][0]  # of rank 1: of every block
        step, full = -(-multiple // width), full_rank(scheme.name, shape, groups)
        below = [
            r for r in every[scheme.name]
            if all(k % step == 0 for k in r)
            and (r[0] < full[0] if len(r) == 1 else all(k < width for k, width in zip(r, whole, strict=True)))
        ]  # fmt: skip
        assert possible == below
        saving = [r for r in below if stored(scheme, shape, r, able, groups) < math.prod(shape)]
        assert offered == saving
        if any(form_of(scheme.name, r, site).interpolative for r in below) and len(full) == 1:
            assert offered == below, "every rank below the full one saves"


@pytest.mark.parametrize(
    ("shape", "plain", "interpolative"),
    [((2, 2), [], [1]), ((4, 4), [1], [1, 2, 3]), ((3, 6), [1], [1, 2]), ((4, 2, 2), [1], [1, 2, 3])],
)
def test_a_rank_that_only_breaks_even_is_not_offered(
    shape: tuple[int, ...], plain: list[int], interpolative: list[int]
):
    """A plain pair of 4×4 does at rank 2; without its identity only at the full rank."""
    (name, *_) = fitting(shape)
    for able, ranks in (((), plain), (("out",), interpolative), (("out", "in"), interpolative)):
        assert [r for (r,) in ranks_of(by_name(name), site_of(shape, able), 1)] == ranks


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
