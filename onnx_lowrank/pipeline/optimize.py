"""`optimize`: from a model and samples to a smaller model that is shown to hold, or to the reason for none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Compact, Goal, Lossless
from onnx_lowrank.graph.files import spare
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.accuracy_search import most_accurate, refuse_without_labels
from onnx_lowrank.pipeline.budget import budget_of
from onnx_lowrank.pipeline.confirm import Confirmed, Refuted, Target, Unconfirmed, confirm
from onnx_lowrank.pipeline.explanations import no_curve
from onnx_lowrank.pipeline.ledger import Ledger, size_before
from onnx_lowrank.pipeline.loaded_model import DataSources
from onnx_lowrank.pipeline.outcome import changed, nothing, refuted, unchanged
from onnx_lowrank.pipeline.rounds import searched
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.pipeline.speed_goal import CORRECTIONS, corrected, fastest, none_fast_enough
from onnx_lowrank.plan import Problem
from onnx_lowrank.progress import EndedError, Progress
from onnx_lowrank.results.parts import Measured
from onnx_lowrank.results.result import Result
from onnx_lowrank.sensitivity import cost_curves
from onnx_lowrank.sensitivity.calibrated import SensitivityState
from onnx_lowrank.sensitivity.modes import mode_of
from onnx_lowrank.types import INT8
from onnx_lowrank.types.checks import check_type

FORMATS_BY = 0.6
"""The share of a time budget by which what number formats lose has to be known; the rest is for plans."""
NO_TIME = f"number formats are left out: {FORMATS_BY:.0%} of the time budget was over before their losses were known"
NO_SITES = "no weight of this model can be factored; the reasons are listed with the weights"


def optimize(
    model: onnx.ModelProto | Path | str,
    samples: DataSources | object,
    goal: Goal | None = None,
    options: Options | None = None,
    *,
    output: Path | str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Return the best model that meets `goal`, or the original with the reason if none does.

    `samples`: DataSources, or anything that gives calibration samples (see `onnx_lowrank.samples.read`). With `output`
    the model is written there, atomically, after it has passed as reloaded from disk; with `dry_run` it is not. The
    input is never overwritten. Raises LowRankError (ModelError, DataError, MetricError, GoalError, RuntimeProblem),
    each one line for a user.

    >>> from onnx_lowrank import Compact, DataSources, Gate, Options, optimize
    >>> from onnx_lowrank.demo import MODEL, demo_samples
    >>> sets = demo_samples()
    >>> samples = DataSources(data=sets["calibration"], validation=sets["validation"])
    >>> options = Options(sensitivity="weights", include=("7.weight",))  # all weights, and joint, by default
    >>> result = optimize(MODEL, samples, Compact(gate=Gate(max_drop=0.02)), options)
    >>> result.verdict.word, result.after.bytes < result.before.bytes / 2
    ('certified', True)
    """
    goal = goal or Compact()
    check_type("goal", goal, Compact, Lossless)
    check_type("options", options or Options(), Options)
    session = Session.of(model, samples, (options or Options()).for_goal(goal.resource), progress=progress)
    return meet_goal(session, goal, output=output, dry_run=dry_run)


def meet_goal(
    session: Session,
    goal: Goal,
    *,
    output: Path | str | None = None,
    dry_run: bool = False,
    before_writing: Callable[[], None] | None = None,
) -> Result:
    """Return the best model that meets `goal`; what the session has collected and measured is used again.

    `before_writing` is called right before the model is moved to `output`; what it raises leaves it unwritten.
    """
    target = Target(None if output is None or dry_run else Path(output), before_writing)
    goal = _allowed(session, goal, target)
    try:
        with session.clock.ending.searching():
            return _met(session, goal, target)
    except EndedError as ended:
        again = "" if session.options.cache is None else "; what was collected is kept, and another run goes on there"
        return unchanged(session, goal, f"{ended}, before anything had passed{again}")


