"""Temperature and bias: a known scale and shift come back, nothing is changed without a gain, whatever the labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from onnx_lowrank.numerics.calibrated_logits import cross_entropies, fit_logits


def drawn(z: np.ndarray, seed: int) -> np.ndarray:
    """Return labels drawn from softmax(z)."""
    p = softmax(z, axis=1)
    return (p.cumsum(1) < np.random.default_rng(seed).random((len(z), 1))).sum(1)


def logits(count: int, classes: int, seed: int) -> np.ndarray:
    return 2 * np.random.default_rng(seed).standard_normal((count, classes))


@pytest.mark.parametrize("scale", [0.02, 0.25, 1.0, 1.5, 40.0])
def test_a_known_scale_comes_back(scale: float):
    z = logits(6_000, 5, 1)
    found = fit_logits(scale * z, drawn(z, 2), temperature=True, bias=False)
    assert found.temperature == pytest.approx(scale, rel=0.05)
    assert found.bias is None
    assert (found.gain > 0.01) == (scale != 1)


def test_a_known_bias_comes_back():
    z, shift = logits(6_000, 4, 3), np.array([1.0, -0.5, 0.0, -0.5])
    found = fit_logits(2 * z, drawn(z + shift, 4), temperature=True, bias=True)
    assert found.temperature == pytest.approx(2, rel=0.08)
    np.testing.assert_allclose(found.bias, shift, atol=0.12)
    alone = fit_logits(z, drawn(z + shift, 4), temperature=False, bias=True)
    assert alone.temperature == 1
    np.testing.assert_allclose(alone.bias, shift, atol=0.12)


def test_the_gain_is_what_other_samples_gain():
    z = logits(4_000, 5, 5)
    found = fit_logits(3 * z[:2000], drawn(z, 6)[:2000], temperature=True, bias=False)
    new, labels = 3 * z[2000:], drawn(z, 6)[2000:]
    measured = cross_entropies(new, labels).mean() - cross_entropies(found.on(new), labels).mean()
    assert found.gain == pytest.approx(measured, rel=0.15)


@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 999), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_fit_claims_a_loss(count: int, classes: int, seed: int, temperature: bool, bias: bool):
    z = logits(count, classes, seed)
    labels = np.random.default_rng(seed + 1).integers(0, classes, count)
    found = fit_logits(z, labels, temperature=temperature, bias=bias)
    assert found.gain >= 0
    assert found.changes == (found.gain > 0)
    if not bias:
        assert np.array_equal(found.on(z).argmax(1), z.argmax(1))
    after = cross_entropies(found.on(z), labels).mean()
    assert after <= cross_entropies(z, labels).mean() + 1e-9


def test_logits_that_are_right_stay():
    """Of labels drawn from the logits themselves nothing can be learned; at most a little noise is."""
    gains = [
        fit_logits(z, drawn(z, s), temperature=True, bias=True).gain for s in range(8) for z in [logits(500, 5, s)]
    ]
    assert sum(gain == 0 for gain in gains) >= 3
    assert max(gains) < 0.02


def test_rows_of_one_group_are_left_out_together():
    """Every sample 20 times: row by row the bias seems to be learned, by samples it is not."""
    z, labels = np.zeros((30, 8)), np.random.default_rng(0).integers(0, 8, 30)
    z, labels, groups = z.repeat(20, 0), labels.repeat(20), np.arange(30).repeat(20)
    rows = fit_logits(z, labels, temperature=False, bias=True)
    samples = fit_logits(z, labels, temperature=False, bias=True, groups=groups)
    assert rows.gain > 0.1
    assert samples.gain < rows.gain / 2


def test_labels_that_are_all_met_leave_a_finite_temperature():
    z = 5 * np.eye(3)[np.arange(30) % 3]
    found = fit_logits(z, np.arange(30) % 3, temperature=True, bias=False)
    assert 0.01 <= found.temperature < 0.5
    assert found.gain == pytest.approx(cross_entropies(z, np.arange(30) % 3).mean(), rel=1e-4)


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        fit_logits(np.array([[np.nan, 1.0]] * 4), np.zeros(4, int), temperature=True, bias=False)
