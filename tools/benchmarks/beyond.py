"""Part "beyond": is a smaller network better than the original, and more so than by what else is done about noise?

Networks that `python -m models beyond` trained: with random labels, or on few samples. Ours is what `--algorithm
lossless` without a size finds by itself; beside it, by the same samples that choose: ours at two sizes, plain and
whitened truncation and magnitude pruning at the size that chooses best and at the same two, the epoch that was best,
the weight decay that was best. All on the test labels, once, in pairs with the original.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import workbench as wb
from benchmarks.beyond_page import CELL, FALSE, RIVAL, SIZES, body, draw, kind_of
from benchmarks.lines import Line
from benchmarks.parts import Cell, Part
from benchmarks.scores import Scores, compared
from benchmarks.workbench import Workbench
from benchmarks.zoo import CLASSIFIERS, Entry, Set, file_hash, stand_in

FOLDER = "beyond"
RIVALS = ("early", "decay")
KEPT = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
"""Shares at which test accuracy is drawn against size."""
BASES = {"ours": None, "whitened": "inputs", "svd": "weights"}
PRUNED = (0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05)
"""Shares of each weight that magnitude pruning keeps."""
CLEAN = "noise0"
"""What networks have learned that have least to gain: of the first seed's validation sets are drawn again."""
SIMULATED, NETWORKS, PLANS, POOL = "simulated", 200, 60, 20_000
DRAWS, DRAWN = 40, 5_000
"""Draws of validation samples, and how many samples each."""


def found(zoo: Path) -> Iterator[Entry]:
    """Yield the networks there, by name."""
    for recipe in sorted((zoo / FOLDER).glob("*-*-s*/recipe.json")):
        about = json.loads(recipe.read_text(encoding="utf-8"))
        folder, data = recipe.parent, zoo / FOLDER / about["data"]
        files = json.loads((data / "recipe.json").read_text(encoding="utf-8"))["splits"]
        sets = {name: Set(name, data / each["file"], "top1") for name, each in files.items()}
        model = folder / "model.onnx"
        tests = (sets["test"],)
        yield Entry(folder.name, model, file_hash(model), "top1", sets["calibration"], sets["validation"], tests)


