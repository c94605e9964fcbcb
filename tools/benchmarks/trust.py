"""Part "trust": how often a certified model loses more than is allowed, on real draws and in simulation.

Draws: what gates let through on samples drawn anew, beside the truth on 10,000 test images. The demo was trained on the
first 50,000 training images of Fashion-MNIST. A draw takes its calibration and validation images, disjoint, from the
last 10,000, which it never saw; draws share images by chance, as there are no more. Simulation: how often the last plan
of a sequence that is certified loses as much as is not allowed, or more.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import numpy as np

from benchmarks import workbench as wb
from benchmarks.lines import Line
from benchmarks.parts import Cell, Part
from benchmarks.trust_kinds import ALPHA, KINDS, Kind
from benchmarks.trust_page import (
    ALLOWED,
    BESIDE,
    BITS,
    CERTIFIED,
    CHANGED,
    DEMO,
    FIRST,
    GATES,
    PLANS,
    SIMULATED,
    SIZES,
    body,
    simulation_name,
    simulations,
)
from benchmarks.workbench import Workbench
from benchmarks.zoo import file_hash, stand_in
from models.fashion_mnist import DEBIAN_FOLDER, TRAINED_ON, Labelled, labelled, unit_batch
from onnx_lowrank import Compact, DataSources, Session

DRAWS, QUICK_DRAWS, QUICK_REPETITIONS = 20, 1, 200
CALIBRATION, RANK_MULTIPLE, BATCH = 512, 8, 250


def cells(model: str, quick: bool) -> list[Cell]:
    """Return the draws, in turns of the sizes, or the simulated cells."""
    if model == DEMO:
        draws = [(n, draw) for draw in range(DRAWS) for n in reversed(SIZES)]
        draws = [(SIZES[0], draw) for draw in range(QUICK_DRAWS)] if quick else draws
        kinds = {"draw": _draw, "bits": _draw_with_bits}
        return [
            Cell(f"{kind}/{n}/{draw}", partial(function, n=n, draw=draw))
            for kind, function in kinds.items()
            for n, draw in draws
        ]
    return [
        Cell(simulation_name(*cell), partial(_simulated, cell=cell))
        for cell in (*simulations(CHANGED, quick), *simulations((BESIDE,), quick))
    ]


def _entries() -> dict[str, Any]:
    key = hashlib.sha256(f"{KINDS} {ALPHA:g} {PLANS}".encode()).hexdigest()
    return {
        DEMO: lambda: stand_in(DEMO, file_hash(wb.DEMO_MODEL), wb.DEMO_MODEL),
        SIMULATED: lambda: stand_in(SIMULATED, key),
    }


def _images(bench: Workbench) -> tuple[Labelled, Labelled]:
    """Return the images that the demo never saw, and the test images. Raises DatasetError."""
    return labelled(DEBIAN_FOLDER, "train")[TRAINED_ON:], labelled(DEBIAN_FOLDER, "t10k")


def _hits(bench: Workbench, model: Any) -> Any:
    test, runner = bench.once(_images)[1], bench.runner(model)
    parts = (test[start : start + BATCH] for start in range(0, len(test), BATCH))
    hits = [runner.run({"image": unit_batch(p.images)})["logits"].argmax(1) == p.labels for p in parts]
    return np.concatenate(hits).astype(np.float64)


def _truth(bench: Workbench) -> Any:
    return _hits(bench, wb.load(bench.entry.model))


def _draw(bench: Workbench, n: int, draw: int) -> Line:
    """Return what every rule does with one draw, all on one collection."""
    session, truth = bench.opened(samples=_samples(bench, n, draw), rank_multiple=RANK_MULTIPLE), bench.once(_truth)
    rules = {name: _ruled(bench, session, Compact(gate=gate)) for name, gate in GATES.items()}
    model, kept, tests = first_version(bench, session)
    drop = 0.0 if model is None else float((truth - _hits(bench, model)).mean())
    rules[FIRST] = {"saved": model is not None, "kept": kept, "true_drop": drop, "tests": tests, "reason": ""}
    return _about(bench) | {"rules": rules}


def _draw_with_bits(bench: Workbench, n: int, draw: int) -> Line:
    """Return what the certified rule does with one draw where bits are chosen with ranks: longer sequences."""
    session = bench.opened(samples=_samples(bench, n, draw), rank_multiple=RANK_MULTIPLE, bits=wb.BITS)
    rules = {BITS: _ruled(bench, session, Compact(resource="bytes", gate=GATES[CERTIFIED]))}
    return _about(bench) | {"rules": rules}


def _about(bench: Workbench) -> Line:
    truth = bench.once(_truth)
    return {"calibration": CALIBRATION, "test": len(truth), "top1": float(truth.mean())}


def _samples(bench: Workbench, n: int, draw: int) -> DataSources:
    """Return a draw's calibration and validation images, disjoint, in a random order."""
    unseen, _ = bench.once(_images)
    chosen = np.random.default_rng([bench.options.seed, n, draw]).permutation(len(unseen))[: CALIBRATION + n]
    sets = [unseen[part] for part in (chosen[:CALIBRATION], chosen[CALIBRATION:])]
    data, validation = ({"image": unit_batch(s.images), "labels": s.labels.astype(np.int64)} for s in sets)
    return DataSources(data=data, validation=validation)


