"""Plans that lose more than predicted are traced to the weights that do, and only their curves are corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.plan.expected import expected_loss
from onnx_lowrank.sensitivity.correction import KEEPS, Correction, PlanCheck
from onnx_lowrank.sensitivity.selection import Selection, cross_validated
from onnx_lowrank.sensitivity.whole_plans import Estimate
from onnx_lowrank.types import UNCHANGED, Choice, Cost, Curve, Form, Option

RANKS = (8, 6, 4, 3, 2, 1)
SITES = [f"s{i}" for i in range(12)]


def curve_of(site: str, scale: float) -> Curve:
    """Return a curve whose loss is `scale` times its error, falling with the rank."""
    made = [Option(Form("svd", (k,)), Cost(10 * k, 40 * k, 0.0), 1 / 4**k, scale / 4**k) for k in RANKS]
    return Curve(site, (Option(UNCHANGED, Cost(100, 400, 0.0)), *made))


CURVES = [curve_of(site, 1 + i / 7) for i, site in enumerate(SITES)]


@dataclass
class Oracle:
    """A meter that knows the truth: at every site a multiple of what is predicted, without noise."""

    times: Mapping[str, float] = field(default_factory=dict)
    feeds: Sequence[int] = (0,)
    runs: int = 0

    def loss(self, choices: Sequence[Choice]) -> float:
        raw = {(c.site, o.form): o.loss for c in CURVES for o in c.options}
        return sum(raw[c.site, c.option.form] * self.times.get(c.site, 1.0) for c in choices)

    def estimate(self, choices: Sequence[Choice]) -> Estimate:
        self.runs += 1
        return Estimate(self.loss(choices), 0.01 * self.loss(choices), 64)


def corrected(oracle: Oracle, allowance: int = 500):
    work = Correction(CURVES, {site: site for site in SITES}, oracle, allowance)  # type: ignore[arg-type]
    return work.run()


def test_predictions_that_hold_cost_a_measurement_a_size_and_stay():
    oracle = Oracle()
    curves, checks = corrected(oracle)
    assert curves == tuple(CURVES)
    assert [check.keep for check in checks] == list(KEEPS)
    for check in checks:
        assert check.predicted == pytest.approx(check.measured)
        assert check.agrees
        assert check.precise
    assert oracle.runs <= len(KEEPS)


@pytest.mark.parametrize("site", SITES)
def test_the_one_weight_that_loses_more_is_found_and_no_other_is_touched(site: str):
    oracle = Oracle({site: 300.0})
    curves, checks = corrected(oracle)
    for before, after in zip(CURVES, curves, strict=True):
        if after.site == site:
            assert after.trust_range == 0.0
            assert after.options[-1].loss == pytest.approx(300 * before.options[-1].loss, rel=0.05)
        else:
            assert after.options == before.options
    assert all(check.agrees for check in checks)
    assert sum(len(curve.probes) for curve in curves) < len(SITES)
    assert oracle.runs < 60  # a sweep of all weights at three sizes takes 36, and finds it at these alone


def test_a_plan_after_a_correction_loses_less_than_one_without():
    oracle = Oracle({"s0": 300.0, "s5": 100.0})
    work = Correction(CURVES, {site: site for site in SITES}, oracle, 500)  # type: ignore[arg-type]
    before = {keep: oracle.loss(plan.factored) for keep in KEEPS if (plan := work.planned(keep))}
    work.run()
    after = {keep: oracle.loss(plan.factored) for keep in KEEPS if (plan := work.planned(keep))}
    assert all(after[keep] <= before[keep] for keep in KEEPS)
    assert after[0.6] < before[0.6] / 4


@given(st.dictionaries(st.sampled_from(SITES), st.floats(0.05, 1000.0), max_size=5))
def test_corrected_curves_never_fall_and_never_get_cheaper(times: dict[str, float]):
    curves, checks = corrected(Oracle(times))
    for before, after in zip(CURVES, curves, strict=True):
        losses = [option.loss for option in after.options]
        assert losses == sorted(losses)
        assert all(a.loss >= b.loss for a, b in zip(after.options, before.options, strict=True))
    assert len(checks) == len(KEEPS)


def test_no_samples_and_no_allowance_leave_predictions_alone():
    assert corrected(Oracle(feeds=())) == (tuple(CURVES), ())
    curves, checks = corrected(Oracle({"s0": 300.0}), allowance=0)
    assert (curves, checks) == (tuple(CURVES), ())


def test_agreement_is_within_a_factor_of_2_or_rounding():
    assert PlanCheck(0.9, 1.0, 2.0, 0.1, 16).agrees
    assert not PlanCheck(0.9, 1.0, 2.1, 0.1, 16).agrees
    assert PlanCheck(0.9, 0.0, 5e-7, 1e-7, 16).agrees
    assert not PlanCheck(0.9, 1.0, 1.0, 0.3, 16).precise


@given(
    st.lists(st.tuples(*[st.floats(1e-8, 10)] * 3), max_size=7),
    st.lists(st.floats(1e-9, 100), min_size=2, max_size=5),
    st.floats(1, 3),
)
def test_what_is_expected_never_falls_with_what_is_predicted(measured, predicted, optimism):
    values = [expected_loss(loss, measured, optimism) for loss in sorted(predicted)]
    assert all(b >= a * (1 - 1e-9) for a, b in pairwise(values))


def test_what_is_expected_is_exact_where_predictions_are():
    known = [(x, x, x / 20) for x in (1e-5, 1e-3, 0.1)]
    for loss in (0.0, 1e-6, 5e-4, 0.1, 3.0):
        assert expected_loss(loss, known) == pytest.approx(loss)
        assert expected_loss(loss, []) == loss
        assert expected_loss(loss, [], 1.5) == 1.5 * loss


def test_a_measurement_counts_for_more_the_smaller_its_error():
    near, far = (expected_loss(1.0, [(1.0, 3.0, error)]) for error in (0.01, 3.0))
    assert 2.7 < near < 3.0
    assert 1.0 < far < 1.3


def tails_of(seed: int, samples: int, noise: float) -> dict[str, np.ndarray]:
    """Return tails whose squares are the losses of CURVES, with a few samples of much more weight than the others."""
    rng = np.random.default_rng(seed)
    made = {}
    for curve in CURVES:
        roots = np.sqrt([2 * option.loss for option in curve.options])
        made[curve.site] = (
            roots * np.exp(noise * rng.normal(size=(samples, len(roots)))) * rng.normal(size=(samples, 1))
        )
    return made


def test_choosing_is_not_optimistic_where_samples_agree():
    tails = {c.site: np.tile(np.sqrt([2 * o.loss for o in c.options]), (32, 1)) for c in CURVES}
    got = cross_validated(CURVES, tails, {site: site for site in SITES})
    assert got.blend == 0
    assert got.optimism == pytest.approx(1.0)


def test_choosing_among_noise_is_optimistic_and_goes_by_the_error_too():
    got = cross_validated(CURVES, tails_of(1, 16, 1.5), {site: site for site in SITES})
    assert got.blend > 0
    assert got.optimism > 1.2


def test_too_few_samples_say_nothing_of_choosing():
    assert cross_validated(CURVES, {}, {site: site for site in SITES}) == Selection()
    assert cross_validated(CURVES, tails_of(1, 1, 1.0), {site: site for site in SITES}) == Selection()
