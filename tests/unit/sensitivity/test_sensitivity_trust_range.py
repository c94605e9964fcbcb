"""The perturbation range: predictions that hold stay, the others carry what was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.sensitivity.trust_range import AGREE, ROUNDING, agrees, within_trust_range
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option, Probe

DENSE = Option(UNCHANGED, Cost(100, 400, 100.0))
ERRORS = [0.01, 0.04, 0.1, 0.2, 0.4, 0.8]
POSITIVE = st.floats(1e-5, 100)


def curve_of(losses: list[float]) -> Curve:
    """Return a curve whose options have these losses at ERRORS, and a tenth of each as deviation."""
    ranks = range(len(losses), 0, -1)
    made = [
        Option(Form("svd", (k,)), Cost(9 * k, 0, 0.0), e, x, x / 10)
        for k, e, x in zip(ranks, ERRORS, losses, strict=True)
    ]
    return Curve("s", (DENSE, *made))


def losses_of(curve: Curve) -> list[float]:
    return [option.loss for option in curve.options[1:]]


LOSSES = [0.1, 0.4, 1.0, 2.0, 4.0, 8.0]


def probe_at(index: int, ratio: float) -> Probe:
    return Probe(ERRORS[index], LOSSES[index] * ratio, LOSSES[index], Form("svd", (6 - index,)))


def test_agreement_is_a_factor_either_way_or_rounding():
    assert agrees(Probe(0.1, AGREE, 1.0))
    assert agrees(Probe(0.1, 1.0, AGREE))
    assert agrees(Probe(0.1, ROUNDING / 2, 0.0))
    assert not agrees(Probe(0.1, AGREE * 1.01, 1.0))
    assert not agrees(Probe(0.1, 1.0, AGREE * 1.01))
    assert not agrees(Probe(0.1, 3 * ROUNDING, 0.0))


def test_agreement_everywhere_keeps_every_prediction():
    curve = curve_of(LOSSES)
    got = within_trust_range(curve, [probe_at(4, 1.9), probe_at(1, 0.6)])
    assert got.options == curve.options
    assert got.trust_range == 0.8
    assert [probe.error for probe in got.probes] == [0.04, 0.4]


def test_nothing_measured_nothing_changed():
    curve = curve_of(LOSSES)
    assert within_trust_range(curve, []) == curve
    unpredicted = Probe(0.1, 1.0)
    assert within_trust_range(curve, [unpredicted]) == replace(curve, probes=(unpredicted,))


def test_an_error_that_is_rounding_places_no_end_of_the_range():
    """Of a weight of exact rank it is 0 on one processor and 5e-8 on another: both say the same."""
    curve = curve_of(LOSSES)
    for error in (0.0, 5e-8):
        exact = Probe(error, 1e-12, 0.0, Form("svd", (6,)))
        assert within_trust_range(curve, [exact]).trust_range == ERRORS[-1]
        assert within_trust_range(curve, [exact, probe_at(1, 1.5), probe_at(3, 4.0)]).trust_range == ERRORS[1]
        assert within_trust_range(curve, [replace(exact, loss=0.1)]).trust_range is None


def test_beyond_the_range_losses_carry_the_measured_ratio():
    got = within_trust_range(curve_of(LOSSES), [probe_at(1, 1.5), probe_at(3, 4.0)])
    assert got.trust_range == ERRORS[1]
    between = 4.0 ** (np.log(0.1 / 0.04) / np.log(0.2 / 0.04))  # interpolated in log error, from 1 at the range's end
    expected = [0.1, 0.4, 1.0 * between, 2.0 * 4, 4.0 * 4, 8.0 * 4]
    assert losses_of(got) == pytest.approx(expected, rel=1e-9)
    assert [o.deviation for o in got.options[1:]] == pytest.approx([x / 10 for x in expected], rel=1e-9)
    assert got.dense == DENSE


def test_a_first_probe_that_disagrees_leaves_no_range():
    got = within_trust_range(curve_of(LOSSES), [probe_at(2, 3.0), probe_at(4, 1.0)])
    assert got.trust_range == 0.0
    before = [1 + 2 * error / ERRORS[2] for error in ERRORS[:2]]  # what is above 1 is proportional to the error
    assert losses_of(got)[:3] == pytest.approx([0.1 * before[0], 0.4 * before[1], 3.0], rel=1e-9)
    assert losses_of(got)[4:] == pytest.approx([4.0, 8.0], rel=1e-9)


def test_an_agreement_behind_a_disagreement_does_not_extend_the_range():
    got = within_trust_range(curve_of(LOSSES), [probe_at(0, 1.0), probe_at(2, 5.0), probe_at(4, 1.0)])
    assert got.trust_range == ERRORS[0]
    assert losses_of(got)[2] == pytest.approx(5.0, rel=1e-9)


@given(
    st.lists(POSITIVE, min_size=6, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), POSITIVE, POSITIVE), min_size=1, max_size=5, unique_by=lambda p: p[0]),
)
def test_losses_never_fall_with_the_error_and_the_range_is_kept(losses: list[float], measured):
    curve = curve_of(sorted(losses))
    probes = [Probe(ERRORS[i], loss, predicted) for i, loss, predicted in measured]
    got = within_trust_range(curve, probes)
    assert (np.diff(losses_of(got)) >= 0).all()
    for before, after in zip(curve.options, got.options, strict=True):
        assert replace(after, loss=0.0, deviation=0.0) == replace(before, loss=0.0, deviation=0.0)
        assert after.loss >= before.loss * (1 - 1e-9)  # a measurement never makes an option cheaper
        if before.error <= got.trust_range:
            assert after == before
    assert got.trust_range in (0.0, *ERRORS)
    assert all(agrees(p) for p in got.probes if p.error <= got.trust_range)


def test_what_is_measured_cheaper_than_predicted_stays_as_predicted():
    got = within_trust_range(curve_of(LOSSES), [probe_at(2, 0.1), probe_at(4, 0.2)])
    assert got.trust_range == 0.0
    assert losses_of(got) == pytest.approx(LOSSES, rel=1e-9)


def test_a_standard_error_is_taken_off_what_was_measured_and_what_is_0_gets_a_loss():
    noisy = replace(probe_at(3, 4.0), deviation=2.0)  # 8 measured, 2 predicted: at least 6 of them
    assert losses_of(within_trust_range(curve_of(LOSSES), [noisy]))[3:] == pytest.approx([6, 12, 24], rel=1e-9)
    nothing = Probe(ERRORS[3], 0.5, 0.0, Form("svd", (3,)))
    assert losses_of(within_trust_range(curve_of([0.0] * 6), [nothing])) == pytest.approx([0, 0, 0, 0.5, 0.5, 0.5])


def test_what_is_vouched_for_keeps_its_prediction_up_to_the_first_probe_that_disagrees():
    curve, probe = curve_of(LOSSES), probe_at(4, 8.0)
    got = within_trust_range(curve, [probe], ERRORS[2])
    assert got.trust_range == ERRORS[2]
    assert losses_of(got)[:3] == LOSSES[:3]
    assert losses_of(got)[3:] == pytest.approx([2 * 8 ** (np.log(2) / np.log(4)), 32, 64], rel=1e-9)
    assert within_trust_range(curve, [probe], ERRORS[5]).trust_range == 0.0