def _ruled(bench: Workbench, session: Session, goal: Compact) -> Line:
    """Return whether a goal's rule saves a model, the share of its resource that is left, and the true loss."""
    result, truth = bench.goal(session, goal), bench.once(_truth)
    sizes = [size.bytes if goal.resource == "bytes" else size.parameters for size in (result.after, result.before)]
    return {
        "saved": bool(result), "kept": sizes[0] / sizes[1] if result else 1.0, "tests": len(result.trials),
        "reason": result.reason,
        "true_drop": float((truth - _hits(bench, result.model)).mean()) if result else 0.0,
    }  # fmt: skip


def first_version(bench: Workbench, session: Session) -> tuple[Any, float, int]:
    """Return what the first version's rule gives: the model or None, the share kept, and how many plans were tested.

    It searched the smallest plan whose two-sided interval of the drop ends at or below what is allowed.
    """
    gate, tested, best = GATES[CERTIFIED], 0, None
    session.collect(session.metric(gate)[0])
    judge, problem, whole = session.judge(gate)[0], session.problem("parameters"), session.inventory.parameters
    proposals = wb.compact(problem)
    plan = next(proposals, None)
    while plan is not None:
        tested += 1
        good = judge.judge(bench.runner(bench.rewritten(session, plan))).drop.high <= ALLOWED
        if good and (best is None or plan.cost.parameters < best.cost.parameters):
            best = plan
        try:
            plan = proposals.send(good)
        except StopIteration:
            break
    if best is None:
        return None, 1.0, tested
    return bench.rewritten(session, best), 1 - (problem.dense - best.cost.parameters) / whole, tested


def severities(plans: int) -> list[float]:
    """Return the severities of a sequence up to the first plan that must not be certified, which is its middle one."""
    middle = plans // 2 + 1
    return [rank / middle for rank in range(1, middle + 1)]


def _simulated(bench: Workbench, cell: tuple[Kind, float, int]) -> Line:
    return simulate(*cell, QUICK_REPETITIONS if bench.quick else cell[0].repetitions, bench.options.seed)


def simulate(kind: Kind, changed: float, n: int, count: int, seed: int) -> Line:
    """Return how many of `count` sequences ended with a false claim, by number of plans, and the power at no drop.

    The samples are the same for every number of plans. A sequence goes wrong where the plan that loses what is allowed
    is certified, and all before it; what comes after it changes nothing.
    """
    place = [seed, [each.name for each in KINDS].index(kind.name), round(changed * 1e6), n]
    false = dict.fromkeys(PLANS, 0)
    for repetition in kind.simulated(np.random.default_rng([*place, 0]), changed, n, count, balanced=False):
        if repetition.holds(1.0):
            for plans in PLANS:
                false[plans] += all(repetition.holds(severity) for severity in severities(plans)[:-1])
    certified, drops = 0, []
    for repetition in kind.simulated(np.random.default_rng([*place, 1]), changed, n, count, balanced=True):
        certified += repetition.holds(1.0)
        drops.append(repetition.observed)
    return {
        "kind": kind.name, "changed": changed, "n": n, "repetitions": count, "allowed": kind.allowed(changed),
        "false": {str(plans): number for plans, number in false.items()}, "power": certified / count,
        "best": kind.best(changed, n, float(np.std(drops))),
    }  # fmt: skip


PART = Part(
    "trust", "Trust", cells, body, own=_entries(), costly=True, before=("apt-get install dataset-fashion-mnist",)
)
