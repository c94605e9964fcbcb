"""A metric with its interval, the drop in both directions, aggregates, and the sentences about them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_lowrank.errors import MetricError
from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics import (
    Agreement,
    Collector,
    Cosine,
    CrossEntropy,
    Custom,
    Divergence,
    Perplexity,
    RelativeL2,
    SquaredError,
    Top,
    bound_of,
    drop_of,
    impossible_goal,
    interval_of,
    measured,
    more_samples,
)
from onnx_lowrank.types import Bound, Interval

GENERATOR = np.random.default_rng(4)
X = GENERATOR.normal(size=60)


def outputs(noise):
    return {"y": [np.array([[value]]) for value in X + noise * np.random.default_rng(9).normal(size=60)]}


def correlation(found, labels):
    return float(np.corrcoef([y.item() for y in found["y"]], labels)[0, 1])


def distance(found, labels):
    return float(np.mean([abs(y.item() - label) for y, label in zip(found["y"], labels, strict=True)]))


distance.lower_is_better = True


@pytest.mark.parametrize("function", [correlation, distance])
def test_an_aggregate_has_a_paired_interval_and_a_drop_of_the_right_sign(function):
    metric = Custom(function, "own")
    good, bad = (measured(metric, outputs(noise), X, None, 0) for noise in (0.1, 0.8))
    drop, rise = (drop_of(metric, *pair, 0.95, relative=False) for pair in ((good, bad), (bad, good)))
    assert drop.low > 0 > rise.high
    assert drop.estimate == pytest.approx(abs(good.estimate - bad.estimate)) == pytest.approx(-rise.estimate)
    assert drop.low <= drop.estimate <= drop.high
    relative = drop_of(metric, good, bad, 0.95, relative=True)
    assert relative.estimate == pytest.approx(drop.estimate / good.estimate)


def test_the_interval_of_an_aggregate_is_that_of_its_values_where_it_is_their_mean():
    per_sample = Custom(lambda found, labels: np.array([y.item() for y in found["y"]]), "values")
    aggregate = Custom(lambda found, labels: float(np.mean([y.item() for y in found["y"]])), "mean")
    one, other = (interval_of(m, measured(m, outputs(0), X, None, 0), 0.95) for m in (per_sample, aggregate))
    assert one.estimate == pytest.approx(other.estimate)
    assert other.width == pytest.approx(one.width, rel=0.2)


def test_pairing_is_what_makes_the_interval_of_a_drop_narrow():
    metric = Custom(correlation, "own")
    one, other = (measured(metric, outputs(noise), X, None, 0) for noise in (0.50, 0.51))
    assert drop_of(metric, one, other, 0.95, relative=False).width < 0.2 * interval_of(metric, one, 0.95).width


def test_the_same_seed_gives_the_same_resamples():
    metric = Custom(correlation, "own")
    one, same, other = (measured(metric, outputs(0.5), X, None, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.replicates, same.replicates)
    assert not np.array_equal(one.replicates, other.replicates)


def test_resamples_without_a_number_are_left_out():
    def fussy(found, labels):
        if len(set(map(float, labels))) < 37:  # a resample of 60 holds about 38 different ones
            raise ValueError("too few classes")
        return 0.5 if len(labels) == len(set(map(float, labels))) else float(np.mean([y.item() for y in found["y"]]))

    found = measured(Custom(fussy, "fussy"), outputs(0.1), X, None, 0)
    assert 0 < found.failed_resamples < 270
    assert math.isfinite(interval_of(Custom(fussy, "fussy"), found, 0.95).width)


def test_an_aggregate_that_no_resample_changes_still_has_an_interval():
    metric = Custom(lambda found, labels: 0.9, "own")
    found = measured(metric, outputs(0), X, None, 0)
    assert drop_of(metric, found, found, 0.95, relative=False).high > 0.04


@pytest.mark.parametrize("metric", [Divergence(), Agreement(), RelativeL2(), Cosine()], ids=lambda m: m.name)
def test_against_the_original_the_drop_is_the_distance_from_the_best(metric):
    original = {"y": [GENERATOR.normal(size=(1, 5)) for _ in range(30)]}
    candidate = {"y": [y + 0.3 * GENERATOR.normal(size=(1, 5)) for y in original["y"]]}
    base = Collector(metric, None, 0, original=True)
    base.add(*[[{"y": y} for y in original["y"]]] * 2)
    found = measured(metric, candidate, None, original, 0)
    drop = drop_of(metric, base.result(), found, 0.95, relative=False)
    assert base.result().values.tolist() == [metric.best] * 30
    assert drop.estimate == pytest.approx(abs(found.estimate - metric.best))
    assert 0 <= drop.low <= drop.estimate <= drop.high
    value = interval_of(metric, found, 0.95)
    assert drop.width == pytest.approx(value.width)


def test_a_collector_streams_to_the_same_values():
    metric = CrossEntropy()
    samples = [{"y": GENERATOR.normal(size=(1, 4))} for _ in range(10)]
    labels = GENERATOR.integers(0, 4, 10)
    collector = Collector(metric, labels, 0, original=False)
    for start in (0, 3, 6, 9):
        collector.add(samples[start : start + 3], samples[start : start + 3])
    whole = metric.values({"y": [sample["y"] for sample in samples]}, labels)
    assert collector.result().values.tolist() == whole.tolist()


def test_a_relative_drop_from_zero_is_refused():
    metric = SquaredError()
    zero = measured(metric, {"y": [np.zeros((1, 1))] * 3}, np.zeros(3), None, 0)
    with pytest.raises(MetricError, match="mse is 0, so a relative drop has no meaning; use --drop-type absolute"):
        drop_of(metric, zero, zero, 0.95, relative=True)


@pytest.mark.parametrize(
    ("metric", "gate", "message"),
    [
        (
            Divergence(),
            Gate(max_drop=0.0, observed=True),
            "metric kl compares with the original itself: a drop of 0 admits only the unchanged",
        ),
        (Cosine("b"), Gate(max_drop=0.0, observed=True), "metric cosine@b compares"),
        (Divergence(), Gate(max_drop=0.1, drop_type="relative", observed=True), "use --drop-type absolute"),
        (Agreement(), Gate(max_drop=0.0, observed=True), None),
        (Agreement(), Gate(max_drop=0.01, confidence=0.95), None),
        (Divergence(), Gate(max_drop=0.01, observed=True), None),
        (Cosine(), Gate(max_drop=0.01, drop_type="relative", observed=True), None),
        (Top(1), Gate(), None),
    ],
)
def test_goals_that_no_changed_model_can_meet(metric, gate, message):
    found = impossible_goal(metric, gate)
    assert found is None if message is None else message in (found or "")


@pytest.mark.parametrize(
    ("estimate", "bound", "gate", "note"),
    [
        (
            0.0,
            0.02,
            Gate(max_drop=0.005),
            "a drop as measured would be certified as below 0.005 by about 6,700 samples",
        ),
        (0.002, 0.008, Gate(max_drop=0.005), "certified as below 0.005 by about 1,700 samples"),
        (0.0, 0.02, Gate(max_drop=0.005, drop_type="relative"), "below 0.5 % by about 6,700 samples"),
        (0.0, math.inf, Gate(max_drop=0.005), "420 samples bound no drop: more are needed"),
        (0.0, 0.004, Gate(max_drop=0.005), None),  # certified
        (0.3, 0.33, Gate(max_drop=0.005), None),  # no number of samples helps
        (0.0, 0.02, Gate(max_drop=0.005, observed=True), None),  # nobody asked
    ],
)
def test_how_many_samples_would_do_is_said_where_that_is_the_question(estimate, bound, gate, note):
    found = more_samples(Interval(estimate, -1, 1), Bound(bound, 0.95, "", exact=True), gate, 0.005, 420)
    assert found is None if note is None else note in (found or "")


def texts(count):
    """Return scores of texts of one to nine positions, their labels with ignored ones among them."""
    generator = np.random.default_rng(2)
    lengths = generator.integers(1, 10, count)
    labels = [np.append(generator.integers(0, 5, length), -100) for length in lengths]
    return {"y": [generator.normal(0, 2, (1, length + 1, 5)) for length in lengths]}, labels


def test_perplexity_weighs_texts_by_their_positions():
    scores, labels = texts(20)
    nats = CrossEntropy().values(scores, labels)
    weights = np.array([len(label) - 1 for label in labels])
    assert Perplexity().values(scores, labels) == pytest.approx(math.exp(nats @ weights / weights.sum()), rel=1e-12)


def test_perplexity_streams_with_the_resamples_that_all_samples_at_once_have():
    scores, labels = texts(20)
    whole = measured(Perplexity(), scores, labels, None, seed=3)
    collector = Collector(Perplexity(), labels, 3, original=False)
    for start in (0, 5, 12):
        end = {0: 5, 5: 12, 12: 20}[start]
        part = [{"y": scores["y"][index]} for index in range(start, end)]
        collector.add(part, part)
    streamed = collector.result()
    assert (streamed.values, streamed.n) == (whole.values, 20)
    np.testing.assert_allclose(streamed.replicates, whole.replicates, rtol=1e-12)


def test_a_perplexity_beyond_numbers_certifies_nothing():
    scores, labels = texts(20)
    far = {"y": [1e4 * values for values in scores["y"]]}
    first, second = (measured(Perplexity(), found, labels, None, seed=0) for found in (scores, far))
    assert second.values == math.inf
    assert bound_of(Perplexity(), first, second, Gate(drop_type="relative"), 0.01, seed=0).value == math.inf
