"""The paper's sensitivity and every switch, each alone, the whole way: the file runs, names its switch, and holds."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import convnet, correlated, elements, mlp, normal, options, run
from rich.console import Console

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Compact, Gate, Goal, Lossless
from onnx_lowrank.graph.model_io import load
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline import DataSources, Session, apply, meet_goal, optimize
from onnx_lowrank.plan import lossless
from onnx_lowrank.plan.allocate import least_loss
from onnx_lowrank.plan.interlayer import joint_rise
from onnx_lowrank.plan.signed import agreed
from onnx_lowrank.report.result_page import ROWS, render_result
from onnx_lowrank.results.result import Result
from onnx_lowrank.results.saved_plan import SavedPlan

LOOSE = Gate(max_drop=10.0, observed=True)
CONV = convnet([4, 16, 16], [None, None], 5, 3)
IMAGES = {"x": normal([40, 4, 8, 8], 1)}


def classifier() -> onnx.ModelProto:
    """Two layers of nearly low rank (a tail of noise) and a head, whose output is named as class scores are."""
    model = mlp([24, 32, 32, 10], [6, 6, None], 11)
    for tensor in model.graph.initializer:
        if tensor.name in ("fc0", "fc1"):
            array = onnx.numpy_helper.to_array(tensor)
            noisy = array + 0.02 * normal(array.shape, 5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(noisy, tensor.name))
    model.graph.node[-1].output[0] = model.graph.output[0].name = "logits"
    return model


MODEL = classifier()


def labelled(count: int, seed: int) -> dict[str, np.ndarray]:
    """Return samples with the model's decisions for labels, but every fifth another class."""
    x = normal([count, 24], seed)
    labels = run(MODEL, {"x": x})["logits"].argmax(1)
    return {"x": x, "labels": (labels + (np.arange(count) % 5 == 0)) % 10}


def sources() -> DataSources:
    return DataSources(data=labelled(128, 1), validation=labelled(100, 2))


def went(goal: Goal, output: Path | None = None, **changes: object) -> Result:
    settings = options(metric="top1", **changes)
    return optimize(MODEL, sources(), goal, settings, output=output, dry_run=output is None)


once = cache(went)
"""The same of a run that several tests compare others with."""


def record(model: onnx.ModelProto) -> dict[str, object]:
    (entry,) = [p for p in model.metadata_props if p.key == "onnx_lowrank"]
    return json.loads(entry.value)


def runs(path: Path, result: Result, switches: list[str]) -> None:
    """The file runs, has the size and the outputs of the result, and names its switches."""
    saved = load(path)
    feed = {"x": normal([3, 24], 7)}
    assert record(saved)["switches"] == switches
    assert elements(saved) == result.after.parameters < result.before.parameters
    np.testing.assert_array_equal(run(saved, feed)["logits"], run(result.model, feed)["logits"])
    moved = run(saved, feed)["logits"] - run(MODEL, feed)["logits"]
    assert 1e-4 < np.abs(moved).max() < 10.0


# the paper


@pytest.mark.parametrize("goal", [Compact(gate=LOOSE), Lossless(keep=0.8, gate=LOOSE)], ids=["compact", "lossless"])
def test_the_paper_chooses_by_its_rule(goal: Goal, tmp_path: Path):
    result = went(goal, tmp_path / "p.onnx", sensitivity="paper", gamma=0.4)
    assert result.changed, result.reason
    runs(tmp_path / "p.onnx", result, [])
    assert record(result.model)["sensitivity"] == "paper"
    assert len(result.trials) == 1
    curves = {curve.site: curve for curve in result.curves}
    assert result.plan.factored
    for choice in result.plan.choices:
        allowed = [o for o in curves[choice.site].options[1:] if o.slope <= 0 and o.error <= 0.4**2]
        dense = curves[choice.site].dense
        assert choice.option.error <= 0.4**2
        if isinstance(goal, Compact):
            assert choice.option in (allowed or [dense])
            assert choice.option.cost.parameters == min(o.cost.parameters for o in allowed or [dense])
    if isinstance(goal, Lossless):
        assert result.after.parameters <= 0.8 * result.before.parameters
    assert all(o.error > 0 for curve in result.curves for o in curve.options[1:])
    assert any(o.slope > 0 for curve in result.curves for o in curve.options)


