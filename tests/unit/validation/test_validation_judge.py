"""The judge on tiny models: what passes, what fails, and what the verdict says of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from validation_models import CLASSES, LABELS, ORIGINAL, SAMPLES, WEIGHT, WIDTH, feeds, linear, noisy, swapped

from onnx_lowrank.errors import DataError, MetricError, ModelError
from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics import Agreement, Cosine, CrossEntropy, Custom, Divergence, RelativeL2, SquaredError, Top
from onnx_lowrank.validation import Judge, within


@pytest.mark.parametrize(
    "metric", [Top(1), CrossEntropy(), Divergence(), Agreement(), RelativeL2(), Cosine()], ids=lambda m: m.name
)
@pytest.mark.parametrize("drop_type", ["absolute", "relative"])
def test_a_drop_is_positive_when_worse_whatever_the_direction(metric, drop_type):
    if drop_type == "relative" and metric.best == 0 and metric.needs_reference:
        pytest.skip("has no relative drop")
    judge = Judge(ORIGINAL, SAMPLES, LABELS, metric, Gate(max_drop=0.0, drop_type=drop_type, observed=True))
    verdict = judge.judge(noisy(0.5))
    assert not verdict
    assert 0 < verdict.drop.estimate <= verdict.bound.value
    assert verdict.drop.low <= verdict.drop.estimate <= verdict.drop.high
    sign = 1 if metric.higher_is_better else -1
    expected = sign * (verdict.original.estimate - verdict.candidate.estimate)
    assert verdict.drop.estimate == pytest.approx(
        expected / (abs(verdict.original.estimate) if drop_type == "relative" else 1.0)
    )
    assert f"{metric.name} is worse by" in verdict.reason
    assert "more than the 0 " in verdict.reason or "more than the 0 %" in verdict.reason
    assert verdict.agreement is not None or isinstance(metric, RelativeL2 | Cosine)


def test_a_better_candidate_has_a_negative_drop_and_passes():
    bad = noisy(0.5)
    verdict = Judge(bad, SAMPLES, LABELS, Top(1), Gate(max_drop=0.0, observed=True)).judge(ORIGINAL)
    assert verdict.drop.estimate < 0
    assert verdict
    assert "is better by" in verdict.reason


@pytest.mark.parametrize("metric", [Top(1), Agreement(), Divergence(), RelativeL2(), Cosine()], ids=lambda m: m.name)
def test_the_original_itself_passes_a_drop_of_zero(metric):
    verdict = Judge(ORIGINAL, SAMPLES, LABELS, metric, Gate(max_drop=0.0, observed=True)).judge(linear(WEIGHT))
    assert verdict
    assert verdict.drop.estimate == pytest.approx(0, abs=1e-15)
    assert verdict.drop.high > 0 or metric.name == "cosine"
    assert "is the same, within the 0 allowed" in verdict.reason or metric.name == "cosine"


@pytest.mark.parametrize(("n", "wrong"), [(200, 1), (1000, 5), (600, 3)])
@pytest.mark.parametrize("drop_type", ["absolute", "relative"])
def test_a_drop_of_exactly_the_tolerance_passes(n, wrong, drop_type):
    samples, labels, first, second = swapped(n, wrong)
    gate = Gate(max_drop=0.005, drop_type=drop_type, observed=True)
    assert Judge(first, samples, labels, Top(1), gate).judge(second)
    samples, labels, first, second = swapped(n, wrong + 1)
    assert not Judge(first, samples, labels, Top(1), gate).judge(second)


def test_the_slack_is_rounding_on_the_scale_of_the_metric():
    assert within(0.905 - 0.9, 0.005, 0.905)  # .0050000000000000044
    assert not within(0.005 + 1e-9, 0.005, 0.905)
    assert not within(1e-14, 0.0, 1e-13)  # an error of tiny signals has tiny units
    assert within(0.0, 0.0, 0.0)
    for bound in (math.nan, math.inf, -math.inf):
        assert not within(bound, math.inf, math.inf)


def test_certified_is_what_the_test_shows_and_observed_what_the_estimate_says():
    samples, labels, first, second = swapped(400, 2)
    plain = Judge(first, samples, labels, Top(1), Gate(max_drop=0.01, observed=True)).judge(second)
    sure = Judge(first, samples, labels, Top(1), Gate(max_drop=0.01)).judge(second)
    wide = Judge(first, samples, labels, Top(1), Gate(max_drop=0.02)).judge(second)
    assert (plain.word, sure.word, wide.word) == ("observed", "failed", "certified")
    assert plain.bound == sure.bound
    assert sure.drop.estimate == 0.005 < 0.01 < sure.bound.value < 0.02
    below = f"{sure.bound.value:.3g}"
    assert sure.reason == (
        f"top1 is worse by 0.005, but 400 samples certify only a drop below {below} (at 95 %), not the 0.01 allowed"
    )
    assert (
        plain.reason == f"top1 is worse by 0.005, within the 0.01 allowed; smallest certified drop: {below} (at 95 %)"
    )
    assert (
        wide.reason == f"top1 is worse by 0.005; at 95 % confidence the drop is below {below}, within the 0.02 allowed"
    )
    assert any("samples" in note and "would be certified as below 0.01" in note for note in sure.notes)
    loose = Judge(first, samples, labels, Top(1), Gate(max_drop=0.01, confidence=0.5)).judge(second)
    assert loose.bound.value < sure.bound.value
    assert loose.drop.level == loose.bound.confidence == 0.5


def test_no_decision_that_differs_proves_little_on_few_samples():
    samples, labels, first, _ = swapped(100, 0)
    verdict = Judge(first, samples, labels, Top(1), Gate(max_drop=0.01)).judge(first)
    assert not verdict
    assert verdict.bound.value == pytest.approx(1 - 0.05**0.01, abs=3e-4)
    assert any("would be certified as below 0.01 by about" in note for note in verdict.notes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("metric", [Top(1), Agreement(), Divergence(), Cosine()], ids=lambda m: m.name)
def test_a_candidate_with_nan_fails_whatever_its_metric_says(metric, value):
    broken = WEIGHT.copy()
    broken[0, 3] = value
    verdict = Judge(ORIGINAL, SAMPLES, LABELS, metric, Gate(max_drop=1e9, observed=True)).judge(linear(broken))
    assert not verdict
    assert verdict.reason == "output 'y' has NaN or Inf in 200 of 200 samples where the original has none"
    assert [each.finite for each in verdict.differences] == [False]


def test_a_users_metric_that_chokes_on_nan_is_a_verdict_not_a_crash():
    def picky(outputs, labels):
        if not all(np.isfinite(y).all() for y in outputs["y"]):
            raise ValueError("Input contains NaN")
        return np.ones(len(outputs["y"]))

    picky.needs_labels = False
    judge = Judge(ORIGINAL, SAMPLES, None, Custom(picky, "picky"), Gate(max_drop=0.0, observed=True))
    assert not judge.judge(linear(WEIGHT * math.nan))
    assert judge.judge(ORIGINAL)
    sometimes = linear(np.abs(WEIGHT), ops=("Log",))
    samples = [*({"x": np.full((1, WIDTH), x, np.float32)} for x in (1, 2, -1))]
    with pytest.raises(MetricError, match="Input contains NaN"):
        Judge(sometimes, samples, None, Custom(picky, "picky"), Gate(max_drop=0.0, observed=True)).judge(ORIGINAL)


def test_an_original_with_nan_is_said_to_have_it():
    samples = feeds(10)
    samples[3] = {"x": np.full((1, WIDTH), -1e30, np.float32)}
    model = linear(np.ones_like(WEIGHT), ops=("Log",))  # NaN below zero
    finite = [s for s in samples if s["x"].sum() > 0]
    assert 0 < len(finite) < 10
    verdict = Judge(model, samples, np.zeros((10, CLASSES)), SquaredError(), Gate(max_drop=0.0, observed=True)).judge(
        model
    )
    assert not verdict
    assert "the original's own mse is not a finite number; the original itself gives NaN" in verdict.reason
    assert any(f"NaN or Inf in {10 - len(finite)} of 10 samples (output 'y')" in note for note in verdict.notes)
    assert verdict.differences[0].finite


def test_every_output_is_compared():
    original, candidate = (linear(w, ops=("Relu",), outputs=("y", "z")) for w in (WEIGHT, -WEIGHT))
    verdict = Judge(original, SAMPLES, None, RelativeL2("z"), Gate(max_drop=3, observed=True)).judge(candidate)
    assert verdict
    assert [each.name for each in verdict.differences] == ["y", "z"]
    assert verdict.differences[1].relative_l2 == pytest.approx(2, rel=1e-5)
    assert verdict.differences[1].cosine == pytest.approx(-1, rel=1e-5)
    assert verdict.metric == "relative-l2@z"
    assert verdict.agreement is None


def test_agreement_is_given_where_the_output_holds_classes():
    original, candidate = (linear(w, ops=("Softmax",)) for w in (WEIGHT, WEIGHT + 0.3))
    for metric in (RelativeL2(), Custom(lambda outputs, labels: 1.0, "own")):
        found = Judge(original, SAMPLES, LABELS, metric, Gate(max_drop=9, observed=True)).judge(candidate).agreement
        assert found is not None
        assert found.low <= found.estimate <= found.high <= 1


def test_samples_of_different_lengths():
    generator = np.random.default_rng(3)
    samples = [{"x": generator.normal(size=(1, t, WIDTH)).astype(np.float32)} for t in (2, 2, 5, 3, 3, 7)]
    original, candidate = (linear(w, batch="tokens") for w in (WEIGHT, WEIGHT * 2))
    verdict = Judge(original, samples, None, Agreement(), Gate(max_drop=0.0, observed=True)).judge(candidate)
    assert verdict
    assert verdict.samples == 6
    assert verdict.differences[0].relative_l2 == pytest.approx(1, rel=1e-5)


def test_an_aggregate_of_the_users_own():
    def accuracy(outputs, labels):
        return float(np.mean([y.argmax() == label for y, label in zip(outputs["y"], labels, strict=True)]))

    judge = Judge(ORIGINAL, SAMPLES, LABELS, Custom(accuracy, "accuracy"), Gate(max_drop=0.02, observed=True))
    verdict = judge.judge(noisy(0.3))
    assert not verdict
    assert verdict.original.estimate == 1
    assert verdict.drop.low <= verdict.drop.estimate <= verdict.drop.high
    same = judge.judge(ORIGINAL)
    assert same
    assert same.drop.high > 0.01
    assert any("changed on no resample" in note for note in same.notes)


def test_a_verdict_does_not_depend_on_the_order_of_the_samples():
    order = np.random.default_rng(0).permutation(len(SAMPLES))
    candidate = noisy(0.3)
    one = Judge(ORIGINAL, SAMPLES, LABELS, CrossEntropy(), Gate(max_drop=0.0, observed=True)).judge(candidate)
    other = Judge(
        ORIGINAL, [SAMPLES[i] for i in order], LABELS[order], CrossEntropy(), Gate(max_drop=0.0, observed=True)
    ).judge(candidate)
    assert (one.drop.low, one.drop.high) == pytest.approx((other.drop.low, other.drop.high), rel=1e-4)


def test_the_originals_own_metric_is_known_before_any_candidate():
    judge = Judge(ORIGINAL, SAMPLES, LABELS, Top(1), Gate(max_drop=0.0, observed=True))
    assert judge.original().estimate == 1
    assert judge.original().low == pytest.approx(0.025 ** (1 / 200), abs=1e-9)
    exact = Judge(ORIGINAL, SAMPLES, None, Agreement(), Gate(max_drop=0.0, observed=True)).original()
    assert (exact.low, exact.estimate, exact.high) == (1, 1, 1)


def test_what_does_not_fit_is_one_line():
    with pytest.raises(DataError, match="no samples to validate on"):
        Judge(ORIGINAL, [], None, Agreement(), Gate(max_drop=0.0, observed=True))
    with pytest.raises(DataError, match="3 labels for 200 samples"):
        Judge(ORIGINAL, SAMPLES, [1, 2, 3], Top(1), Gate(max_drop=0.0, observed=True))
    with pytest.raises(MetricError, match="top1 needs labels"):
        Judge(ORIGINAL, SAMPLES, None, Top(1), Gate(max_drop=0.0, observed=True))
    with pytest.raises(MetricError, match="use --drop-type absolute"):
        Judge(ORIGINAL, SAMPLES, None, Divergence(), Gate(max_drop=0.1, drop_type="relative", observed=True)).judge(
            ORIGINAL
        )
    with pytest.raises(ModelError, match="the candidate has no output 'z'"):
        Judge(linear(WEIGHT, outputs=("y", "z")), SAMPLES, None, Agreement(), Gate(max_drop=0.0, observed=True)).judge(
            ORIGINAL
        )