@dataclass(eq=False)
class _Contest:
    """One network's competition, and what it does on the test labels."""

    bench: Workbench
    _known: dict[int, Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.goal = wb.Lossless()
        self.session = self.bench.opened()
        self.competition = wb.compete(self.session, self.goal)
        self.test = self.bench.samples(self.bench.entry.tests[0])
        self.original = Scores.of(self.bench.original, self.test)

    def on_test(self, model: Any) -> Line:
        return compared(self.original, Scores.of(self.bench.runner(model), self.test))

    def best(self, basis: str | None = None, keep: float = 1.0) -> Line | None:
        """Return the plan of a basis (None: of any) and at most a size that is surest on the samples that choose.

        Truncation alone: no last layer is fitted to labels.
        """
        pairs = zip(self.competition.entries, self.competition.standings, strict=True)
        fitting = [
            (standing.gain.sure(), entry)
            for entry, standing in pairs
            if not entry.last_layer
            and (basis is None or (entry.basis == basis and entry.keep is not None))
            and wb.amount(entry.plan.cost, "parameters") <= keep * entry.problem.dense + 0.5
        ]
        if not fitting:
            return None
        _, entry = max(fitting, key=lambda pair: pair[0])
        kept = wb.amount(entry.plan.cost, "parameters") / entry.problem.dense
        if id(entry) not in self._known:
            self._known[id(entry)] = self.on_test(entry.search(entry.session, self.goal).sketch(entry.plan))
        return {"basis": entry.basis, "single": entry.keep is None, "kept": kept, **self._known[id(entry)]}

    def curve(self) -> list[Line]:
        """Return what the surest plan of at most every size does: ours of any basis, and of two."""
        curve = []
        for name, basis in BASES.items():
            found = [(size, self.best(basis, size)) for size in KEPT]
            curve += [
                {"name": name, "size": size, "kept": line["kept"], "basis": line["basis"], "gain": line["top1"][2]}
                for size, line in found
                if line is not None
            ]
        return curve

    def last_layer(self) -> Line:
        """Return the original with its last layer fitted to calibration labels: no truncation."""
        return self.on_test(self.session.refitting_last_layer().label_fits.alone()[0])

    def claimed(self) -> Line:
        """Return what is found, with its claim."""
        result = wb.claimed(self.session, self.goal, self.competition, wb.Target(None))
        data: Line = {"reason": result.reason, "changed": result.changed, "n": len(self.competition.claim)}
        if result.changed and result.verdict is not None and result.plan is not None:
            dense = sum(site.parameters for site in result.sites)
            left = dense - (result.before.parameters - result.after.parameters)
            data |= {"plan": result.plan.origin, "kept": left / dense, "bound": result.verdict.bound.value}
            data |= {"expected": result.findings.expected_gain, **self.on_test(result.model)}
        return data

    def pruned(self, keep: float | None = None) -> Line:
        """Return magnitude pruning of every weight, at the share that chooses best, or at a given one."""
        shares = PRUNED if keep is None else (keep,)
        models = {share: _pruned(self.session, share) for share in shares}
        selection, _ = wb.halves(self.session.split.validation, self.session.options.seed)
        scores = {share: Scores.of(self.bench.runner(model), selection).hits.mean() for share, model in models.items()}
        best = max(scores, key=lambda share: float(scores[share]))
        return {"kept": best, **self.on_test(models[best])}


def _pruned(session: Any, keep: float) -> onnx.ModelProto:
    """Return the model with the smallest elements of every factorable weight set to 0."""
    weights = {}
    for site in session.inventory.sites:
        weight = session.inventory.weight(site)
        edge = np.quantile(np.abs(weight), 1 - keep)
        arrives = wb.arriving(session.inventory, site, weight * (np.abs(weight) >= edge))
        weights |= wb.substitution(session.inventory, site, arrives)
    return wb.with_weights(session.loaded.model, weights)


def _measure(bench: Workbench) -> Line:
    contest = _Contest(bench)
    data: Line = {"original": float(contest.original.hits.mean()), "n": len(contest.test), "ours": contest.claimed()}
    data["truncation"] = contest.best()
    for size in SIZES:
        data[f"truncation {size:g}"] = contest.best(keep=size)
    data["curve"] = contest.curve()
    data["last layer"] = contest.last_layer()
    for name, basis in (("svd", "weights"), ("whitened", "inputs")):
        data[name] = contest.best(basis)
        for size in SIZES:
            data[f"{name} {size:g}"] = contest.best(basis, size)
    data["pruned"] = contest.pruned()
    for size in SIZES:
        data[f"pruned {size:g}"] = contest.pruned(size)
    return data


def _rivals(bench: Workbench) -> Line:
    """Return what else is done about noise, as far as it was trained."""
    test = bench.samples(bench.entry.tests[0])
    original = Scores.of(bench.original, test)
    paths = {name: bench.entry.model.parent / f"{name}.onnx" for name in RIVALS}
    return {
        name: compared(original, Scores.of(bench.runner(path), test)) if path.exists() else None
        for name, path in paths.items()
    }


def _draws(bench: Workbench) -> Line:
    """Return how often "better" is claimed, and falsely, over draws of validation samples from all labelled ones.

    What every plan truly gains is what it gains on all of them. Each draw is the whole procedure: the race on one half,
    the test of the plan that it chose on the other.
    """
    contest = _Contest(bench)
    pool = wb.joined(bench.samples(bench.entry.validation), contest.test)
    original = Scores.of(bench.original, pool).hits
    models = [
        Scores.of(wb.runner_of(entry, contest.goal), pool).hits - original for entry in contest.competition.entries
    ]
    return {"pool": len(pool), "plans": len(models), **drawn(np.array(models), DRAWS, DRAWN, bench.lines.setting.seed)}


def drawn(gains: Any, draws: int, size: int, seed: int) -> Line:
    """Return how many of so many draws of `size` samples claim "better", and falsely, of models (plans, pool)."""
    rng, better, false, chosen = np.random.default_rng(seed), 0, 0, []
    for _ in range(draws):
        order = rng.choice(gains.shape[1], size, replace=False)
        selection, claim = order[: size // 2], order[size // 2 :]
        race = wb.Race(
            wb.parts_of(selection), wb.folds_of(selection), lambda parts, row: [_gain(row[part]) for part in parts]
        )
        best = wb.surest(race.run(list(gains)))
        lost, gained = int((gains[best][claim] < 0).sum()), int((gains[best][claim] > 0).sum())
        truth = float(gains[best].mean())
        chosen.append(truth)
        if wb.difference_bound(lost, gained, len(claim), 1 - wb.LEVEL) < 0:
            better += 1
            false += truth <= 0
    return {"draws": draws, "size": size, "better": better, "false": int(false), "chosen": float(np.mean(chosen))}


def _gain(apart: Any) -> wb.Gain:
    return wb.Gain(float(apart.sum()), float((apart**2).sum()), len(apart), 1.0)


def _simulated(bench: Workbench) -> Line:
    """Return the same of simulated networks that cannot profit, one draw each: plans change decisions, none gains.

    Plans of one network change the same decisions, the smaller ones more of them. Half of the networks neither lose nor
    gain by any plan, in expectation; the others lose up to a point. So every "better" is false.
    """
    seed = bench.lines.setting.seed
    rng, better = np.random.default_rng(seed), 0
    shares = np.geomspace(0.002, 0.1, PLANS)[:, None]
    for number in range(NETWORKS):
        losses = np.zeros((PLANS, 1)) if number % 2 else np.geomspace(1e-4, 1e-2, PLANS)[:, None]
        changes, lots = rng.random(POOL) < shares, rng.random(POOL)
        gains = np.where(changes, np.where(lots < 0.5 + losses / shares / 2, -1.0, 1.0), 0.0)
        better += drawn(gains, 1, DRAWN, seed + number)["better"]
    return {"draws": NETWORKS, "size": DRAWN, "better": better, "false": better, "plans": PLANS, "pool": POOL}


def _cells(model: str, quick: bool) -> list[Cell]:
    if model == SIMULATED:
        return [Cell(FALSE, _simulated)]
    rivals = [Cell(RIVAL, _rivals, lambda data: None in data.values())] if "-" in model else []  # zoo models have none
    draws = kind_of(model)[1] == CLEAN and model.endswith("-s0")
    return [Cell(CELL, _measure), *rivals, *([Cell(FALSE, _draws)] if draws else [])]


OWN = {SIMULATED: partial(stand_in, SIMULATED, "simulated 1")}
PART = Part(
    "beyond", "Beyond the original", _cells, body, CLASSIFIERS, found=found, own=OWN, costly=True,
    figures={"beyond.svg": draw},
)  # fmt: skip