def test_the_paper_measures_errors_of_the_weights():
    """`error` is ‖δ‖² / ‖W‖² of the truncated SVD of the weight itself, which γ bounds."""
    session = Session.of(MODEL, sources(), options(metric="top1", sensitivity="paper"))
    state = session.collect(session.metric(LOOSE)[0])
    for site, curve in zip(session.inventory.sites, state.curves, strict=True):
        singular = np.linalg.svd(session.inventory.weight(site), compute_uv=False) ** 2
        for option in curve.options[1:]:
            expected = singular[option.ranks[0] :].sum() / singular.sum()
            assert option.error == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_the_paper_needs_labels_or_class_scores():
    model = mlp([16, 24, 8], [None] * 2, 1)
    with pytest.raises(GoalError, match="first-order term is zero") as caught:
        optimize(model, {"x": normal([60, 16], 1)}, Compact(gate=LOOSE),
                 options(sensitivity="paper", metric="relative-l2"))  # fmt: skip
    assert "\n" not in str(caught.value)


def test_a_size_out_of_the_reach_of_gamma_says_so():
    with pytest.raises(GoalError, match=r"--gamma 0\.01") as caught:
        went(Lossless(keep=0.3, gate=LOOSE), sensitivity="paper", gamma=0.01)
    assert "\n" not in str(caught.value)
    assert went(Lossless(keep=0.3, gate=LOOSE), sensitivity="paper", gamma=1.0).changed


# the switches

SWITCHES = {
    "signed": {"signed": True},
    "inter_layer": {"inter_layer": True},
    "refit": {"refit": True},
    "continuation": {"continuation": 2},
}


@pytest.mark.parametrize("goal", [Compact(gate=Gate(max_drop=0.05, observed=True)), Lossless(keep=0.5, gate=LOOSE)],
                         ids=["compact", "lossless"])  # fmt: skip
@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_alone_goes_the_whole_way(name: str, goal: Goal, tmp_path: Path):
    result = went(goal, tmp_path / "s.onnx", **SWITCHES[name])
    assert result.changed, result.reason
    runs(tmp_path / "s.onnx", result, [name])
    assert result.verdict.drop.estimate <= goal.gate.max_drop
    if isinstance(goal, Lossless):
        assert 0.4 < result.after.parameters / result.before.parameters <= 0.5


def test_all_switches_together_are_all_named(tmp_path: Path):
    result = went(Lossless(keep=0.5, gate=LOOSE), tmp_path / "a.onnx", signed=True, inter_layer=True, refit=True,
                  continuation=2)  # fmt: skip
    runs(tmp_path / "a.onnx", result, ["signed", "inter_layer", "refit", "continuation"])
    plain = went(Lossless(keep=0.5, gate=LOOSE), tmp_path / "p.onnx")
    runs(tmp_path / "p.onnx", plain, [])


