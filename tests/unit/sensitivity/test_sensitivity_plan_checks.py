"""What is said of predictions counts what was measured with enough samples, and says on which."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import feeds_of, found_in, mlp, normal, options, samples_of

from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.progress import Clock, Silent
from onnx_lowrank.sensitivity.calibrated import Probed
from onnx_lowrank.sensitivity.correction import PlanCheck
from onnx_lowrank.sensitivity.measure import calibrate, probe
from onnx_lowrank.sensitivity.plan_checks import how_far
from onnx_lowrank.sensitivity.selection import Selection
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option

GOOD = PlanCheck(0.9, 1.0, 1.2, 0.1, 32)
BAD = PlanCheck(0.4, 1.0, 5.0, 0.1, 32)
NOISY = PlanCheck(0.4, 1.0, 1.0, 0.5, 64)
CURVE = Curve("s", (Option(UNCHANGED, Cost()), Option(Form("svd", (1,)), Cost(), 0.5, 1.0)))


def test_only_plans_with_enough_samples_are_counted():
    (said,) = how_far(Probed((CURVE,), (GOOD, BAD, NOISY)))
    assert said == (
        "1 of 2 whole plans that were measured to 25 % or better on samples that nothing was fitted on loses what is"
        " predicted within a factor of 2"
    )
    (said,) = how_far(Probed((CURVE,), (NOISY,)))
    assert said == "too few samples to check it on (samples that nothing was fitted on)"
    assert how_far(Probed((CURVE,))) == []


def test_corrected_weights_another_measure_and_other_samples_are_said():
    moved = replace(CURVE, trust_range=0.1)
    said = how_far(Probed((moved, CURVE), (GOOD,), Selection(0.25, 1.5), held_back=False))
    assert "on calibration samples, as none were held back lose" in said[0]
    assert said[1] == "1 of 2 weights loses more than predicted and carries what was measured"
    assert said[2].startswith("ranks are chosen by the errors of the weights as well")


@pytest.mark.parametrize("held_back", [True, False])
def test_plans_are_checked_with_and_without_samples_held_back(held_back: bool):
    model, chosen = mlp([12, 16, 8], [None, None], 1), options()
    loaded, found = LoadedModel.of(model, chosen.runtime), found_in(model)
    feeds, clock = feeds_of(normal([400, 12], 2)), Clock(Silent())
    done = calibrate(loaded, samples_of(feeds[:320]), found, chosen, clock, "relative-l2")
    state = probe(loaded, found, done, chosen, clock, feeds[320:] if held_back else ())
    assert ("as none were held back" in state.source) != held_back
    assert "measuring whole plans" in clock.seconds
    assert len(state.checks) >= 4
    assert all(check.agrees for check in state.checks if check.keep >= 0.4)  # smaller ones saturate
    losses = [state.expected(loss) for loss in (1e-4, 1e-3, 1e-2)]
    assert losses == sorted(losses)
