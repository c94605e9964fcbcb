"""Lossless without a size: the most accurate smaller model, by labels, over sizes, bases and single layers.

Selection and claim are apart: one part of the validation samples chooses, the other is tested on. What is tested is
fixed before: at most two plans, the milder one first (plan/sequence.py), so a claim of the last has a single test's
level, and so has "better by at least x" of the plan that was chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Lossless
from onnx_lowrank.graph.scratch import scratch
from onnx_lowrank.metrics import Metric
from onnx_lowrank.options import LossObjective, Options, Sensitivity
from onnx_lowrank.pipeline.confirm import Confirmed, Refuted, Target, Unconfirmed, confirm
from onnx_lowrank.pipeline.judges import make_judge
from onnx_lowrank.pipeline.ledger import Ledger, size_before
from onnx_lowrank.pipeline.outcome import changed, nothing, refuted
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.plan import Problem, fixed_sequence
from onnx_lowrank.plan.allocate import least_loss
from onnx_lowrank.plan.layer_selective import single_cuts
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.results.parts import Candidate, Trial
from onnx_lowrank.results.result import Result
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples, halves
from onnx_lowrank.sensitivity.calibrated import SensitivityState
from onnx_lowrank.types import Plan
from onnx_lowrank.validation import Judge
from onnx_lowrank.validation.race import SAFE, Gain, Race, Standing, chosen, cross_validated

KEEPS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03)
"""Shares of the factorable parameters that plans keep."""
SINGLE: tuple[Sensitivity, ...] = ("inputs", "weights")
"""Bases whose single weights compete: what is far from the original's gradients."""
FOLDS = 5
"""Disjoint parts of the selection samples, for the last models."""
FITTED = 3
"""Plans that compete with their last layer fitted to labels as well: the surest, and the one that is safest."""
FIRST, GROWTH = 256, 4
"""Samples of the first part, and by how much parts grow."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Where factors come from: options other than the session's. exponents, objective: see `Options`."""

    name: str
    sensitivity: Sensitivity
    exponents: tuple[float, float] = (1.0, 1.0)
    objective: LossObjective = "original"

    def options(self, options: Options) -> Options:
        """Return a session's options with the basis; nothing is refitted unasked: that would bring the noise back."""
        return replace(
            options, sensitivity=self.sensitivity, exponents=self.exponents, objective=self.objective,
            refit=bool(options.refit),
        )  # fmt: skip


BASES: tuple[Basis, ...] = (
    Basis("joint", "joint"),
    Basis("inputs", "inputs"),
    Basis("weights", "weights"),
    Basis("joint, B^½", "joint", exponents=(1.0, 0.5)),
    Basis("labels", "joint", objective="labels"),
    Basis("labels, B^½", "joint", exponents=(1.0, 0.5), objective="labels"),
    Basis("labels, A alone", "joint", exponents=(1.0, 0.0), objective="labels"),
    Basis("labels, A^½", "joint", exponents=(0.5, 0.0), objective="labels"),
    Basis("labels, plain", "joint", exponents=(0.0, 0.0), objective="labels"),
)
"""What is tried where nothing of it is asked for; the last with calibration labels that are class numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A plan, and the session and problem of the basis that it comes from. keep: None for a single layer.

    last_layer: it competes with its last layer fitted to labels, because that is open.
    """

    basis: str
    session: Session
    state: SensitivityState
    problem: Problem
    plan: Plan
    keep: float | None
    last_layer: bool = False

    @property
    def name(self) -> str:
        """Where the factors come from, and what else was done."""
        return f"{self.basis}, last layer" if self.last_layer else self.basis

    def fitted(self) -> Entry:
        """Return the same with its last layer fitted to labels."""
        return replace(self, session=self.session.refitting_last_layer(), last_layer=True)

    def search(self, session: Session, goal: Lossless) -> Search:
        """Return what measures the plan in a session with other validation samples."""
        before = size_before(session, self.state)
        return Search(session, goal, self.state, self.problem, session.judge(goal.gate), before)


