"""How a run ended: a smaller model, or the original with the reason."""

from __future__ import annotations

from dataclasses import replace

from onnx_lowrank.goals import Goal
from onnx_lowrank.pipeline import explanations
from onnx_lowrank.pipeline.confirm import Confirmed, Refuted, too_large
from onnx_lowrank.pipeline.ledger import Ledger, size_before
from onnx_lowrank.pipeline.loaded_model import RANDOM_WARNING
from onnx_lowrank.pipeline.notes import integer_notes
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.pipeline.session_values import Judges
from onnx_lowrank.results.parts import Findings, Made, Measured, Original, Request, Trial
from onnx_lowrank.results.result import Result
from onnx_lowrank.sensitivity.calibrated import SensitivityState


def unchanged(
    session: Session, goal: Goal, reason: str, ledger: Ledger | None = None, measured: Measured | None = None
) -> Result:
    """Return the original, with everything that was measured."""
    ledger, state, loaded = ledger or Ledger(), session.state, session.loaded
    milliseconds = ledger.milliseconds if goal.resource == "latency" else 0.0
    dead = () if state is None else state.calibrated.decomposed.dead
    curves = ledger.curves or (() if state is None else state.curves)
    size = size_before(session, state, milliseconds)
    return Result(
        model=loaded.original or loaded.model,
        reason=reason,
        original=Original(loaded.source, loaded.sha256, size, loaded.files, loaded.standing.level),
        request=Request(goal, session.options, session.why_metric, session.divergence),
        findings=Findings(
            sites=session.inventory.sites,
            skips=(*session.inventory.skips, *dead),
            curves=curves,
            checks=() if state is None else state.checks,
            trials=ledger.trials,
            candidates=ledger.candidates,
            expected_gain=ledger.expected_gain,
            notes=(*session.notes, *ledger.untimed, *ledger.notes),
            warnings=(*((RANDOM_WARNING,) if session.random else ()), *session.warnings),
            seconds=dict(session.clock.seconds),
        ),
        measured=measured or Measured(),
    )


def changed(session: Session, goal: Goal, ledger: Ledger, trial: Trial, confirmed: Confirmed) -> Result:
    """Return the smaller model of a plan, with everything that was measured."""
    verdict = confirmed.measured.verdict
    reason = "" if verdict is None else verdict.claim(len(ledger.trials))
    result = unchanged(
        session, goal, reason, ledger.noting(*confirmed.notes, *integer_notes(trial.plan)), confirmed.measured
    )
    made = Made(trial.plan, confirmed.size, confirmed.certificate, confirmed.output)
    refitted_on = session.refitted_on(trial.plan)
    request = replace(result.request, options=session.options_for(trial.plan), refitted_on=refitted_on)
    return replace(result, model=confirmed.model, request=request, made=made)


def refuted(session: Session, goal: Goal, ledger: Ledger, refutation: Refuted) -> Result:
    """Return the original: the test samples contradict validation."""
    reason = explanations.refuted(refutation.verdict, refutation.test, refutation.steps)
    measured = Measured(test=refutation.test, steps=refutation.steps)
    return unchanged(session, goal, reason, ledger.noting(*refutation.notes), measured)


def nothing(session: Session, goal: Goal, state: SensitivityState, ledger: Ledger) -> Result:
    """Return the original with the reason; with post-quantisation, what both steps do by themselves."""
    no_faster = goal.resource == "latency" and all(len(curve.options) == 1 for curve in ledger.curves)
    reason = explanations.why_nothing(ledger.trials, goal.gate, no_faster=no_faster)
    quantizer = session.quantizer
    if not quantizer.active:
        return unchanged(session, goal, reason, ledger)
    whole = session.judge(goal.gate).whole
    before, problem = size_before(session, state, ledger.milliseconds), session.priced(goal.resource, state).problem
    search = Search(session, goal, state, problem, Judges(whole, None), before)
    steps = [quantizer.int8(whole, before)]
    if not ledger.trials and goal.target_size and not too_large(search, steps[0].size):
        reason = "int8 alone is within the target size already: nothing has to be factored for it"
    if ledger.trials:
        near = explanations.nearest(ledger.trials)
        steps = [quantizer.factored(search.factored(near.plan), near, whole), *steps]
    return unchanged(session, goal, f"{reason}; {explanations.blame(steps)}", ledger, Measured(steps=tuple(steps)))
