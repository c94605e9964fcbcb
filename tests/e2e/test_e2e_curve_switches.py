"""The curve is chosen as everything else is: with terms between weights, by the paper's rule, or not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import mlp, normal, options, run
from click.testing import CliRunner

from onnx_lowrank.cli import main
from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Compact, Gate
from onnx_lowrank.pipeline import DataSources, Session, pareto
from onnx_lowrank.plan import joint_rise, paper_lossless
from onnx_lowrank.plan.allocate import POINTS, curve_plans

GOAL = Compact(gate=Gate(max_drop=10.0, observed=True))
MODEL = mlp([24, 32, 32, 10], [None] * 3, 11)
MODEL.graph.node[-1].output[0] = MODEL.graph.output[0].name = "logits"


def study_of(**changes: object) -> Session:
    x, other = normal([128, 24], 1), normal([60, 24], 2)
    labels = (run(MODEL, {"x": x})["logits"].argmax(1) + (np.arange(128) % 5 == 0)) % 10
    data = {"x": x, "labels": labels}
    validation = {"x": other, "labels": run(MODEL, {"x": other})["logits"].argmax(1)}
    return Session.of(MODEL, DataSources(data=data, validation=validation), options(metric="top1", **changes))


def test_inter_layer_chooses_the_plans_of_the_curve():
    """Every plan's joint rise is at most that of the plan chosen without, at the same budget; some are lower."""
    session = study_of(inter_layer=True)
    points = pareto(session, GOAL)
    problem = session.problem("parameters")
    assert problem.tails
    tails, gains = problem.tails, []
    plans = curve_plans(problem)
    assert len(points) == len(plans) > 30
    for plan, point in zip(plans, points, strict=True):
        other = replace(problem, tails=None).quick(plan.cost.parameters, "")
        with_terms, without = (joint_rise(problem, each, tails) for each in (plan, other))
        assert with_terms <= without * (1 + 1e-9) + 1e-12
        gains.append(1 - with_terms / without if without else 0.0)
        apart = sum(joint_rise(problem, _only(problem, plan, c.site), tails) for c in plan.choices)
        assert point.predicted == pytest.approx(plan.loss + with_terms - apart, rel=1e-9, abs=1e-12)
    assert max(gains) > 1e-3
    assert sum(point.drop is not None for point in points) >= 5


def _only(problem, plan, site: str):
    """Return the plan with one site's choice alone."""
    options = {c.site: c.option for c in plan.choices}
    picks = [c.options.index(options[c.site]) if c.site == site else 0 for c in problem.curves]
    return problem.plan(picks, "")


def test_the_papers_curve_holds_the_papers_plans():
    session = study_of(sensitivity="paper", gamma=0.6)
    points = pareto(session, GOAL)
    problem = session.problem("parameters")
    budgets = np.linspace(problem.dense, problem.smallest, POINTS).tolist()
    expected = [plan for budget in budgets if (plan := paper_lossless(problem, budget, 0.6)) is not None]
    plans = curve_plans(problem, 0.6)
    assert [plan.choices for plan in plans] == list(dict.fromkeys(plan.choices for plan in expected))
    assert len(points) == len(plans) > 5
    assert all(choice.option.error <= 0.36 for plan in plans for choice in plan.choices)
    assert [p.parameters for p in points] == sorted((p.parameters for p in points), reverse=True)
    least = replace(problem, tails=None).quick(plans[len(plans) // 2].cost.parameters, "")
    assert least.choices != plans[len(plans) // 2].choices
    assert points[-1].drop is not None


def test_continuation_has_no_curve_and_says_so_before_any_work(tmp_path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(GoalError, match="leave --pareto or --continuation out") as caught:
        pareto(study_of(continuation=2), GOAL)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(Session, "of", lambda *a, **k: pytest.fail("work was begun"))
    (tmp_path / "m.onnx").write_bytes(MODEL.SerializeToString())
    asked = ["optimize", str(tmp_path / "m.onnx"), "--random-data", "--continuation", "2", "--pareto", "c.csv"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2, done.output
    assert "leave --pareto or --continuation out" in " ".join(done.output.split())
