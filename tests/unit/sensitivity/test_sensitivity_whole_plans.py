"""Whole plans are measured as the rewritten model would be, on as many samples as their precision needs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from builders import feeds_of, found_in, mlp, normal, observed, options, plan_of, run, samples_of
from exhaustive import swept

from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.gradient import observed_ranks
from onnx_lowrank.graph.model_io import content_hash
from onnx_lowrank.metrics import listed
from onnx_lowrank.metrics.divergence import OutputDivergence, Probing
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.sensitivity.curves import joint_curves
from onnx_lowrank.sensitivity.substitution import LARGEST_LOSS, substitutable
from onnx_lowrank.sensitivity.whole_plans import FEWEST, MOST, Estimate, PlanMeter
from onnx_lowrank.types import Choice

MODEL = mlp([10, 12, 8], [None, None], 1)
FEEDS = feeds_of(normal([64, 10], 2))


def joint_of(model, feeds):
    found = found_in(model)
    objective = Objective.of(model, "relative-l2", listed([run(model, feed) for feed in feeds[:16]]), 0)
    seen, shapes = (
        observed(model, found, feeds),
        observed_ranks(model, feeds[0], runtime=Runtime(provider="cpu", threads=1)),
    )
    samples, digest = samples_of(feeds), content_hash(model)
    collection = CollectionSetup(model, digest, found, seen, samples, objective, shapes, options(), 8, True)
    joint = joint_scores(collection)
    return found, objective, collection, joint, joint_curves(found, seen, joint)


def meter_of(probing: Probing | None = None, *, batch: int = 1, feeds=FEEDS):
    found, objective, _, _, curves = joint_of(MODEL, FEEDS)
    runner = Runner(substitutable(MODEL, found, found.sites), runtime=options().runtime)
    factors = curves.decomposed.factors
    meter = PlanMeter(runner, found, factors.__getitem__, feeds, probing or objective.probing, batch)
    return meter, found, objective, curves.decomposed.curves, factors


@pytest.mark.parametrize("batch", [1, 8])
def test_a_plan_is_measured_as_the_rewritten_model(batch: int):
    meter, found, objective, curves, factors = meter_of(batch=batch)
    choices = [Choice(curve.site, "", curve.options[-1]) for curve in curves]
    plan = plan_of({c.site: (c.option.scheme, c.option.ranks) for c in choices}, found)
    changed = rewrite(MODEL, found, plan, factors)
    losses = [objective.divergence(run(MODEL, feed), run(changed, feed), 1) for feed in FEEDS]
    got = meter.values(choices, len(FEEDS))
    assert sorted(got) == pytest.approx(sorted(losses), rel=1e-3)
    assert meter.runs == 2 * len(FEEDS)  # as it is, and changed
    assert len(meter.values(choices, FEWEST)) == len(FEEDS)
    assert meter.runs == 2 * len(FEEDS)  # nothing is run twice


def test_samples_are_added_until_the_error_is_small():
    meter, _, _, curves, _ = meter_of()
    choices = [Choice(curves[0].site, "", curves[0].options[-1])]
    got = meter.estimate(choices)
    assert got.precise
    assert got.samples in meter.sizes == [32, 64]
    assert got == Estimate.of(meter.values(choices, 1))


def test_without_memory_samples_are_run_again_and_say_the_same():
    one, other = meter_of()[0], meter_of()[0]
    other.memory = 0
    choices = [Choice(curve.site, "", curve.options[-1]) for curve in meter_of()[3]]
    for count in (1, 2):
        got = [meter.values(choices[:count], len(FEEDS)) for meter in (one, other)]
        np.testing.assert_array_equal(*got)
    assert (one.runs, other.runs) == (3 * len(FEEDS), 4 * len(FEEDS))


def test_infinity_stays_a_number_and_takes_all_samples_there_are():
    never = OutputDivergence("y", "relative-l2", variance=1e-300)
    meter, _, _, curves, _ = meter_of(Probing((never,)), feeds=FEEDS[:40])
    got = meter.estimate([Choice(curves[0].site, "", curves[0].options[-1])])
    assert got.loss == LARGEST_LOSS
    assert meter.sizes == [32, 40]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 500])
def test_sizes_double_up_to_all_or_most(count: int):
    meter, *_ = meter_of(feeds=[FEEDS[0]] * count)
    assert meter.sizes[0] == min(count, FEWEST)
    assert meter.sizes[-1] == min(count, MOST)
    assert all(b <= 2 * a for a, b in pairwise(meter.sizes))


def test_one_sample_is_precise_only_where_it_shows_nothing():
    assert not Estimate.of(np.array([0.5])).precise
    assert Estimate.of(np.array([0.0])).precise


@pytest.mark.parametrize("batch", [1, 8])
def test_a_single_substitution_is_the_rewritten_model_on_the_first_fold(batch: int):
    found, objective, collection, joint, curves = joint_of(MODEL, FEEDS)
    first, _ = curves.decomposed.curves
    first_fold = [FEEDS[i] for i in collection.folds.scored[0]]
    picks = {first.site: [first.options[2], first.options[-1]]}
    got = swept(MODEL, found, (first,), joint, picks, first_fold, objective.divergence, batch=batch)
    assert len(got[0].probes) == 2
    for probe in got[0].probes:
        key = (first.site, probe.form.scheme)
        plan = plan_of({first.site: (probe.form.scheme, probe.form.ranks)}, found)
        changed = rewrite(MODEL, found, plan, {key: joint.scored[key].held})
        loss = np.mean([objective.divergence(run(MODEL, f), run(changed, f), 1) for f in first_fold])
        assert probe.loss == pytest.approx(float(loss), rel=1e-3)
