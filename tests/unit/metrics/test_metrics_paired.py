"""Metrics against the original's outputs, each against a value worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics import Agreement, Cosine, Divergence, RelativeL2

ALL = (Divergence(), Agreement(), RelativeL2(), Cosine())


def one(*arrays, dtype=np.float32):
    return {"y": [np.array(array, dtype) for array in arrays]}


def value(metric, original, candidate, dtype=np.float32):
    return metric.values(one(candidate, dtype=dtype), None, one(original, dtype=dtype))[0]


def test_kl_of_probabilities():
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert value(Divergence(), [[0.5, 0.5]], [[0.25, 0.75]]) == pytest.approx(expected)


def test_kl_softmaxes_logits():
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert value(Divergence(), [[7.0, 7.0]], [[1.0, 1.0 + math.log(3)]]) == pytest.approx(expected, rel=1e-5)


def test_kl_is_the_mean_over_positions():
    single = value(Divergence(), [[0.5, 0.5]], [[0.25, 0.75]])
    assert value(Divergence(), [[[0.5, 0.5]] * 2], [[[0.25, 0.75], [0.5, 0.5]]]) == pytest.approx(single / 2)


def test_the_original_tells_how_the_candidate_is_read():
    """A candidate whose rows no longer sum to 1 is still compared as probabilities."""
    assert value(Divergence(), [[0.5, 0.5]], [[0.25, 0.25]]) == pytest.approx(0, abs=1e-12)


def test_kl_of_a_probability_that_became_zero_is_large_and_finite():
    assert 40 < value(Divergence(), [[0.5, 0.5]], [[1.0, 0.0]]) < 60


def test_kl_of_masked_logits():
    masked = [[0.0, -math.inf, 2.0]]
    assert value(Divergence(), masked, masked) == 0
    assert value(Divergence(), masked, [[0.0, 3.0, 1.0]]) > 0
    assert value(Divergence(), [[0.0, 0.0, 2.0]], masked) == math.inf


def test_agreement_is_the_share_of_positions():
    original, candidate = [[[1, 0], [0, 1], [1, 0]]], [[[2, 1], [0, 3], [0, 1]]]
    assert value(Agreement(), original, candidate) == pytest.approx(2 / 3)
    image = np.zeros((1, 2, 2, 2))
    image[0, 1, 0, 0] = 1
    assert value(Agreement(), np.zeros((1, 2, 2, 2)), image) == 0.75


def test_agreement_of_class_numbers_and_of_nan():
    assert value(Agreement(), [[1, 2, 3, 4]], [[1, 2, 3, 5]], dtype=np.int64) == 0.75
    assert value(Agreement(), [[math.nan, 1]], [[math.nan, 1]]) == 0


def test_relative_l2():
    assert value(RelativeL2(), [[3.0, 4.0]], [[3.0, 3.0]]) == pytest.approx(0.2)
    assert value(RelativeL2(), [[0.0, 0.0]], [[0.0, 0.0]]) == 0
    assert value(RelativeL2(), [[0.0, 0.0]], [[0.0, 1e-9]]) == 1
    assert value(RelativeL2(), [[3.0, 4.0]], [[-3.0, -4.0]]) == 1  # no worse than all wrong
    assert value(RelativeL2(), [[3.0, 4.0, math.inf]], [[3.0, 3.0, 1.0]]) == pytest.approx(0.2)


def test_cosine():
    assert value(Cosine(), [[1.0, 0.0]], [[1.0, 1.0]]) == pytest.approx(math.sqrt(0.5))
    assert value(Cosine(), [[1.0, 2.0]], [[2.0, 4.0]]) == pytest.approx(1.0)
    assert value(Cosine(), [[1.0, 0.0]], [[0.0, 0.0]]) == 0
    assert value(Cosine(), [[0.0, 0.0]], [[0.0, 0.0]]) == 1


def test_half_precision_is_squared_in_double():
    assert value(RelativeL2(), [[300.0, 400.0]], [[300.0, 300.0]], dtype=np.float16) == pytest.approx(0.2)
    assert value(Divergence(), [[0.1001, 0.8999]], [[0.1001, 0.8999]], dtype=np.float16) == 0


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.name)
@pytest.mark.parametrize("candidate", [[[math.nan, 1.0]], [[0.0, 0.0, 1.0]]], ids=["nan", "another shape"])
def test_a_broken_candidate_has_the_worst_value(metric, candidate):
    worst = 0.0 if metric.higher_is_better else 1.0 if metric.name == "relative-l2" else math.inf
    assert value(metric, [[2.0, 1.0]], candidate) == worst


FINITE = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(2, 6)), elements=st.floats(-100, 100, width=32)
)


@given(FINITE)
@settings(max_examples=40, deadline=None)
def test_the_original_itself_has_the_best_value(array):
    for metric in ALL:
        assert value(metric, array, array) == pytest.approx(metric.best, abs=1e-12)


@given(FINITE, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_nothing_is_better_than_the_best(array, seed):
    other = array + np.random.default_rng(seed).normal(size=array.shape).astype(np.float32)
    for metric in ALL:
        found = value(metric, array, other)
        assert found <= metric.best if metric.higher_is_better else found >= metric.best


@pytest.mark.parametrize("metric", [Divergence(), Agreement()], ids=lambda m: m.name)
def test_one_column_has_no_classes(metric):
    with pytest.raises(MetricError, match=r"needs a score a class; .* take relative-l2"):
        value(metric, [[0.3]], [[0.4]])


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.name)
def test_without_the_original_there_is_nothing_to_compare_with(metric):
    with pytest.raises(MetricError, match="compares with the original"):
        metric.values(one([[1.0, 2.0]]), None, None)


def test_samples_may_have_different_shapes():
    original = {"y": [np.ones((1, t, 4), np.float32) for t in (1, 3, 7)]}
    for metric in ALL:
        assert metric.values(original, None, original) == pytest.approx([metric.best] * 3)