def _met(session: Session, goal: Goal, target: Target) -> Result:
    """Return the outcome. Raises EndedError where the work was to end before anything had passed."""
    if not session.inventory.sites:
        return unchanged(session, goal, NO_SITES)
    _refuse_unreachable(session, goal)
    session.metric(goal.gate)
    if isinstance(goal, Lossless) and goal.searches:
        refuse_without_labels(session, goal)
    if too_few := session.look_over(goal.gate):
        return unchanged(session, goal, too_few)
    if session.quantizer.active:  # what cannot be quantised is reported before minutes are spent
        session.quantizer.alone()
    if session.label_fits.active:  # likewise labels that do not fit
        session.label_fits.alone()

    if isinstance(goal, Lossless) and goal.searches:
        return most_accurate(session, goal, target)
    plain = session.collect(session.metric(goal.gate)[0])
    state = session.clock.ending.within(FORMATS_BY, lambda: session.in_formats(plain, goal.resource))
    if not plain.curves and not (state and state.curves):
        return unchanged(session, goal, no_curve(plain.calibrated.decomposed.dead))

    return _reached(session, goal, state or plain, target, Ledger(notes=() if state else (NO_TIME,)))


def _reached(session: Session, goal: Goal, state: SensitivityState, target: Target, ledger: Ledger) -> Result:
    """Plan, rewrite, judge and save: the first plan that holds from its file, or the original with the reason."""
    aim = goal
    for _ in range(1 + (CORRECTIONS if session.options.continuation == 1 else 0)):
        held, ledger = searched(session, aim, state, ledger)
        for search, trial in held:
            outcome = confirm(replace(search, goal=goal), trial, len(ledger.trials), target)
            if isinstance(outcome, Confirmed):
                return changed(session, goal, ledger, trial, outcome)
            if isinstance(outcome, Refuted):
                return refuted(session, goal, ledger, outcome)
            ledger = ledger.noting(outcome.note) if isinstance(outcome, Unconfirmed) else ledger.slower(outcome)
        over = ledger.ended(goal.gate) or session.clock.ending.reason
        next_aim = None if over else _lower(session, state, goal, aim, ledger)
        if next_aim is None:
            break
        aim = next_aim

    if ledger.slow:
        slowest = Measured(latency=fastest(ledger.slow).timing)
        return unchanged(session, goal, none_fast_enough(ledger.slow), ledger, slowest)
    return nothing(session, goal, state, ledger)


def _allowed(session: Session, goal: Goal, target: Target) -> Goal:
    """Return the goal as it can be met by these samples. Raises GoalError, ModelError for what does not go together."""
    options = session.options
    if target.output is not None:
        spare(target.output, session.loaded.files)
    if goal.resource == "latency" and options.then:
        raise GoalError("a goal of time and --then do not go together: what is timed is the float model; leave one out")
    if options.rounds and goal.resource not in ("bytes", "latency"):
        wanted = "--target-size or --target-latency" if isinstance(goal, Lossless) else "--minimize bytes or latency"
        raise GoalError(f"--bits below 32 saves bytes or time, no {goal.resource}: give {wanted}")
    if options.rounds and goal.resource == "latency" and INT8.bits not in (options.bits or ()):
        raise GoalError(
            "--bits without 8 saves no time, as integers of 8 bits are what is multiplied: give --bits 8,32"
        )
    if isinstance(goal, Lossless) and goal.cap and (options.inter_layer or mode_of(options).layerwise):
        switch = "--inter-layer" if options.inter_layer else f"--sensitivity {options.sensitivity}"
        raise GoalError(f"{switch} knows one budget: give --target-latency, or the other target, by itself")
    if session.random and not goal.gate.observed:
        return replace(goal, gate=replace(goal.gate, observed=True))
    return goal


def _refuse_unreachable(session: Session, goal: Goal) -> None:
    """Raise GoalError at once for what can never be reached, whatever is measured."""
    sizes = ("parameters",) if session.quantizer.active or session.options.rounds else ("parameters", "bytes")
    if isinstance(goal, Lossless) and not goal.searches and goal.resource in sizes:
        costs = cost_curves(session.inventory, session.options.rank_multiple)
        budget_of(goal, Problem(costs, {}, goal.resource), size_before(session))


def _lower(session: Session, state: SensitivityState, goal: Goal, aim: Goal, ledger: Ledger) -> Goal | None:
    """Return a lower aim where plans held and missed a target latency; None where that cannot help."""
    if not ledger.slow:
        return None
    priced = session.priced(aim.resource, state)
    before = size_before(session, state, priced.milliseconds)
    return corrected(goal, aim, ledger.slow, priced.problem, before)
