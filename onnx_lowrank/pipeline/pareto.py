"""`--pareto`: the whole curve of size against loss from one collection, and a few of its points measured."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Goal
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.ledger import size_before
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.pipeline.session_values import Judges
from onnx_lowrank.plan import Problem
from onnx_lowrank.plan.allocate import curve_plans
from onnx_lowrank.plan.interlayer import between
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.sensitivity.modes import mode_of
from onnx_lowrank.types import Cost, Plan

MEASURED = 10
"""Plans of the curve that are measured on the validation samples."""


@dataclass(frozen=True, slots=True)
class Point:
    """One plan of the curve. kept: share of all the model's parameters; factorable: of those in factorable weights.

    predicted: rise of the loss, in `unit`, corrected by what whole plans were measured to lose. drop, low, high:
    measured on validation, None where it was not.
    latency: predicted share of the original's time, None unless latency is the goal. bytes: predicted share of the
    original's file, with ranks and number formats.
    """

    kept: float
    factorable: float
    parameters: int
    macs: float
    predicted: float
    unit: str
    metric: str = ""
    value: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    latency: float | None = None
    bytes: float | None = None


def pareto(session: Session, goal: Goal) -> list[Point]:
    """Return the curve, largest model first; what was measured for a goal is not measured again.

    The plans are chosen as the session's options say: with terms between weights, or by the paper's rule. Raises
    GoalError where no weight can be factored, and for continuation, which has no one collection.

    >>> from onnx_lowrank import Compact, DataSources, Options, Session, pareto
    >>> from onnx_lowrank.demo import MODEL, demo_samples
    >>> sets = demo_samples()
    >>> few = {name: array[:200] for name, array in sets["validation"].items()}
    >>> samples = DataSources(data=sets["calibration"], validation=few)
    >>> options = Options(sensitivity="weights", include=("7.weight",), rank_multiple=64)
    >>> points = pareto(Session.of(MODEL, samples, options), Compact())
    >>> [round(point.kept, 2) for point in points]
    [1.0, 0.91, 0.81, 0.7, 0.57]
    >>> points[-1].metric, points[-1].drop < 0.05
    ('top1', True)
    """
    refusal = no_curve(session.options)
    if refusal:
        raise GoalError(refusal)
    if not session.inventory.sites:
        raise GoalError("no weight of this model can be factored, so there is no curve")
    metric, _ = session.metric(goal.gate)
    state = session.in_formats(session.collect(metric), goal.resource)
    priced = session.priced(goal.resource, state)
    problem, before = priced.problem, size_before(session, state, priced.milliseconds)
    search = Search(session, goal, state, problem, Judges(session.judge(goal.gate).whole, None), before)
    plans = curve_plans(problem, session.options.gamma if mode_of(session.options).layerwise else None)
    known = {choices for choices, gate in session.trials if gate == goal.gate}
    chosen = _spread(plans, problem)
    points = []
    with session.clock.step("measuring the curve", len(chosen) * len(session.split.validation)) as advance:
        for index, plan in enumerate(plans):
            point = _point(search, plan)
            if index in chosen or plan.choices in known:
                verdict = search.trial(plan, advance).verdict
                drop = verdict.drop
                point = replace(
                    point, metric=verdict.metric, value=verdict.candidate.estimate, drop=drop.estimate, low=drop.low,
                    high=drop.high,
                )  # fmt: skip
            points.append(point)
    return points


def no_curve(options: Options) -> str:
    """Return why these options give no curve, and what to do; empty where they give one."""
    if options.continuation == 1:
        return ""
    return (
        "the curve comes from one collection, and --continuation collects again on the way to every plan:"
        " leave --pareto or --continuation out"
    )


def _spread(plans: Sequence[Plan], problem: Problem) -> set[int]:
    """Return which plans to measure: evenly spread over the cost, the smallest included, what changes nothing not."""
    costs = np.array([amount(plan.cost, problem.resource) for plan in plans])
    targets = np.linspace(problem.dense, problem.smallest, MEASURED + 1)[1:]
    picks = {int(np.argmin(np.abs(costs - target))) for target in targets}
    return {pick for pick in picks if plans[pick].factored}


def _point(search: Search, plan: Plan) -> Point:
    size = search.size(plan, 0)
    dense = sum(site.parameters for site in search.session.inventory.sites)
    factorable = 1 - (search.before.parameters - size.parameters) / dense
    problem, state = search.problem, search.state
    terms = between(problem, plan, problem.tails) if problem.tails else None  # no plan was measured beside them
    loss = state.expected(plan.loss) if terms is None else plan.loss + terms
    latency = size.milliseconds / search.before.milliseconds if search.before.milliseconds else None
    saved = sum((curve.dense.cost for curve in problem.curves), Cost()) - plan.cost
    return Point(
        size.parameters / search.before.parameters, factorable, size.parameters, size.macs, loss, state.unit,
        latency=latency, bytes=1 - saved.bytes / search.before.bytes,
    )  # fmt: skip


def points_text(points: Sequence[Point], path: Path) -> str:
    """Return the curve as a file's text: JSON for .json, else CSV."""
    rows = [asdict(point) for point in points]
    if path.suffix == ".json":
        return json.dumps({"format": "onnx-lowrank pareto", "version": 1, "points": rows}, indent=2) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
