"""Two looks: the level is divided, and what is certified at the first look cost a part of the samples."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from builders import classifier_folder, options

from onnx_lowrank import statistics
from onnx_lowrank.goals import Compact, Gate
from onnx_lowrank.pipeline import DataSources, Session, confirm, judges, meet_goal
from onnx_lowrank.validation.looks import EARLY, PART, ROOM, first_look, first_samples, second_look
from onnx_lowrank.validation.screening import PRIOR, Aim, Screened, _early, expected_bounds

SAMPLES = 4000


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_levels_of_both_looks_are_that_of_one(confidence: float):
    gate = Gate(max_drop=0.02, confidence=confidence)
    assert first_look(gate).alpha + second_look(gate).alpha == pytest.approx(gate.alpha)
    assert first_look(gate).alpha == pytest.approx(EARLY * gate.alpha)
    assert first_look(gate).max_drop == second_look(gate).max_drop == 0.02


@pytest.mark.parametrize("allowed", [0.002, 0.01, 0.2])
def test_a_first_look_would_certify_a_quarter_of_what_is_allowed(allowed: float):
    gate = Gate(max_drop=allowed)
    count = first_samples(10**6, gate, allowed)
    bounds = [statistics.share_bound(0, n, first_look(gate).alpha) for n in (count - 1, count)]
    assert bounds[1] <= ROOM * allowed < bounds[0]
    assert first_samples(int(count / PART) - 2, gate, allowed) == 0
    assert first_samples(int(count / PART) + 2, gate, allowed) == count


def test_there_is_none_where_no_drop_is_allowed():
    assert first_samples(10**6, Gate(max_drop=0.0, observed=True), 0.0) == 0


@functools.cache
def _certified(lost: int, gained: int, n: int, allowed: float, alpha: float) -> bool:
    return statistics.difference_p_value(lost, gained, n, allowed) <= alpha


def test_two_looks_are_false_no_more_often_than_the_level():
    """A plan at the limit, whose looks share samples: certified at one or the other."""
    gate, n, changed = Gate(max_drop=0.05), 1500, 0.06
    part = first_samples(n, gate, 0.05)
    rng, false = np.random.default_rng(0), 0
    shares = [(changed + 0.05) / 2, (changed - 0.05) / 2, 1 - changed]
    repetitions = 3000
    for early, late in zip(
        rng.multinomial(part, shares, repetitions), rng.multinomial(n - part, shares, repetitions), strict=True
    ):
        lost, gained, _ = (int(x) for x in early + late)
        false += _certified(int(early[0]), int(early[1]), part, 0.05, first_look(gate).alpha) or _certified(
            lost, gained, n, 0.05, second_look(gate).alpha
        )
    assert 0 < false <= repetitions * (0.05 + 2 * np.sqrt(0.05 * 0.95 / repetitions))


def _screened(divergence: float, changed: float | None) -> Screened:
    return Screened(256, divergence, changed, None if changed is None else np.zeros(256))


@pytest.mark.parametrize("dense", [False, True])
def test_plans_far_from_the_limit_alone_have_two(dense: bool):
    plans = [_screened(d, d / 100) for d in (1e-8, 1e-6, 1e-4, 1e-2, 1.0)]
    aim = Aim(10_000, 0.05, 0.01, 7, 0.06, dense=dense, early=2000)
    flags = _early(plans, aim)
    bounds = expected_bounds(plans, 2000, EARLY * 0.05, PRIOR if dense else 0.0)
    assert flags == [bound <= 0.005 for bound in bounds]
    assert flags[0]
    assert not flags[-1]
    assert not any(_early(plans, Aim(10_000, 0.05, 0.01, 7, 0.06)))
    assert not any(_early([*plans, _screened(0.1, None)], aim))


def test_a_sequence_looks_at_a_part_first_and_claims_by_all(tmp_path, monkeypatch):
    folder, rng = classifier_folder(tmp_path), np.random.default_rng(3)
    with np.load(folder / "cal.npz") as held:
        calibration = dict(held)
    original = Session.of(folder / "model.onnx", DataSources(data=calibration), options()).loaded.runner
    x = rng.normal(size=(SAMPLES, 32)).astype(np.float32)
    labels = original.run({"x": x})["y"].argmax(1)
    sources = DataSources(data=calibration, validation={"x": x, "labels": labels})
    goal = Compact(gate=Gate(max_drop=0.05))

    def result():
        session = Session.of(folder / "model.onnx", sources, options(metric="top1"))
        return meet_goal(session, goal, dry_run=True)

    twice = result()
    glances = [trial for trial in twice.trials if trial.verdict.samples < SAMPLES]
    assert glances
    assert all(trial.plan.early and trial.verdict.bound.confidence == pytest.approx(0.99) for trial in glances)
    assert twice.verdict.samples == SAMPLES
    assert twice.verdict.bound.confidence == pytest.approx(0.95)
    assert "samples but not by all: left out" in confirm._left_out(glances[0], twice.verdict)
    monkeypatch.setattr(judges, "first_samples", lambda *_: 0)
    once = result()
    assert all(trial.verdict.samples == SAMPLES for trial in once.trials)
    assert [t.plan.choices for t in once.trials] == [t.plan.choices for t in twice.trials]
    assert once.plan.choices == twice.plan.choices
