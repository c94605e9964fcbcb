"""A study is collected once for any number of goals, a plan is measured once a gate, and the curve is what it says."""

from __future__ import annotations

import csv
import importlib
import json
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from builders import build, convnet, elements, mlp, node, normal, options, value

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Compact, Gate, Goal, Lossless
from onnx_lowrank.pipeline import Session, meet_goal, optimize, pareto, points_text
from onnx_lowrank.pipeline.ledger import size_before
from onnx_lowrank.pipeline.pareto import MEASURED, Point
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.plan.allocate import curve_plans
from onnx_lowrank.results.parts import Size
from onnx_lowrank.types import Plan

study_module = importlib.import_module("onnx_lowrank.pipeline.session")
LOOSE = Gate(max_drop=10.0, observed=True)
NET = mlp([24, 32, 32, 16], [None] * 3, 11)
DATA = {"x": normal([90, 24], 1)}
SETTINGS = options(metric="relative-l2")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count collections, probings and measured plans."""
    calls: Counter[str] = Counter()

    def count(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def counting(*args: object, **changes: object) -> object:
            calls[name] += 1
            return real(*args, **changes)

        monkeypatch.setattr(owner, name, counting)

    count(study_module, "calibrate")
    count(study_module, "probe")
    count(Search, "measure")
    return calls


def study_of(**changes: object) -> Session:
    return Session.of(NET, DATA, options(metric="relative-l2", **changes))


def ranks(plan: Plan | None) -> dict[str, tuple[str, tuple[int, ...]]]:
    assert plan is not None
    return {c.weight: (c.option.scheme, c.option.ranks) for c in plan.choices}


GOALS: list[Goal] = [
    Lossless(keep=0.6, gate=LOOSE),
    Lossless(keep=0.4, gate=LOOSE),
    Compact(gate=Gate(max_drop=0.3, observed=True)),
    Lossless(target_macs=0.5, gate=LOOSE),
]


def test_several_goals_collect_once_and_give_what_each_gives_alone(counted: Counter[str]):
    session = study_of()
    together = [meet_goal(session, goal, dry_run=True) for goal in GOALS]
    assert (counted["calibrate"], counted["probe"]) == (1, 1)
    alone = [optimize(NET, DATA, goal, SETTINGS, dry_run=True) for goal in GOALS]
    assert (counted["calibrate"], counted["probe"]) == (1 + len(GOALS), 1 + len(GOALS))
    for one, other in zip(together, alone, strict=True):
        assert one.changed
        assert ranks(one.plan) == ranks(other.plan)
        assert [ranks(t.plan) for t in one.trials] == [ranks(t.plan) for t in other.trials]
        assert one.model.graph == other.model.graph
        assert one.verdict == other.verdict
        assert one.before == other.before
        assert one.notes == other.notes
    assert len({str(ranks(result.plan)) for result in together}) > 2


def test_a_plan_is_measured_once_a_gate(counted: Counter[str]):
    session = study_of()
    first = meet_goal(session, GOALS[0], dry_run=True)
    assert counted["measure"] == len(first.trials) > 0
    again = meet_goal(session, GOALS[0], dry_run=True)
    assert counted["measure"] == len(first.trials)
    assert again.trials == first.trials
    meet_goal(session, Lossless(keep=0.6, gate=Gate(max_drop=9.0, observed=True)), dry_run=True)
    assert counted["measure"] == 2 * len(first.trials)
    assert session.judge(GOALS[0].gate) is session.judge(GOALS[0].gate)


def test_the_curve_falls_in_size_and_never_in_predicted_loss():
    points = pareto(study_of(), GOALS[0])
    assert 30 < len(points) <= 100
    assert (points[0].kept, points[0].predicted, points[0].drop) == (1.0, 0.0, None)
    for one, other in pairwise(points):
        assert one.parameters > other.parameters
        assert one.predicted <= other.predicted
    measured = [point for point in points if point.drop is not None]
    assert MEASURED - 2 <= len(measured) <= MEASURED
    assert points[-1].drop is not None
    for point in measured:
        assert point.low <= point.drop <= point.high
        assert (point.metric, point.unit) == ("relative-l2", "relative squared error")
        assert point.value == pytest.approx(point.drop, abs=1e-12)
    assert measured[0].drop < measured[-1].drop
    assert all((p.metric, p.value, p.low, p.high) == ("", None, None, None) for p in points if p.drop is None)


@pytest.mark.parametrize(
    ("model", "x"),
    [(NET, DATA["x"]), (convnet([4, 16, 16], [None, None], 5, 3), normal([40, 4, 8, 8], 1))],
    ids=["mlp", "convnet"],
)
def test_the_sizes_are_those_of_the_rewritten_models(model, x: np.ndarray):
    session = Session.of(model, {"x": x}, SETTINGS)
    points = pareto(session, GOALS[0])
    problem = session.problem("parameters")
    search = Search(session, GOALS[0], session.state, problem, session.judge(LOOSE), size_before(session))
    plans = curve_plans(search.problem)
    assert len(plans) == len(points)
    dense = sum(site.parameters for site in session.inventory.sites)
    for plan, point in list(zip(plans, points, strict=True))[::7]:
        size = elements(search.candidate(plan))
        assert point.parameters == size
        assert point.kept == pytest.approx(size / elements(model), rel=1e-12)
        assert point.factorable == pytest.approx((size - (elements(model) - dense)) / dense, rel=1e-12)
        assert point.predicted == session.state.expected(plan.loss)


def test_what_a_goal_has_measured_is_not_measured_again_for_the_curve(counted: Counter[str]):
    session = study_of()
    first = pareto(session, GOALS[0])
    once = counted["measure"]
    assert once == sum(point.drop is not None for point in first)
    assert pareto(session, GOALS[0]) == first
    assert counted["measure"] == once
    assert (counted["calibrate"], counted["probe"]) == (1, 1)
    other = study_of()
    other.collect(other.metric(LOOSE)[0])
    problem = other.problem("parameters")
    assert first[5].drop is None
    before = Size(other.inventory.parameters, other.loaded.bytes)
    search = Search(other, GOALS[0], other.state, problem, other.judge(LOOSE), before)
    trial = search.trial(curve_plans(problem)[5], lambda n: None)
    points = pareto(other, GOALS[0])
    assert points[5].drop == trial.verdict.drop.estimate
    assert counted["measure"] == 2 * once + 1


def test_a_first_glance_is_no_point_of_the_curve():
    """A plan that was hopeless after a part of the samples is measured on all of them for the curve."""
    data = {"x": normal([1000, 24], 1)}
    session = Session.of(NET, data, SETTINGS)
    goal = Compact(gate=Gate(max_drop=1e-3, observed=True))
    result = meet_goal(session, goal, dry_run=True)
    everything = len(session.split.validation)
    glances = [t for t in result.trials if t.verdict.samples < everything]
    assert glances
    pareto(session, goal)
    on_curve = {plan.choices for plan in curve_plans(session.problem("parameters"))}
    shared = [t for t in glances if t.plan.choices in on_curve]
    assert shared
    for trial in shared:
        assert session.trials[trial.plan.choices, goal.gate].verdict.samples == everything


def test_the_curve_reads_back_from_both_formats(tmp_path: Path):
    points = pareto(study_of(), GOALS[0])
    content = json.loads(points_text(points, tmp_path / "x.json"))
    assert (content["format"], content["version"]) == ("onnx-lowrank pareto", 1)
    assert [Point(**row) for row in content["points"]] == points
    text = points_text(points, tmp_path / "x.csv")
    rows = list(csv.DictReader(text.splitlines()))
    assert list(rows[0]) == list(asdict(points[0]))
    assert len(rows) == len(points) == len(text.splitlines()) - 1
    for row, point in zip(rows, points, strict=True):
        assert (int(row["parameters"]), float(row["predicted"])) == (point.parameters, point.predicted)
        assert (float(row["drop"]) if row["drop"] else None) == point.drop


def test_no_site_no_curve():
    model = build([node("Relu", ["x"], ["y"])], [value("x", ["n", 4])], [value("y", ["n", 4])], {})
    with pytest.raises(GoalError, match="there is no curve"):
        pareto(Session.of(model, {"x": normal([10, 4], 0)}, options()), Compact(gate=Gate(max_drop=0.0, observed=True)))


@pytest.mark.parametrize("resource", ["macs", "bytes"])
def test_the_curve_of_another_resource_falls_in_it(resource: str):
    session = study_of()
    goal = Lossless(target_macs=0.5, gate=LOOSE) if resource == "macs" else Lossless(target_size=9000, gate=LOOSE)
    points = pareto(session, goal)
    if resource == "macs":
        assert all(one.macs > other.macs for one, other in pairwise(points))
    costs = [getattr(plan.cost, resource) for plan in curve_plans(session.problem(resource))]
    assert all(one > other for one, other in pairwise(costs))
    assert len(costs) == len(points) > 30