def test_signed_losses_are_the_others_plus_what_both_halves_agree_on():
    plain, other = (Session.of(MODEL, sources(), options(metric="top1", signed=on)) for on in (False, True))
    before, after = (session.collect(session.metric(LOOSE)[0]) for session in (plain, other))
    terms = []
    for one, two in zip(before.curves, after.curves, strict=True):
        slopes = after.calibrated.slopes[one.site]
        terms.append(agreed(slopes[: len(slopes) // 2], slopes[len(slopes) // 2 :]))
        for first, second, term in zip(one.options, two.options, terms[-1], strict=True):
            assert (first.scheme, first.ranks) == (second.scheme, second.ranks)
            assert second.loss == pytest.approx(first.loss + term, rel=1e-5, abs=1e-9)
    assert np.abs(np.concatenate(terms)).max() > 1e-3
    there = other.shrink(after, other.problem("parameters").best(1200.0, "step"))
    unsigned = replace(other, options=options(metric="top1"))
    here = unsigned.shrink(after, other.problem("parameters").best(1200.0, "step"))
    gained = [a.loss - b.loss for x, y in zip(there.curves, here.curves, strict=True)
              for a, b in zip(x.options, y.options, strict=True)]  # fmt: skip
    assert np.abs(gained).max() > 1e-3


def test_inter_layer_gives_the_planner_the_terms_between_sites():
    session = Session.of(MODEL, sources(), options(metric="top1", inter_layer=True))
    state = session.collect(session.metric(LOOSE)[0])
    problem = session.problem("parameters")
    assert problem.tails.keys() == {site.id for site in session.inventory.sites}
    alone, gains = replace(problem, tails=None), []
    for budget in (600.0, 800.0, 1000.0, 1050.0, 1100.0, 1300.0, 1800.0, 1850.0):
        plans = [least_loss(each, budget, "") for each in (problem, alone)]
        with_terms, without = (joint_rise(problem, plan, state.calibrated.tails) for plan in plans)
        assert with_terms <= without * (1 + 1e-9)
        gains.append(1 - with_terms / without)
    assert max(gains) > 1e-3
    keep = (elements(MODEL) - problem.dense + 1000.0) / elements(MODEL)
    first = meet_goal(session, Lossless(keep=keep, gate=LOOSE), dry_run=True).trials[0]
    competing = [plan.choices for plan in lossless(problem, 1000.0)]
    assert competing[0] == least_loss(problem, 1000.0, "").choices
    assert first.plan.choices in competing  # which one, samples that nothing was fitted on have said


def test_refit_keeps_the_plan_and_lowers_the_error():
    model = mlp([16, 32, 32, 12], [None] * 3, 4)
    plain, refitted = (
        optimize(model, {"x": correlated(200, 16, 3)}, Lossless(keep=0.6, gate=LOOSE),
                 options(metric="relative-l2", sensitivity="weights", refit=on), dry_run=True)
        for on in (False, True)
    )  # fmt: skip
    first, second = ({c.weight: c.option for c in r.trials[0].plan.choices} for r in (plain, refitted))
    assert first == second
    drops = [r.trials[0].verdict.drop.estimate for r in (plain, refitted)]
    assert drops[1] < 0.9 * drops[0], drops


@pytest.mark.parametrize("asked", [None, True], ids=["by default", "asked for"])
def test_plans_far_from_the_answer_are_refitted_where_that_is_asked_for_alone(asked: bool | None):
    session = Session.of(MODEL, replace(sources(), data=labelled(512, 1)), options(metric="kl", refit=asked))
    result = meet_goal(session, Compact(gate=Gate(max_drop=0.5)), dry_run=True)
    mild = [trial.plan for trial in result.trials if trial.plan.mild]
    assert 1 <= len(mild) < len(result.trials)
    assert [trial.plan for trial in result.trials[: len(mild)]] == mild
    assert all((session.refitted_on(plan) > 0) == bool(asked) for plan in mild)
    assert any(session.refitted_on(trial.plan) for trial in result.trials[len(mild) :])
    state = session.collect(session.metric(LOOSE)[0])
    session.factors(replace(mild[0], mild=False), state)  # of another goal
    assert (session.refitted_on(mild[0]) > 0) == bool(asked)


def test_a_small_memory_bounds_what_judges_keep_and_changes_no_verdict():
    goal, made = Compact(gate=Gate(max_drop=0.5)), []
    for memory in (2**30, 2**24):
        session = Session.of(MODEL, sources(), options(metric="kl", memory=memory))
        made.append((meet_goal(session, goal, dry_run=True), session.judge(goal.gate).whole.reference))
    (one, wide), (other, narrow) = made
    assert (wide.limit, narrow.limit) == (2**27, 2**21)
    assert [trial.verdict for trial in one.trials] == [trial.verdict for trial in other.trials]


@pytest.mark.parametrize("sensitivity", ["inputs", "weights"])
def test_refit_goes_with_any_sensitivity_and_apply_repeats_it(sensitivity: str):
    settings = options(metric="top1", sensitivity=sensitivity, refit=True)
    result = optimize(MODEL, sources(), Lossless(keep=0.5, gate=LOOSE), settings, dry_run=True)
    saved = SavedPlan.of_result(result, "test")
    assert (saved.refit, saved.needs_data) == (True, True)
    given = sources()
    again = apply(
        saved, MODEL, given.data, Options(runtime=Runtime(provider="cpu", threads=1)), validation=given.validation
    )
    assert again.graph == result.model.graph
    assert record(again)["switches"] == ["refit"]


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("keep", [0.1, 0.2, 0.3])
def test_continuation_reaches_every_size_that_is_reached_without(steps: int, keep: float):
    """Of a convolution the two schemes have other smallest sizes: a step must not close the way to a smaller one."""
    result = optimize(CONV, IMAGES, Lossless(keep=keep, gate=LOOSE),
                      options(metric="relative-l2", continuation=steps), dry_run=True)  # fmt: skip
    assert result.changed, result.reason
    assert keep - 0.06 < elements(result.model) / elements(CONV) <= keep
    assert result.after.parameters == elements(result.model)


@pytest.mark.parametrize("extra", [{}, {"inter_layer": True}, {"signed": True}], ids=["", "inter_layer", "signed"])
@pytest.mark.parametrize("steps", [2, 3])
def test_compact_with_continuation_is_never_larger(steps: int, extra: dict[str, bool]):
    """The first round is what there is without it, and the smallest of all rounds comes first."""
    goal = Compact(gate=Gate(max_drop=0.05, observed=True))
    one, other = once(goal, **extra), went(goal, continuation=steps, **extra)
    assert other.after.parameters <= one.after.parameters < one.before.parameters
    first = len(one.trials)
    assert [t.plan.choices for t in other.trials[:first]] == [t.plan.choices for t in one.trials]
    assert len(other.trials) > first
    held = [t.size.parameters for t in other.trials if t.verdict.passed]
    assert other.after.parameters == min(held)


def test_a_budget_that_the_original_meets_is_searched_with_continuation_too():
    goal = Lossless(keep=1.0, gate=LOOSE)
    one, other = went(goal), went(goal, continuation=2)
    forms = [[[(c.site, c.option.form) for c in t.plan.choices] for t in each.trials] for each in (one, other)]
    assert forms[0] == forms[1]
    assert one.trials


def test_of_many_changed_weights_those_that_lose_most_are_listed():
    model = mlp([12] * 29, [None] * 28, 2)
    goal = Lossless(keep=0.5, gate=LOOSE)
    result = optimize(model, {"x": normal([60, 12], 1)}, goal, options(metric="relative-l2"), dry_run=True)
    changed = {choice.weight: choice.option.loss for choice in result.plan.factored}
    assert len(changed) > ROWS

    def printed(**how: bool) -> str:
        console = Console(width=100, file=io.StringIO())
        for part in render_result(result, width=100, **how):
            console.print(part)
        return console.file.getvalue()

    text, everything = printed(), printed(everything=True)
    listed = [weight for weight in changed if f" {weight} " in text]
    assert len(listed) == ROWS
    assert min(changed[weight] for weight in listed) >= max(changed[w] for w in changed if w not in listed)
    assert f"{len(changed) - ROWS} more weight" in text
    assert all(f" {weight} " in everything for weight in changed)
    assert "more weight" not in everything
