"""Laws of the error: it never rises with rank, whitening never loses to plain SVD, and prediction is measurement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from builders import (
    build,
    constant,
    convnet,
    correlated,
    feeds_of,
    fits,
    fitting,
    found_in,
    full_rank,
    ladder,
    linear,
    may_rise,
    moments_of,
    node,
    normal,
    plan_of,
    relative_squared,
    run,
    summed,
    the_site,
    value,
    weight,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import SEEN_WHOLE, Case, all_cases

from onnx_lowrank.ops import OPS
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes import SCHEMES, KernelLast, Svd, by_name
from onnx_lowrank.types import Moments

SHAPES = st.one_of(
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(1, 3)),
    st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(4, 5), st.integers(2, 4), st.integers(10, 12)),
)
SEEDS = st.integers(0, 10**6)


def made_moments(W: np.ndarray, count: int, seed: int) -> tuple[Moments, np.ndarray]:
    """Return the moments of `count` receptive fields of correlated inputs, all of them kept, and the fields."""
    flat = correlated(count, int(np.prod(W.shape[1:])), seed).astype(np.float64)
    patches = flat.reshape(count, *W.shape[1:])
    y = flat @ W.reshape(len(W), -1).T
    channels = np.moveaxis(patches, 1, -1).reshape(-1, W.shape[1])
    kernel = int(np.prod(W.shape[2:])) > 1
    return Moments(
        A=channels.T @ channels,
        C=y.T @ y if kernel else None,
        patches=patches if kernel else None,
        keys=np.arange(count, dtype=float) if kernel else None,
        positions=count,
        samples=count,
        room=count,
    ), flat


def applied(W: np.ndarray, flat: np.ndarray) -> np.ndarray:
    return flat @ np.asarray(W, np.float64).reshape(len(W), -1).T


def never_rising(errors: Sequence[float]) -> np.ndarray:
    """Return the least bound of errors at rising ranks that never rises itself, nor above that of rank 0."""
    return np.minimum(np.maximum.accumulate(np.asarray(errors)[::-1])[::-1], 1.0)


@given(SHAPES, st.integers(1, 20), SEEDS)
def test_error_never_rises_with_rank_and_ends_at_zero(shape: tuple[int, ...], count: int, seed: int):
    W = weight(shape, seed).astype(np.float64)
    fit, _ = made_moments(W, count, seed + 1)
    other, _ = made_moments(W, count, seed + 2)
    for name in fitting(shape):
        rank = full_rank(name, shape)
        for pair in ((fit, fit), (fit, None), (fit, other), (None, other), (None, None)):
            factors = by_name(name).factor(W, *pair, rank)
            errors = np.array([factors.error(k) for k in [(0,) * len(rank), *ladder(name, shape)]])
            assert errors[0] == pytest.approx(1.0, abs=1e-9)
            assert (np.diff(errors) <= 0).all()
            assert errors[-1] == pytest.approx(0.0, abs=1e-9)
            assert (errors >= 0).all()


@given(SHAPES, st.integers(1, 30), SEEDS)
def test_predicted_error_is_the_measured_one_on_the_same_samples(shape: tuple[int, ...], count: int, seed: int):
    """The weight that a rank stands for, applied to the very samples: exact but for float32 storage."""
    W = weight(shape, seed).astype(np.float64)
    fit, flat = made_moments(W, count, seed + 1)
    total = applied(W, flat)
    for name in fitting(shape):
        rank = full_rank(name, shape)
        if summed(name, shape):
            continue  # what two projections lose adds to first order only: see test_law_tucker.py
        factors = by_name(name).factor(W, fit, fit, rank)
        ranks = ladder(name, shape)
        measured = np.array([relative_squared(total, applied(factors.dense(k), flat)) for k in ranks])
        predicted = np.array([factors.error(k) for k in ranks])
        if may_rise(name, shape):
            measured = never_rising(measured)
        np.testing.assert_allclose(predicted, measured, rtol=1e-4, atol=1e-6)


@given(SHAPES, SEEDS)
def test_plain_error_without_samples_is_that_of_the_weight(shape: tuple[int, ...], seed: int):
    W = weight(shape, seed).astype(np.float64)
    for name in fitting(shape):
        rank = full_rank(name, shape)
        factors = by_name(name).factor(W, None, None, rank)
        for k in ladder(name, shape):
            lost = relative_squared(W, factors.dense(k))
            if summed(name, shape):  # orthogonal projections: the sum of both errors bounds that of both together
                assert lost <= factors.error(k) * (1 + 1e-4) + 1e-9
            else:
                assert factors.error(k) == pytest.approx(lost, rel=1e-4, abs=1e-9)


@given(st.tuples(st.integers(2, 9), st.integers(2, 9)), SEEDS)
def test_plain_svd_is_eckart_young(shape: tuple[int, int], seed: int):
    W = weight(shape, seed).astype(np.float64)
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    factors = Svd().factor(W, None, None, (min(shape),))
    for k in range(min(shape) + 1):
        assert factors.error((k,)) == pytest.approx(energy[k:].sum() / energy.sum(), rel=1e-9, abs=1e-12)


@given(SHAPES, st.integers(1, 30), SEEDS)
def test_whitened_is_never_worse_than_plain_on_the_fit_samples(shape: tuple[int, ...], count: int, seed: int):
    """Where outputs are projected, at any shrinking: plain SVD is best at what the shrinking adds, so cannot win."""
    W = weight(shape, seed).astype(np.float64)
    fit, _ = made_moments(W, count, seed + 1)
    projecting = [name for name in fitting(shape) if not summed(name, shape) and not may_rise(name, shape)]
    assert projecting
    for name in projecting:
        rank = full_rank(name, shape)
        whitened, plain = by_name(name).factor(W, fit, fit, rank), by_name(name).factor(W, None, fit, rank)
        for k in range(rank[0] + 1):
            assert whitened.error((k,)) <= plain.error((k,)) * (1 + 1e-9) + 1e-12


def test_whitening_pays_where_inputs_are_correlated():
    """The law above would hold for a whitening that does nothing."""
    W = weight((24, 24), 1).astype(np.float64)
    fit, _ = made_moments(W, 200, 2)
    whitened, plain = Svd().factor(W, fit, fit, (24,)), Svd().factor(W, None, fit, (24,))
    assert whitened.error((8,)) < 0.25 * plain.error((8,))


def test_kernel_last_measures_against_the_whole_output():
    """A channel that is its neighbour, shifted by one, cancels it: one component alone is far worse than none.

    The relative error must still be a share of the real output's energy; over the largest part's it came to look small.
    """
    rng = np.random.default_rng(0)
    signal, before, after, third, fourth = rng.standard_normal((5, 60))
    channels = ([signal, before], [after, signal], [third, fourth])
    patches = np.stack([np.stack(channel, -1) for channel in channels], 1)  # (n, in, k)
    W = np.array([[[20.0, 0.0], [0.0, -19.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [2.0, 1.0]]])
    flat = patches.reshape(60, -1)
    vectors = np.moveaxis(patches, 1, -1).reshape(-1, 3)
    y = applied(W, flat)
    fit = Moments(vectors.T @ vectors, y.T @ y, patches, np.arange(60.0), 60, 60, 60)
    factors = KernelLast().factor(W, fit, fit, (3,))
    measured = [relative_squared(y, applied(factors.dense((k,)), flat)) for k in (1, 2)]
    assert measured[0] > 10 > 1 > measured[1] > 0.1
    assert factors.error((1,)) == factors.error((0,)) == 1.0
    assert factors.error((2,)) == pytest.approx(measured[1], rel=1e-4)


@pytest.mark.parametrize("op", sorted(op.op_type for op in OPS if op.observable != "inputs"))
def test_predicted_error_is_what_onnxruntime_gives_at_every_rank(op: str):
    """From the model: calibrated on its own input, rewritten, run. Biases, α and β must cancel out."""

    @given(all_cases(op, SEEN_WHOLE))
    def law(case: Case):
        found = found_in(case.model)
        assume(found.sites)
        (site,) = found.sites
        moments = moments_of(case.model, [{"x": case.x}])[site.id]
        nothing = run(without_weight(case.model), {"x": case.x})["y"]
        expected = run(case.model, {"x": case.x})["y"]
        assume(float(((expected - nothing) ** 2).sum()) > 1e-3)
        for name in fits(site):
            if summed(name, site.shape, site.groups):
                continue
            rank = full_rank(name, site.shape, site.groups)
            factors = by_name(name).factor(found.weight(site), moments, moments, rank, site.groups)
            measured = []
            for k in ladder(name, site.shape, site.groups):
                plan = plan_of({site.id: (name, k)}, found)
                got = run(rewrite(case.model, found, plan, {(site.id, name): factors}), {"x": case.x})["y"]
                measured.append(relative_squared(expected, got, without=nothing))
            if may_rise(name, site.shape, site.groups):
                measured = never_rising(measured)
                if moments.patches is None:  # nothing to measure on: by the channels alone
                    continue
            predicted = [factors.error(k) for k in ladder(name, site.shape, site.groups)]
            np.testing.assert_allclose(predicted, measured, rtol=1e-3, atol=1e-5)

    law()


def without_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with W = 0: what is left is the bias."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == "W")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), "W"))
    return copy


def shared_kernel(biases: str) -> onnx.ModelProto:
    """Two convolutions with one kernel and different, large biases, kept in one place or another."""
    arrays = {"b0": 5 + normal([6], 1), "b1": -9 + normal([6], 2)}
    weights, nodes = {"W": weight((6, 5, 3, 3), 3)}, []
    if biases in ("initializer", "listed"):
        weights |= arrays
    else:
        suffix = "_constant" if biases == "identity" else ""
        nodes += [constant(name + suffix, array) for name, array in arrays.items()]
        nodes += [node("Identity", [name + suffix], [name]) for name in arrays if suffix]
    nodes += [
        node("Conv", ["x", "W", "b0"], ["h"], "one", pads=[1, 1, 1, 1]),
        node("Conv", ["x", "W", "b1"], ["g"], "two", strides=[2, 2]),
    ]
    ends = [value("x", [1, 5, 8, 8])], [value("h", [1, 6, 8, 8]), value("g", [1, 6, 3, 3])]
    return build(nodes, *ends, weights, ir=3 if biases == "listed" else 8)


@pytest.mark.parametrize("biases", ["initializer", "constant", "identity", "listed"])
def test_output_moment_of_a_kernel_has_no_bias_in_it(biases: str):
    """C is the moment of W x: a bias left in it would count as output that no truncation can lose."""
    model = shared_kernel(biases)
    moments = moments_of(model, [{"x": normal([1, 5, 8, 8], 4)}])["h"]
    matrix = onnx.numpy_helper.to_array(model.graph.initializer[0]).reshape(6, -1).astype(np.float64)
    y = np.asarray(moments.patches, np.float64).reshape(-1, 45) @ matrix.T
    assert moments.positions == len(y) == 64 + 9
    np.testing.assert_allclose(moments.C, y.T @ y, rtol=1e-3, atol=1e-3)


def test_a_kernel_with_constant_biases_has_the_error_that_it_has():
    model = convnet([4, 12], [None], 3, 7)
    found = found_in(model)
    site = next(s for s in found.sites if s.op == "Conv")
    feeds = feeds_of(normal([4, 4, 8, 8], 1))
    moments = moments_of(model, feeds)[site.id]
    factors = by_name("kernel-first").factor(found.weight(site), moments, moments, (12,))
    flat = np.asarray(moments.patches, np.float64).reshape(-1, 36)
    y = applied(found.weight(site), flat)
    for k in (2, 6, 10):
        expected = relative_squared(y, applied(factors.dense((k,)), flat))
        assert factors.error((k,)) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_every_scheme_is_in_these_laws():
    assert {s.name for s in SCHEMES} == {*fitting((2, 2)), *fitting((2, 2, 4, 3))}
    assert the_site(linear(weight((4, 4), 0)))[1].shape == (4, 4)
