"""The last layer's refit: left-out predictions equal brute force, and the layer stays where nothing is gained."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.numerics.calibrated_logits import cross_entropies
from onnx_lowrank.numerics.ridge_classifier import Regression, fit_layer


def brute(X: np.ndarray, Y: np.ndarray, strength: float, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return S and t by the normal equations, the intercept without a penalty."""
    columns = np.hstack([X, np.ones((len(X), 1))]) if intercept else X
    penalty = strength * np.eye(columns.shape[1])
    if intercept:
        penalty[-1, -1] = 0
    solved = np.linalg.solve(columns.T @ columns + penalty, columns.T @ Y).T
    return (solved[:, :-1], solved[:, -1]) if intercept else (solved, np.zeros(len(solved)))


@given(st.integers(4, 14), st.integers(1, 20), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(deadline=None)
def test_leaving_out_equals_brute_force(count: int, width: int, intercept: bool, grouped: bool, seed: int):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((count, width)) + 1, rng.standard_normal((count, 3))
    groups = np.arange(count) // 2 if grouped else None
    regression = Regression(X, Y, intercept)
    centred = X - X.mean(0) if intercept else X
    strength = 0.3 * float((centred**2).sum()) / width
    S, t = regression.solution(0.3)
    by_hand, shift = brute(X, Y, strength, intercept)
    np.testing.assert_allclose(X @ S.T + t, X @ by_hand.T + shift, rtol=1e-7, atol=1e-7)
    expected = np.empty_like(Y)
    for group in np.unique(np.arange(count) if groups is None else groups):
        out = (np.arange(count) if groups is None else groups) == group
        S, t = brute(X[~out], Y[~out], strength, intercept)
        expected[out] = X[out] @ S.T + t
    np.testing.assert_allclose(regression.left_out(0.3, groups), expected, rtol=1e-6, atol=1e-7)


def problem(count: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (count, 12), labels of 4 classes that depend on them, and the true layer (4, 12)."""
    rng = np.random.default_rng(seed)
    W = np.random.default_rng(7).standard_normal((4, 12))
    x = rng.standard_normal((count, 12))
    return x, (x @ W.T + noise * rng.gumbel(size=(count, 4))).argmax(1), W


def test_a_spoilt_layer_is_mended_and_the_gain_is_what_other_samples_gain():
    x, labels, W = problem(3000, 1, 1.0)
    spoilt = W + 2 * np.random.default_rng(9).standard_normal(W.shape)
    found = fit_layer(x[:1000], x[:1000] @ spoilt.T, labels[:1000])
    before = x[1000:] @ spoilt.T
    after = found.layer * before + x[1000:] @ found.weight.T + found.bias
    truth = labels[1000:]
    assert (after.argmax(1) == truth).mean() > (before.argmax(1) == truth).mean() + 0.1
    measured = cross_entropies(before, truth).mean() - cross_entropies(after, truth).mean()
    assert found.gain == pytest.approx(measured, rel=0.1)
    assert found.changes


def test_the_right_layer_stays_about_what_it_is():
    x, labels, W = problem(2000, 2, 1.0)
    found = fit_layer(x, x @ W.T, labels)
    assert found.gain < 0.01
    assert found.layer == pytest.approx(1, abs=0.15)


@given(st.integers(1, 30), st.integers(1, 40), st.booleans(), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_no_refit_claims_a_loss(count: int, width: int, intercept: bool, seed: int):
    """Labels at random: the layer as it is is among the candidates."""
    rng = np.random.default_rng(seed)
    x, z = rng.standard_normal((count, width)), rng.standard_normal((count, 3))
    found = fit_layer(x, z, rng.integers(0, 3, count), intercept=intercept)
    assert found.gain >= 0
    assert np.isfinite(found.weight).all()
    if not found.changes:
        assert found.layer == 1
        assert not found.weight.any()
        assert not found.bias.any()
    if not intercept:
        assert not found.bias.any()


def test_dead_features_do_no_harm():
    x, labels, W = problem(200, 3, 0.1)
    x[:, 5] = 0
    found = fit_layer(x, np.zeros((200, 4)), labels)
    assert found.gain > 0.3
    np.testing.assert_allclose(found.weight[:, 5], 0, atol=1e-9)
    assert not fit_layer(0 * x, x @ W.T, labels, intercept=False).weight.any()


def test_what_is_not_finite_is_refused():
    x = np.full((4, 2), np.inf)
    with pytest.raises(ValueError, match="not finite"):
        fit_layer(x, np.zeros((4, 2)), np.zeros(4, int))