def refuse_without_labels(session: Session, goal: Lossless) -> None:
    """Raise GoalError where nothing says which model is the most accurate."""
    metric, _ = session.metric(goal.gate)
    if session.split.validation.labels is None or not metric.needs_labels:
        raise GoalError(
            "lossless without a size looks for the most accurate model, by labels: give them with the validation"
            " samples and a metric that reads them, or give a size (--keep 0.6, say)"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Competition:
    """Plans that competed on the samples that choose, how far each came, and the samples left for the claim."""

    entries: Sequence[Entry]
    standings: Sequence[Standing]
    claim: Samples

    @property
    def best(self) -> int:
        """The place of the plan that was chosen: the surest gain."""
        return chosen(self.standings)

    @property
    def picks(self) -> list[int]:
        """The places of the plans to test, in order: one that is to hold in any case, and the one that was chosen."""
        return list(dict.fromkeys([chosen(self.standings, SAFE), self.best]))

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What is told of every plan."""
        return tuple(_candidate(e, s) for e, s in zip(self.entries, self.standings, strict=True))


def most_accurate(session: Session, goal: Lossless, target: Target) -> Result:
    """Return the most accurate smaller model, or the original with the reason."""
    competition = compete(session, goal)
    if not competition.entries:
        return nothing(session, goal, session.collect(session.metric(goal.gate)[0]), Ledger())
    return claimed(session, goal, competition, target)


def compete(session: Session, goal: Lossless) -> Competition:
    """Return the plans of all bases and sizes, compared on one half of the validation samples."""
    selection, claim = halves(session.split.validation, session.options.seed)
    entries = list(_entries(session))
    if not entries:
        return Competition((), (), claim)
    race = _race(session, goal, selection)
    with session.clock.step("comparing plans", len(entries)) as advance:
        standings = race.run(entries, advance)
    if session.options.last_layer is None and _numbered(session):
        surest = sorted((i for i, s in enumerate(standings) if s.folds), key=lambda i: -standings[i].gain.sure())
        places = dict.fromkeys([*surest[:FITTED], chosen(standings, SAFE)])
        fitted = [entries[i].fitted() for i in places]
        with session.clock.step("comparing last layers", len(fitted)) as advance:
            standings += race.finals(fitted, advance)
        entries += fitted
    return Competition(entries, standings, claim)


def claimed(session: Session, goal: Lossless, competition: Competition, target: Target) -> Result:
    """Return the plan that was chosen, tested on samples that did not choose it, or a milder one, or the original."""
    expected = cross_validated(competition.standings).gain
    ledger = Ledger(candidates=competition.candidates, expected_gain=expected)
    held: list[tuple[int, Search, Trial]] = []
    for pick in competition.picks:
        entry = competition.entries[pick]
        search = entry.search(entry.session.validating_on(competition.claim), goal)
        (trial,) = search.run(fixed_sequence([replace(entry.plan, origin=_origin(entry))]), session.clock)
        ledger = ledger.trying([trial])
        if not trial.verdict.passed:
            break
        held.append((pick, search, trial))
    for pick, search, trial in reversed(held):
        outcome = confirm(search, trial, len(ledger.trials), target)
        if isinstance(outcome, Confirmed):
            result = changed(search.session, goal, ledger, trial, outcome)
            return replace(result, reason=_claim(result, len(ledger.trials), best=pick == competition.best))
        if isinstance(outcome, Refuted):
            return refuted(search.session, goal, ledger, outcome)
        ledger = ledger.noting(outcome.note) if isinstance(outcome, Unconfirmed) else ledger.slower(outcome)
    entry = competition.entries[competition.picks[-1]]
    return nothing(entry.session.validating_on(competition.claim), goal, entry.state, ledger)


def _entries(session: Session) -> Iterator[Entry]:
    """Yield the plans of every basis: of all sizes, and of single layers."""
    metric, _ = session.metric(Lossless().gate)
    bases = _bases(session)
    for basis, own in zip(bases, _collected(session, bases, metric), strict=True):
        singles = basis.sensitivity in SINGLE or len(bases) == 1
        state = own.collect(metric)
        problem = own.problem("parameters")
        known = set()
        sized = [(keep, least_loss(problem, keep * problem.dense, f"{keep:.0%}")) for keep in KEEPS]
        for keep, plan in (*sized, *((None, plan) for plan in (single_cuts(problem) if singles else ()))):
            if plan is not None and plan.choices not in known and _smaller(plan, problem):
                known.add(plan.choices)
                yield Entry(basis.name, own, state, problem, plan, keep)


def _collected(session: Session, bases: Sequence[Basis], metric: Metric) -> list[Session]:
    """Return a session for every basis; those of mode `joint` share what is collected."""
    options = {basis.name: basis.options(session.options) for basis in bases}
    joint = [basis for basis in bases if basis.sensitivity == "joint"]
    together = session.collected_together([options[basis.name] for basis in joint], metric) if joint else []
    shared = {basis.name: own for basis, own in zip(joint, together, strict=True)}
    return [shared.get(basis.name) or session.renewed(options=options[basis.name]) for basis in bases]


def _bases(session: Session) -> tuple[Basis, ...]:
    """Return what is tried: all, or what the options ask for."""
    options = session.options
    if options.sensitivity != "joint":
        return (Basis(options.sensitivity, options.sensitivity),)
    if options.exponents != (1.0, 1.0):
        return (Basis("joint", "joint", options.exponents, options.objective or "original"),)
    if options.objective is not None:
        return tuple(b for b in BASES if b.objective == options.objective)
    return BASES if _numbered(session) else tuple(basis for basis in BASES if basis.objective == "original")


def _numbered(session: Session) -> bool:
    """Return whether calibration samples have labels that are class numbers, one each."""
    labels = session.split.calibration.labels
    return labels is not None and len(labels) > 0 and np.asarray(labels[0]).dtype.kind in "iu"


def _smaller(plan: Plan, problem: Problem) -> bool:
    return bool(plan.factored) and amount(plan.cost, problem.resource) < problem.dense


def _race(session: Session, goal: Lossless, selection: Samples) -> Race[Judge, Entry]:
    """Return the race on the samples that choose."""
    order = np.random.default_rng(session.options.seed).permutation(len(selection)).tolist()
    metric, _ = session.metric(goal.gate)

    def judged(numbers: Sequence[int]) -> Judge:
        part = selection.subset(sorted(numbers))
        return make_judge(session.loaded, part, metric, goal.gate, session.options, spread=session.spread)

    def measure(judges: Sequence[Judge], entry: Entry) -> list[Gain]:
        runner = runner_of(entry, goal)
        return [Gain.of(judge, runner) for judge in judges]

    return Race([judged(part) for part in parts_of(order)], [judged(part) for part in folds_of(order)], measure)


def parts_of(order: Sequence[int]) -> list[Sequence[int]]:
    """Return the parts of the samples, in a random order, that grow."""
    return [order[:size] for size in (FIRST * GROWTH**i for i in range(8)) if 2 * size <= len(order)]


def folds_of(order: Sequence[int]) -> list[Sequence[int]]:
    """Return FOLDS disjoint parts of the samples."""
    return [order[fold::FOLDS] for fold in range(FOLDS)]


def runner_of(entry: Entry, goal: Lossless) -> Runner:
    """Return the model of a plan, as it competes: before int8, which takes long and is judged with the claim."""
    search, place = entry.search(entry.session, goal), scratch(entry.session.loaded.model)
    whole = entry.last_layer or entry.session.options.refit
    with place:
        model = search.factored(entry.plan) if whole else search.sketch(entry.plan, quantized=False)
        return Runner(model, runtime=entry.session.options.runtime)


def _origin(entry: Entry) -> str:
    size = "a single layer" if entry.keep is None else f"{entry.keep:.0%} of the factorable weights"
    return f"{entry.name}, {size}"


def _candidate(entry: Entry, standing: Standing) -> Candidate:
    kept = amount(entry.plan.cost, "parameters") / entry.problem.dense
    gain = standing.gain
    return Candidate(
        entry.name,
        entry.plan.origin == "single layer",
        kept,
        gain.gain,
        gain.error,
        gain.samples,
        bool(standing.folds),
    )


def _claim(result: Result, plans: int, *, best: bool) -> str:
    """Return in one line what is claimed. best: of the plan that was chosen, whose bound is that of a single test."""
    verdict, test = result.verdict, result.test
    if verdict is None:
        return result.reason
    contradicted = test is not None and test.drop.low > 0
    return verdict.claim(plans) if not best or contradicted else verdict.gain_claim(plans)
