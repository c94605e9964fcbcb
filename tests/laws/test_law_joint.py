"""Laws of gradient sources: for every geometry, what is projected is exactly the loss's change along a truncation.

The models are of one node, so the loss ⟨g, y⟩ is linear in the weight: Σ_{i ≥ k} v_i = −⟨Γ, W_k − W⟩ must be what
onnxruntime gives when W_k is really substituted, whatever the strides, pads, flags, biases and α, β.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from builders import build, constant, fits, found_in, full_rank, node, normal, options, run, value, weight
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from strategies import CASES, Case, all_cases

from onnx_lowrank.collection import overridable
from onnx_lowrank.collection.chain_components import ChainSessions
from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.gradient_source import GradientSource
from onnx_lowrank.collection.responses import SiteResponses
from onnx_lowrank.gradient import observed_ranks
from onnx_lowrank.numerics.gram import weight_gram
from onnx_lowrank.numerics.kronecker_metric import SideMoments, bases, project, tails, trace
from onnx_lowrank.ops import OPS
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import SCHEMES, ChainScheme, FittedSide
from onnx_lowrank.sensitivity.substitution import arriving, stored_weight, substitution
from onnx_lowrank.types import Cost, Form, Option, Site

SEEDS = st.integers(0, 10**6)


def source_of(
    model: onnx.ModelProto, feed: dict[str, np.ndarray], seeded: list[str], *, ends: bool = False
) -> GradientSource:
    found = found_in(model)
    shapes = observed_ranks(model, feed, runtime=Runtime(provider="cpu", threads=1))
    return GradientSource(model, found, found.sites, seeded, shapes, options().runtime, ends=ends)


def blocks(moments: np.ndarray, groups: int) -> np.ndarray:
    """Return (groups, d, d), the diagonal blocks; (d, d) of one group."""
    parts = [part[:, g * len(part) : (g + 1) * len(part)] for g, part in enumerate(np.split(moments, groups))]
    return parts[0] if groups == 1 else np.stack(parts)


def check(model: onnx.ModelProto, x: np.ndarray, seeded: list[str], seed: int) -> None:
    """Compare both sides of the only site with its substitution, at every rank."""
    feed = {"x": x}
    source = source_of(model, feed, seeded)
    (site,) = source.sites
    outputs = run(model, feed)
    g = {name: normal(outputs[name].shape, seed + i) for i, name in enumerate(seeded)}
    (batch,) = source.run([feed], [0], lambda values, samples, numbers: g, batch=1, separate=False)
    found = source.tensors.inventory
    runner = Runner(overridable(model, [site.weight]), runtime=Runtime(provider="cpu", threads=1))
    W = found.weight(site)

    def loss(weights: np.ndarray | None) -> float:
        got = runner.run(feed if weights is None else {**feed, site.weight: weights})
        return sum(float(np.vdot(g[n].astype(float), got[n].astype(float))) for n in seeded)

    for scheme in (s for s in SCHEMES if s.name in fits(site)):
        if isinstance(scheme, ChainScheme) and scheme.ranks(site.shape, 1, site.groups):
            check_chain(scheme, batch, site, W, loss)
        if not scheme.ranks(site.shape, 1, site.groups) or len(scheme.sides(site.shape, site.groups)) != 1:
            continue
        (side,) = scheme.sides(site.shape, site.groups)
        pairs = list(batch.vectors(site, side))
        assert len(pairs) == len(found.calls[site.id])
        Z, E = (blocks(sum(pair[i].T.astype(float) @ pair[i] for pair in pairs), site.groups) for i in range(2))
        if not (trace(Z) > 1e-6 and trace(E) > 1e-6):  # a kernel that sees nothing but padding
            continue
        gram = weight_gram(W, side, site.groups)
        rank = min(gram.shape[-1], W.size // site.groups // gram.shape[-1])
        assert (rank,) == full_rank(scheme.name, site.shape, site.groups)
        (basis,) = bases(SideMoments(Z, E, len(pairs[0][0]), 1), side, gram, rank, [1e-2])
        factors = scheme.cut(W, {side: FittedSide(basis, np.zeros(rank + 1))}, (rank,), site.groups)
        np.testing.assert_allclose(factors.dense((rank,)), W, rtol=0, atol=1e-4)
        v = np.sum([project(basis, z, e, 1) for z, e in pairs], axis=0)
        scale = np.abs(v).sum() + 1e-3
        got = tails(v, range(1, rank + 1))[0]
        expected = [
            loss(None) - loss(stored_weight(found, site, factors, Option(Form(scheme.name, (k,)), Cost())))
            for k in range(1, rank + 1)
        ]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * scale)


def check_change(model: onnx.ModelProto, x: np.ndarray, seeded: list[str], seed: int) -> None:
    """Compare what any change does by the calls' ends with its substitution."""
    feed = {"x": x}
    source = source_of(model, feed, seeded, ends=True)
    (site,) = source.sites
    outputs = run(model, feed)
    g = {name: normal(outputs[name].shape, seed + i) for i, name in enumerate(seeded)}
    (batch,) = source.run([feed], [0], lambda values, samples, numbers: g, batch=1, separate=False)
    found = source.tensors.inventory
    change = normal(site.shape, seed + 7)
    response = SiteResponses(site, found.calls[site.id], [change, 2 * change], options().runtime).of(batch)
    runner = Runner(overridable(model, found.sources[site.id].entries), runtime=Runtime(provider="cpu", threads=1))
    moved = substitution(found, site, arriving(found, site, found.weight(site) + change))
    before, after = runner.run(feed), runner.run({**feed, **moved})
    parts = [np.vdot(g[n].astype(float), after[n].astype(float) - before[n].astype(float)) for n in seeded]
    scale = sum(float(np.abs(g[n] * after[n]).sum()) for n in seeded) + 1e-3
    got = response * np.sqrt(batch.samples / batch.units)
    np.testing.assert_allclose(got, [[-sum(parts), -2 * sum(parts)]], rtol=0, atol=1e-5 * scale)


