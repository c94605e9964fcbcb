"""One aim, in rounds: with continuation the weights shrink in steps, and what comes next is planned on what is left."""

from __future__ import annotations

from dataclasses import replace

from onnx_lowrank.goals import Goal
from onnx_lowrank.pipeline.ledger import Ledger, size_before
from onnx_lowrank.pipeline.planners import planner_of
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.results.parts import Trial
from onnx_lowrank.sensitivity.calibrated import SensitivityState


def searched(
    session: Session, aim: Goal, state: SensitivityState, ledger: Ledger
) -> tuple[list[tuple[Search, Trial]], Ledger]:
    """Return the trials that passed, best first, each with the search that made it, and the ledger with all of them.

    With continuation a plan of every round is the ground of the next: lossless goes down in equal steps to its budget,
    compact to where calibration samples expect the answer (observed: from the smallest model that held), and the
    smallest of all rounds comes first. Raises GoalError where the budget cannot be reached at all.
    """
    planner, rounds = planner_of(aim), session.options.continuation
    held: list[tuple[Search, Trial]] = []
    for number in range(rounds):
        search, ledger = _search(session, aim, state, ledger)
        work = planner.round(search, (rounds - 1 - number) / rounds)
        best: list[Trial] = []
        if work.proposals is not None:
            trials = search.run(work.proposals, session.clock)
            ledger = ledger.trying(trials)
            best = [trial for trial in planner.ranked(trials, search.problem) if _smaller(trial, search)]
            held = [*((search, trial) for trial in best), *held]
        if ending := session.clock.ending.reason:
            ledger = ledger.noting(_stopped(ending, len(ledger.trials)))
            break
        if ledger.ended(aim.gate):  # after a plan that was not certified no level is left for another
            break
        ground = work.ground(best) if number < rounds - 1 else None
        if ground is not None and ground.factored:
            state = session.shrink(state, ground)
        elif planner.stops:
            break
    if planner.stops:
        held.sort(key=lambda pair: amount(pair[1].plan.cost, aim.resource))
    return held, ledger


def _stopped(reason: str, plans: int) -> str:
    return f"{reason}, after {plans} {'plan' if plans == 1 else 'plans'}: with more time there may be a better one"


def _smaller(trial: Trial, search: Search) -> bool:
    """Return whether a plan's file is smaller than the original, where bytes count: nodes and names take some, too."""
    return search.goal.resource != "bytes" or trial.size.bytes < search.before.bytes


def _search(session: Session, aim: Goal, state: SensitivityState, ledger: Ledger) -> tuple[Search, Ledger]:
    """Return what measures plans on a state, and the ledger with what its problem showed."""
    priced = session.priced(aim.resource, state)
    ledger = replace(
        ledger,
        curves=ledger.curves or priced.problem.curves,
        milliseconds=priced.milliseconds,
        untimed=tuple(dict.fromkeys((*ledger.untimed, *priced.notes))),
    )
    before = size_before(session, state, priced.milliseconds)
    return Search(session, aim, state, priced.problem, session.judge(aim.gate), before), ledger
