"""Part "floor": every weight alone at its largest rank, and how close the original's own decisions are.

Where the mildest change of a single weight already costs more than a goal allows, a plan that has it can pass only if
others make up for it. All is measured on validation samples, at most SAMPLES of them for the weights; never on test's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import workbench as wb
from benchmarks.goals import MAX_DROP
from benchmarks.lines import Cells, Line
from benchmarks.parts import Cell, Part, sections
from benchmarks.substitution import Substitution
from benchmarks.wording import NONE, interval, number, percent, table, with_interval
from benchmarks.workbench import Workbench

SAMPLES, QUICK_SAMPLES, SHOWN = 200, 24, 8
MARGINS = (0.01, 0.02, 0.05)
DECIDED = ":top1"
"""The metric under which a sample is one decision, so that margins and flips mean something."""


def _measure(bench: Workbench) -> Line:
    samples = wb.some(bench.samples(bench.entry.validation), QUICK_SAMPLES if bench.quick else SAMPLES)
    session, seed = bench.collected(), bench.options.seed
    there, metric = Substitution(bench, session, samples), bench.judge(bench.entry.validation).metric
    outputs = [sample for _, batch in there.reference.batches() for sample in batch]
    classes = wb.class_output(metric, wb.listed(outputs)) if bench.entry.metric.endswith(DECIDED) else None
    collector = wb.Collector(metric, samples.labels, seed, original=True)
    collector.add(outputs, outputs)
    original, weights = collector.result(), []
    for curve in there.curves:
        if (option := mildest(curve)) is None:
            continue
        collector = wb.Collector(metric, samples.labels, seed, original=False)
        pairs = list(there.outputs(curve.site, option))
        collector.add([candidate for _, candidate in pairs], [reference for reference, _ in pairs])
        drop = wb.drop_of(metric, original, collector.result(), wb.LEVEL, relative=False)
        flips = [1 - wb.agreement(*(side[classes] for side in pair)) for pair in pairs] if classes else []
        weights.append(
            {
                "site": curve.site, "node": there.sites[curve.site].node, "scheme": option.scheme,
                "rank": "x".join(map(str, option.ranks)), "predicted": option.loss,
                "saved": curve.dense.cost.parameters - option.cost.parameters, "drop": wb.triple(drop),
                "exceeds": not wb.within(drop.estimate, MAX_DROP, 1.0), "loss": _mean([there.loss(p) for p in pairs]),
                "flips": _mean(flips) if flips else None,
            }
        )  # fmt: skip
    return {
        "metric": metric.name, "unit": bench.objective.unit, "n": len(samples), "allowed": MAX_DROP,
        "sites": len(there.sites), "factorable": wb.factorable(session), "weights": weights,
        "margins": _margins(bench, classes) if classes else None,
    }  # fmt: skip


def _mean(values: Sequence[float]) -> list[float]:
    return wb.triple(wb.single_interval(np.array(values, float), wb.LEVEL))


def mildest(curve: Any) -> Any:
    """Return the option of the largest rank on offer: the most parameters short of dense; None where there is none."""
    smaller = [o for o in curve.options if not o.dense and o.cost.parameters < curve.dense.cost.parameters]
    return max(smaller, key=lambda o: (o.cost.parameters, -o.loss), default=None)


def _margins(bench: Workbench, classes: str) -> Line:
    """Return (bound, share of validation samples whose decisions lead by less, its ends) for every bound."""
    feeds = bench.samples(bench.entry.validation).feeds
    batches = wb.Reference(bench.original, feeds, limit=0).batches()
    leads = [margin(sample[classes]) for _, batch in batches for sample in batch]
    return {"n": len(leads), "shares": [[bound, *_mean([lead < bound for lead in leads])] for bound in MARGINS]}


def margin(scores: Any) -> float:
    """Return the least p₁ − p₂ over a sample's positions: by how much its decision leads the next."""
    chances = np.sort(np.exp(wb.log_probabilities(scores, probabilities=wb.probable(scores))), axis=1)
    return float((chances[:, -1] - chances[:, -2]).min())


def ranked(weights: Sequence[Line]) -> list[Line]:
    """Return the weights by drop for every parameter saved, a gain taken as none; ties by their loss for it."""
    return sorted(weights, key=lambda w: (max(w["drop"][0], 0.0) / w["saved"], w["loss"][0] / w["saved"]))


def _section(model: str, cells: Cells) -> list[str]:
    data = cells["weights"]
    weights, allowed, decided = data["weights"], data["allowed"], data["margins"]
    surely = sum(weight["drop"][1] > allowed for weight in weights)
    saved = [sum(w["saved"] for w in part) for part in ([w for w in weights if not w["exceeds"]], weights)]
    decision = f" (one decision is {number(1 / data['n'])})" if decided else ""
    text = [
        f"On {data['n']} validation samples{decision}: {sum(weight['exceeds'] for weight in weights)} of"
        f" {len(weights)} weights alone exceed {number(allowed)} ({surely} with their whole interval). The others save"
        f" {percent(saved[0] / data['factorable'])} of the factorable parameters at these ranks; all save"
        f" {percent(saved[1] / data['factorable'])}. Shown: {min(SHOWN, len(weights))} of {len(weights)} weights, the"
        " least drop for every parameter saved first (a gain counts as no drop, ties by loss).",
        "",
    ]
    if decided:
        shares = (f"{number(bound, 2)}: {number(ends[0])} {interval(ends)}" for bound, *ends in decided["shares"])
        text += [
            f"How close the original's own decisions are: the share of {decided['n']} validation samples with p₁ − p₂"
            f" below {', below '.join(shares)}.",
            "",
        ]
    heads = ["weight", "scheme, rank", "parameters saved", f"drop of `{data['metric'].rpartition(':')[2]}`"]
    heads += [f"loss, {data['unit']}", *(["decisions that flip"] if decided else [])]
    return [*text, *table(heads, [_row(data, weight) for weight in ranked(weights)[:SHOWN]])]


def _row(data: Line, weight: Line) -> list[str]:
    loss = "{:.2g} [{:.2g}, {:.2g}]".format(*weight["loss"])
    flips = [with_interval(weight["flips"]) if weight["flips"] else NONE] if data["margins"] else []
    drop = with_interval(weight["drop"], 3 if data["margins"] else 5)  # a correlation moves in small steps
    saved = f"{weight['saved']:,} ({percent(weight['saved'] / data['factorable'], 2)})"
    return [f"`{weight['node'] or weight['site']}`", f"{weight['scheme']}, {weight['rank']}", saved, drop, loss, *flips]


PART = Part(
    "floor", "Floor: one weight alone, at its largest rank", lambda model, quick: [Cell("weights", _measure)],
    sections("floor", _section), ("minilm", "ppocr", "efficientnet"),
)  # fmt: skip