def check_chain(
    scheme: ChainScheme, batch: GradientBatch, site: Site, W: np.ndarray, loss: Callable[..., float]
) -> None:
    """Compare what every component does to the loss with its substitution, at every rank."""
    full = full_rank(scheme.name, site.shape)
    factors = scheme.chained(W, None, None, full)
    np.testing.assert_allclose(factors.dense(full), W, rtol=0, atol=1e-4)
    key, ends = (scheme.name, 0), batch.ends(site)
    sessions = ChainSessions(batch.tensors.inventory, options().runtime)
    v = sessions.components(site, lambda: factors.chain(full), key, ends).sum(0, keepdims=True)
    got = tails(v, range(1, full[0] + 1))[0]
    found = batch.tensors.inventory
    expected = [
        loss(None) - loss(stored_weight(found, site, factors, Option(Form(scheme.name, (k,)), Cost())))
        for k in range(1, full[0] + 1)
    ]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * (np.abs(v).sum() + 1e-3))


@pytest.mark.parametrize("op", sorted(op.op_type for op in OPS if op.observable == "inputs"))
def test_a_product_inside_its_node_has_no_gradient(op: str):
    @given(CASES[op]())
    def law(case: Case):
        assume(found_in(case.model).sites)
        source = source_of(case.model, {"x": case.x}, ["y"])
        assert source.sites == []
        assert list(source.unreached.values()) == [f"{op} keeps its product inside"]

    law()


@pytest.mark.parametrize("op", sorted(op.op_type for op in OPS if op.observable != "inputs"))
def test_projections_are_substitutions_for_every_geometry(op: str):
    @given(all_cases(op), SEEDS)
    def law(case: Case, seed: int):
        assume(found_in(case.model).sites)
        source = source_of(case.model, {"x": case.x}, ["y"])
        if not source.sites:  # its pads follow from shapes that are not known, so its gradient does
            assert "output_shape" in next(iter(source.unreached.values()))
            reject()
        check(case.model, case.x, ["y"], seed)

    law()


