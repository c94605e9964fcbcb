"""Part "beyond": is a smaller network better than the original, and more so than by what else is done about noise?

Networks that `python -m models beyond` trained: with random labels, or on few samples. Ours is what `--algorithm
lossless` without a size finds by itself; beside it, by the same samples that choose: ours at two sizes, plain and
whitened truncation and magnitude pruning at the size that chooses best and at the same two, the epoch that was best,
the weight decay that was best. All on the test labels, once, in pairs with the original.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import workbench as wb
from benchmarks.lines import Line, Setting, cells_of
from benchmarks.parts import Cell, Part
from benchmarks.scores import Scores, compared
from benchmarks.wording import table
from benchmarks.workbench import Workbench
from benchmarks.zoo import CLASSIFIERS, Entry, Set, file_hash, stand_in

FOLDER = "beyond"
SIZES = (0.3, 0.1)
"""Shares of the factorable parameters that are kept at most: −70 and −90 %."""
RIVALS = ("early", "decay")
PRUNED = (0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05)
"""Shares of each weight that magnitude pruning keeps."""
CELL, FALSE = "search", "draws"
CLEAN = ("noise0", "clean2000", "clean5000")
"""What networks have learned that may have nothing to gain: of these validation sets are drawn again."""
SIMULATED, NETWORKS, PLANS, POOL = "simulated", 200, 60, 20_000
DRAWS, DRAWN = 40, 5_000
"""Draws of validation samples, and how many samples each."""
COLUMNS = {
    "ours": "ours", "truncation": "truncation", "truncation 0.3": "−70 %", "truncation 0.1": "−90 %",
    "last layer": "last layer", "svd": "SVD", "whitened": "whitened SVD", "pruned": "pruned", "early": "early stop",
    "decay": "decay",
}  # fmt: skip
"""What is shown of each, and its heading; the table of sizes has the rest."""
BY_SIZE = {
    f"{name} {size:g}": f"{heading} −{100 - 100 * size:.0f} %"
    for name, heading in (("svd", "SVD"), ("whitened", "whitened SVD"), ("pruned", "pruned"))
    for size in SIZES
}


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
        made = self.on_test(entry.search(entry.session, self.goal).sketch(entry.plan))
        return {"basis": entry.basis, "single": entry.keep is None, "kept": kept, **made}

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
    data["last layer"] = contest.last_layer()
    for name, basis in (("svd", "weights"), ("whitened", "inputs")):
        data[name] = contest.best(basis)
        for size in SIZES:
            data[f"{name} {size:g}"] = contest.best(basis, size)
    data["pruned"] = contest.pruned()
    for size in SIZES:
        data[f"pruned {size:g}"] = contest.pruned(size)
    for rival in RIVALS:
        path = bench.entry.model.parent / f"{rival}.onnx"
        data[rival] = contest.on_test(path) if path.exists() else None
    return data


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
    return [Cell(CELL, _measure), *([Cell(FALSE, _draws)] if _kind(model)[1] in CLEAN else [])]


def _body(lines: Sequence[Line], setting: Setting) -> list[str]:
    cells = {name: each[CELL] for name, each in cells_of(lines, "beyond").items() if CELL in each}
    groups: dict[tuple[str, str], list[Line]] = {}
    for name, data in sorted(cells.items()):
        kind, what = _kind(name)
        groups.setdefault((kind, what), []).append(data)
    text = [
        "Top-1 on test labels, in points above the original: mean over seeds [the lowest and the highest of their 95 %"
        " intervals, exact, paired]. *Ours*: what the mode saves by itself, 0 where nothing; *truncation*: the same"
        " without fitting the last layer to labels, not claimed, and at most 30 and 10 % of the factorable parameters;"
        " *last layer*: that alone, of the whole network.",
        "",
    ]
    for kind in sorted({kind for kind, _ in groups}):
        text += [f"## {kind}", ""]
        for columns in (COLUMNS, BY_SIZE):
            rows = [_row(what, seeds, columns) for (each, what), seeds in groups.items() if each == kind]
            text += table(("learned", "seeds", "original", *columns.values()), rows)
        text += [f"{kind.capitalize()}: what was found.", "", *table(FOUND, list(_found(kind, cells)))]
    return [*text, *_claims({n: each[FALSE] for n, each in cells_of(lines, "beyond").items() if FALSE in each})]


def _kind(name: str) -> tuple[str, str]:
    """Return a network's kind and what it learned."""
    kind, _, rest = name.partition("-")
    return (kind, rest.partition("-")[0]) if rest else ("networks of the zoo, as they are", name)


def _claims(draws: dict[str, Line]) -> list[str]:
    """Return the table of how often "better" is claimed over draws of the validation samples, and how often falsely."""
    if not draws:
        return []
    rows = [
        (name, f"{d['draws']} of {d['size']:,}", f"{d['pool']:,}", str(d["better"]), str(d["false"]),
         f"{100 * d['chosen']:+.2f}".replace("-", "−") if "chosen" in d else "–")
        for name, d in sorted(draws.items())
    ]  # fmt: skip
    heads = (
        "network",
        "draws",
        "of so many labels",
        "better claimed",
        "falsely",
        "true gain of what is chosen, points",
    )
    return ["## How often *better* is false", "", *table(heads, rows)]


FOUND = ("network", "plan", "kept", "claim", "on test labels")


def _row(what: str, seeds: Sequence[Line], keys: Iterable[str]) -> tuple[str, ...]:
    originals = np.mean([data["original"] for data in seeds])
    return (what, str(len(seeds)), f"{originals:.4f}", *(_points([data.get(key) for data in seeds]) for key in keys))


def _points(made: Sequence[Line | None]) -> str:
    known = [(0.0, 0.0, 0.0) if "top1" not in data else data["top1"][2] for data in made if data is not None]
    if not known:
        return "–"
    middle, low, high = np.mean([k[0] for k in known]), min(k[1] for k in known), max(k[2] for k in known)
    return f"{100 * middle:+.1f} [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")


def _found(kind: str, cells: dict[str, Line]) -> Iterator[tuple[str, ...]]:
    for name, data in sorted(cells.items()):
        ours = data["ours"]
        if _kind(name)[0] != kind:
            continue
        if not ours["changed"]:
            yield name, "–", "–", ours["reason"][:60], "–"
            continue
        bound = ours["bound"]
        claim = f"better by at least {-bound:.4f}" if bound < 0 else f"worse by at most {bound:.4f}"
        yield name, ours["plan"], f"{100 * ours['kept']:.0f} %", claim, _points([ours])


OWN = {SIMULATED: partial(stand_in, SIMULATED, "simulated 1")}
PART = Part("beyond", "Beyond the original", _cells, _body, CLASSIFIERS, found=found, own=OWN, costly=True)
