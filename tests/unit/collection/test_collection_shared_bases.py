"""A shared first factor: its scores are what is measured, and siblings are collected together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import found_in, normal, observed, options, run, samples_of, shared_inputs
from exhaustive import Exhaustive, collection, reached, squared, unit

from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.sample_cache import SampleCache
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.gradient import observed_ranks
from onnx_lowrank.graph.model_io import content_hash
from onnx_lowrank.metrics import listed
from onnx_lowrank.options import Runtime
from onnx_lowrank.sensitivity.curves import joint_curves
from onnx_lowrank.types import SHARED


@pytest.mark.parametrize("outs", [(8, 8), (12, 14, 5), (3, 2)])
def test_the_score_of_a_shared_first_factor_is_the_measured_rise_of_every_sibling(outs: tuple[int, ...]):
    """With every seed once, no sampling is left: exact at every rank, wider and narrower than the input."""
    model = shared_inputs(8, outs, rank=None, together=False, linear=True)
    one = collection(model, normal([8, 8], 5), Exhaustive("y", unit), repeats=8, batch=8)
    probes = [(curve.site, probe) for curve in reached(one, squared) for probe in curve.probes]
    shared = [(site, probe) for site, probe in probes if probe.form.scheme == SHARED]
    assert {site for site, _ in shared} == {f"h{i}" for i in range(len(outs))}
    for _, probe in shared:
        assert probe.loss > 1e-6
        assert probe.predicted == pytest.approx(probe.loss, rel=2e-3)


def sampled(model: onnx.ModelProto, x: np.ndarray, **settings) -> CollectionSetup:
    feeds = [{"x": x[i : i + 1]} for i in range(len(x))]
    found = found_in(model)
    shapes = observed_ranks(model, feeds[0], runtime=Runtime(provider="cpu", threads=1))
    objective = Objective.of(model, "relative-l2", listed([run(model, feed) for feed in feeds[:8]]), 0)
    seen, samples, chosen = observed(model, found, feeds), samples_of(feeds), options(**settings)
    return CollectionSetup(model, content_hash(model), found, seen, samples, objective, shapes, chosen, 4, True)


def test_one_row_space_costs_nothing_together_and_something_alone():
    model = shared_inputs(16, [16, 16, 16], rank=6, together=True)
    one = sampled(model, normal([96, 16], 5))
    joint = joint_scores(one)
    for site in ("h0", "h1", "h2"):
        shared, alone = joint.scored[site, SHARED], joint.scored[site, "svd"]
        at = shared.ranks.index((6,))
        assert shared.rise[at] <= 1e-6 * shared.rise[0]
        assert alone.rise[alone.ranks.index((5,))] > 1e-3 * alone.rise[0]
        assert (np.diff(shared.rise) <= 0).all()


def test_scores_are_those_of_samples_run_again(monkeypatch: pytest.MonkeyPatch):
    one = sampled(shared_inputs(12, [12, 20], rank=None, together=False), normal([24, 12], 5))
    kept = joint_scores(one)
    monkeypatch.setattr(SampleCache, "open", False)
    again = joint_scores(one)
    for site in ("h0", "h1"):
        first, second = kept.scored[site, SHARED], again.scored[site, SHARED]
        np.testing.assert_allclose(first.tails, second.tails, rtol=1e-4, atol=1e-5 * np.abs(second.tails).max())


def test_siblings_are_collected_together_whatever_the_memory():
    """Their first stage is fitted to all of them: in one group, even where that is more than is allowed."""
    model = shared_inputs(8, [8, 8, 8], rank=None, together=False)
    one = sampled(model, normal([8, 8], 5), memory=2**24)
    tight = replace(one, observed=replace(one.observed, bytes=dict.fromkeys(one.observed.bytes, 2**24)))
    groups = [[site.id for site in group] for group in tight.groups()]
    assert len(groups) == 4
    assert {"h0", "h1", "h2"} in [set(group) for group in groups]
    expected, got = (joint_curves(c.inventory, c.observed, joint_scores(c)).decomposed.curves for c in (one, tight))
    for mine, other in zip(expected, got, strict=True):
        np.testing.assert_allclose([o.loss for o in mine.options], [o.loss for o in other.options], rtol=1e-4)


def test_without_families_nothing_changes():
    model = shared_inputs(12, [12, 20], rank=None, together=False)
    one = sampled(model, normal([24, 12], 5))
    without = replace(one, inventory=replace(one.inventory, all_shared_inputs=()))
    expected, got = joint_scores(without), joint_scores(one)
    assert {key for key in got.scored if key[1] != SHARED} == set(expected.scored)
    for key, scored in expected.scored.items():
        np.testing.assert_array_equal(scored.tails, got.scored[key].tails)
        np.testing.assert_array_equal(scored.kron, got.scored[key].kron)