@pytest.mark.parametrize("op", sorted(op.op_type for op in OPS if op.observable != "inputs"))
def test_any_change_is_its_substitution_for_every_geometry(op: str):
    @settings(max_examples=25)
    @given(all_cases(op), SEEDS)
    def law(case: Case, seed: int):
        assume(found_in(case.model).sites)
        if not source_of(case.model, {"x": case.x}, ["y"], ends=True).sites:
            reject()
        check_change(case.model, case.x, ["y"], seed)

    law()


def shared_kernel(biases: str, *, hidden: bool) -> onnx.ModelProto:
    """One kernel at two places with other geometries and other biases; `hidden`: behind a Relu, read by nobody else."""
    arrays = {"b0": 5 + normal([6], 1), "b1": -9 + normal([6], 2)}
    weights, nodes = {"W": weight((6, 5, 3, 3), 3)}, []
    if biases in ("initializer", "listed"):
        weights |= arrays
    elif biases == "constant":
        nodes += [constant(name, array) for name, array in arrays.items()]
    else:
        nodes += [constant(f"{name}c", array) for name, array in arrays.items()]
        nodes += [node("Identity", [f"{name}c"], [name]) for name in arrays]
    if hidden:
        nodes += [node("Relu", ["x"], ["r0"]), node("Tanh", ["x"], ["r1"])]
    ends = ["r0", "r1"] if hidden else ["x", "x"]
    nodes += [
        node("Conv", [ends[0], "W", "b0"], ["h"], "one", pads=[1, 1, 1, 1]),
        node("Conv", [ends[1], "W", "b1"], ["g"], "two", strides=[2, 2], dilations=[2, 1]),
    ]
    outputs = [value("h", [2, 6, 8, 8]), value("g", [2, 6, 2, 3])]
    return build(nodes, [value("x", [2, 5, 8, 8])], outputs, weights, ir=3 if biases == "listed" else 8)


@pytest.mark.parametrize("biases", ["initializer", "constant", "identity", "listed"])
@pytest.mark.parametrize("hidden", [True, False])
def test_a_shared_kernel_adds_what_its_places_lose(biases: str, hidden: bool):
    check(shared_kernel(biases, hidden=hidden), normal([2, 5, 8, 8], 4), ["h", "g"], 5)
    check_change(shared_kernel(biases, hidden=hidden), normal([2, 5, 8, 8], 4), ["h", "g"], 5)


def test_a_shared_matrix_with_its_own_alpha_and_bias_at_every_place():
    weights = {"W": weight((7, 6), 1), "b0": 3 + normal([7], 2), "b1": -2 + normal([7], 3)}
    nodes = [
        node("Gemm", ["x", "W", "b0"], ["h"], "one", transB=1, alpha=0.5, beta=2.0),
        node("Relu", ["x"], ["r"]),
        node("Gemm", ["r", "W", "b1"], ["g"], "two", transB=1, alpha=-3.0),
    ]
    model = build(nodes, [value("x", [9, 6])], [value("h", [9, 7]), value("g", [9, 7])], weights)
    check(model, normal([9, 6], 4), ["h", "g"], 5)


@pytest.mark.parametrize("last", [False, True])
def test_a_kernel_whose_data_others_read_gets_its_own_gradient(last: bool):
    """Wᵀ g of this convolution alone, not the gradient at a tensor that a skip connection reads as well."""
    nodes = [
        node("Tanh", ["x"], ["t"]),
        node("Conv", ["t", "W"], ["c"], "conv", pads=[1, 1, 1, 1]),
        node("Mul" if last else "Add", ["c", "t"], ["y"]),
    ]
    W = weight((5, 5, 3, 3), 1)
    check(build(nodes, [value("x", [2, 5, 6, 6])], [value("y", [2, 5, 6, 6])], {"W": W}), normal([2, 5, 6, 6], 2),
          ["y"], 3)  # fmt: skip


def test_every_operator_is_in_these_laws():
    assert {op.op_type for op in OPS} == set(CASES)
