"""`analyze`: which layers carry the loss, what each size would cost, and is it worth it; nothing is validated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Compact
from onnx_lowrank.metrics import allowed_drop
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.explanations import no_curve
from onnx_lowrank.pipeline.ledger import Ledger, size_before
from onnx_lowrank.pipeline.loaded_model import DataSources
from onnx_lowrank.pipeline.outcome import unchanged
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.plan.allocate import least_loss
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.progress import Progress
from onnx_lowrank.results.analysis import Analysis, LayerLoss, SizePoint
from onnx_lowrank.types import Curve, Plan
from onnx_lowrank.validation.screening import PRIOR, Screened, expected_bounds

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)
"""Of what the factorable weights cost: the sizes that are looked at."""
PART, PART_IN_BITS = 0.5, 0.1
"""The share of its cost at which a layer's loss is told; where bits are chosen: half precision is half already."""
WORTH = 0.95
"""Of the model's resource: what is expected to be left where it is worth it."""


def analyze(
    model: onnx.ModelProto | Path | str,
    samples: DataSources | object,
    goal: Compact | None = None,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
) -> Analysis:
    """Return what sizes of a model would cost by prediction, and by samples that nothing was fitted on.

    goal: the resource and the gate that a run would have. Raises LowRankError, one line for a user; GoalError for a
    goal of latency, whose curve has to be timed.

    >>> from onnx_lowrank import Options, analyze
    >>> from onnx_lowrank.demo import MODEL, demo_samples
    >>> options = Options(bits=(32,), include=("7.weight",))  # all weights, and fewer bits, by default
    >>> found = analyze(MODEL, demo_samples()["calibration"], options=options)
    >>> found.points[0].predicted < found.points[-1].predicted
    True
    """
    goal = goal or Compact(resource="bytes")
    if goal.resource == "latency":
        raise GoalError("analyze goes by bytes, parameters or MACs: time has to be measured, by optimize")
    session = Session.of(model, samples, (options or Options()).for_goal(goal.resource), progress=progress)
    if not session.inventory.sites:
        reason = "no weight of this model can be factored; the reasons are listed with the weights"
        return Analysis((), (), reason, session.divergence, goal.resource, unchanged(session, goal, reason))
    state = session.in_formats(session.collect(session.metric(goal.gate)[0]), goal.resource)
    if not state.curves:
        reason = no_curve(state.calibrated.decomposed.dead)
        return Analysis((), (), reason, state.unit, goal.resource, unchanged(session, goal, reason))
    problem, before = session.priced(goal.resource, state).problem, size_before(session, state)
    search = Search(session, goal, state, problem, session.judge(goal.gate), before)
    whole = amount(before.cost, goal.resource)
    plans = [p for share in SHARES if (p := least_loss(problem, share * problem.dense, f"{share:.0%}")) and p.factored]
    plans = list({plan.choices: plan for plan in plans}.values())
    screened = _screened(search, plans)
    bounds: Sequence[float | None] = [None] * len(plans)
    if screened is not None:
        bounds = expected_bounds(screened, session.split.validation.units, goal.gate.alpha, PRIOR)
    kept = [1 - (problem.dense - amount(plan.cost, goal.resource)) / whole for plan in plans]
    points = tuple(
        SizePoint(share, state.expected(plan.loss), *_measured(screened, place), bound)
        for place, (plan, share, bound) in enumerate(zip(plans, kept, bounds, strict=True))
    )
    reason = session.look_over(goal.gate) or _worth(points, search)
    result = unchanged(session, goal, reason, Ledger(curves=problem.curves))
    part = PART_IN_BITS if session.options.rounds else PART
    layers = tuple(sorted(_layers(search, problem.curves, part), key=lambda layer: -layer.loss))
    return Analysis(points, layers, reason, state.unit, goal.resource, result, part)


def _screened(search: Search, plans: Sequence[Plan]) -> list[Screened] | None:
    """Return what plans do on samples that nothing was fitted on; None where there are none."""
    with search.session.clock.step("looking at sizes", len(plans)) as advance:
        screening = search.screening(advance)
        return None if screening is None else [screening.measure(plan) for plan in plans]


def _measured(screened: Sequence[Screened] | None, place: int) -> tuple[float | None, float | None]:
    return (None, None) if screened is None else (screened[place].divergence, screened[place].changed)


def _worth(points: Sequence[SizePoint], search: Search) -> str:
    """Return in one line how far it is expected to go, or that it is not expected to."""
    session, gate, resource = search.session, search.goal.gate, search.goal.resource
    allowed, n = allowed_drop(search.judge.metric, gate), session.split.validation.units
    if not any(point.bound is not None for point in points):
        return "too few calibration samples to hold some back: losses are predicted, and not measured; give more"
    held = [point for point in points if point.bound is not None and point.bound <= allowed]
    least = min((point.kept for point in held), default=1.0)
    if least > WORTH:
        return f"hardly worth it: no size below {WORTH:.0%} is expected to be certified at a drop of {allowed:g}"
    return (
        f"worth it: about {least:.0%} of the {resource} is expected to be certified at a drop of {allowed:g} by"
        f" {n:,} validation samples"
    )


def _layers(search: Search, curves: Sequence[Curve], part: float) -> Iterator[LayerLoss]:
    """Yield what every weight loses at a part of its cost, by itself; none of one that has no such option."""
    resource, whole = search.problem.resource, search.before.parameters
    sites = {site.id: site for site in search.session.inventory.sites}
    for curve in curves:
        most = part * amount(curve.dense.cost, resource)
        small = [option for option in curve.options if amount(option.cost, resource) <= most]
        if small and curve.site in sites:
            best = min(small, key=lambda option: option.loss)
            site = sites[curve.site]
            yield LayerLoss(site, site.parameters / whole, max(best.loss, 0.0), best.error)
