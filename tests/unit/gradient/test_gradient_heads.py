"""Losses: their gradients against finite differences, their samples against the Hessian."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from onnx_lowrank.gradient import losses as heads

STEP = 1e-6


def slope(loss, x, rng):
    """⟨gradient, d⟩ and the central difference along d, for every sample."""
    d = rng.normal(size=x.shape)
    high, low = loss(x + STEP * d).values, loss(x - STEP * d).values
    got = (loss(x).gradient * d).reshape(len(x), -1).sum(axis=1)
    return got, (high - low) / (2 * STEP)


def agree(loss, x):
    rng = np.random.default_rng(9)
    got, want = slope(loss, x, rng)
    assert got.shape == (len(x),)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)
    assert loss(x.astype(np.float32)).gradient.dtype == np.float32


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("ignore", [None, -100])
def test_cross_entropy(axis, ignore):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 5, 4)) if axis == -1 else rng.normal(size=(3, 4, 5))
    labels = rng.integers(0, 4, size=(3, 5))
    if ignore is not None:
        labels[0, 2:] = labels[2] = ignore
    agree(lambda x: heads.cross_entropy(x, labels, axis=axis, ignore=ignore), z)
    p = softmax(z, axis=axis)
    agree(lambda x: heads.cross_entropy_of_probabilities(x, labels, axis=axis, ignore=ignore), p)
    one, other = (
        heads.cross_entropy(z, labels, axis=axis, ignore=ignore).values,
        heads.cross_entropy_of_probabilities(p, labels, axis=axis, ignore=ignore).values,
    )
    np.testing.assert_allclose(one, other, rtol=1e-10)
    if ignore is not None:
        assert one[2] == 0


def test_cross_entropy_is_the_mean_over_positions():
    z, labels = np.random.default_rng(0).normal(size=(1, 3, 4)), np.array([[1, 2, -1]])
    want = -(log_softmax(z[0, 0])[1] + log_softmax(z[0, 1])[2]) / 2
    np.testing.assert_allclose(heads.cross_entropy(z, labels, ignore=-1).values, [want], rtol=1e-12)


def test_divergences():
    rng = np.random.default_rng(1)
    z, r = rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 2, 4))
    agree(lambda x: heads.divergence(x, r), z)
    agree(lambda x: heads.divergence_of_probabilities(x, softmax(r, axis=-1)), softmax(z, axis=-1))
    agree(lambda x: heads.binary_divergence(x, r), z)
    np.testing.assert_allclose(heads.divergence(r, r).values, 0, atol=1e-12)
    np.testing.assert_allclose(heads.divergence(r, r).gradient, 0, atol=1e-12)
    np.testing.assert_allclose(heads.binary_divergence(r, r).values, 0, atol=1e-12)
    np.testing.assert_allclose(
        heads.divergence(z, r).values,
        heads.divergence_of_probabilities(softmax(z, axis=-1), softmax(r, axis=-1)).values,
        rtol=1e-9,
    )


def test_squared_error():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(3, 6))
    labels = (rng.random((3, 6)) < 0.5).astype(float)
    agree(lambda x: heads.squared_error(x, labels, rng.uniform(1, 2, 6) * 0 + 1.7), z)
    np.testing.assert_allclose(heads.squared_error(z, z + 2.0, 4.0).values, 1.0, rtol=1e-12)


def hessian(loss, x):
    """Of one sample's loss, by differences of its gradient."""
    n = x.size
    H = np.zeros((n, n))
    for i in range(n):
        d = np.zeros(n)
        d[i] = STEP
        d = d.reshape(x.shape)
        H[i] = (loss(x + d).gradient - loss(x - d).gradient).reshape(-1) / (2 * STEP)
    return H


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "noise"])
def test_the_second_moment_of_the_samples_is_the_hessian(kind):
    """Of the mean loss against the model's own outputs, at that point; 40,000 draws, so entries are within 4 %."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(1, 2, 3))
    losses = {
        "softmax": (lambda x: heads.divergence(x, z), lambda x: heads.sampled(x, rng)),
        "sigmoid": (lambda x: heads.binary_divergence(x, z), lambda x: heads.sampled_binary(x, rng)),
        "noise": (lambda x: heads.squared_error(x, z, 2.5), lambda x: heads.noise(x, 2.5, rng)),
    }
    loss, draw = losses[kind]
    many = np.repeat(z, 40000, axis=0)
    g = draw(many).reshape(len(many), -1)
    want = hessian(loss, z)
    np.testing.assert_allclose(g.T @ g / len(g), want, atol=0.04 * np.abs(want).max())


def test_samples_of_probabilities_are_those_of_logits_through_the_softmax():
    """Pulled back through the softmax, −1 / p at the drawn class is softmax − one-hot."""
    z = np.random.default_rng(4).normal(size=(2, 3, 4))
    p = softmax(z, axis=-1)
    at_p = heads.sampled_of_probabilities(p, np.random.default_rng(7))
    pulled = p * (at_p - (at_p * p).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(pulled, heads.sampled(z, np.random.default_rng(7)), rtol=1e-9, atol=1e-12)


def test_samples_are_drawn_from_the_model():
    z = np.log(np.array([[0.7, 0.2, 0.1]]))
    g = heads.sampled(np.repeat(z, 20000, axis=0), np.random.default_rng(5))
    np.testing.assert_allclose((g < 0).mean(axis=0), [0.7, 0.2, 0.1], atol=0.015)
    bits = heads.sampled_binary(np.full((20000, 1), np.log(3.0)), np.random.default_rng(6))
    np.testing.assert_allclose((bits < 0).mean(), expit(np.log(3.0)), atol=0.015)


def test_extreme_logits_stay_finite():
    z = np.array([[1e4, -1e4, 0.0]], np.float32)
    for loss in (heads.cross_entropy(z, np.array([1])), heads.divergence(z, -z), heads.binary_divergence(z, -z)):
        assert np.isfinite(loss.values).all()
        assert np.isfinite(loss.gradient).all()
    p = np.array([[1.0, 0.0, 0.0]], np.float32)
    assert np.isfinite(heads.cross_entropy_of_probabilities(p, np.array([1])).gradient).all()
