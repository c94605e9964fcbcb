"""Part "width": units between two constant maps left out, against ranks of the maps, over the same weights.

Interpolative factors are the pair's product in r (m + n − r) numbers, so every rank saves; here they are put in as
dense products, and so are narrower maps at their old width. Time is measured on graphs as they would be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks import width_curves, width_time
from benchmarks import workbench as wb
from benchmarks.lines import Cells, Line
from benchmarks.parts import Cell, Part, sections
from benchmarks.width_curves import Collection
from benchmarks.width_units import Array
from benchmarks.wording import NONE, number, percent, table
from benchmarks.workbench import Workbench

MODELS = ("minilm", "efficientnet", "resnext50", "vit")
SIZES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
QUICK_SIZES = (0.8,)
JUDGED = {"resnext50": 600, "vit": 1500, "minilm": 250}
"""Validation samples, at most."""
METHODS = ("interpolative", "pairs", "width, crude", "width, even", "width", "both")
SMALL = 1e-5
"""Errors below this are written as powers of ten."""
RIVAL = "interpolative"
SHOWN = ("interpolative", "width", "both")
ABOUT = (
    "*Kept* counts the parameters of the weights around units alone; all else is as it was. *Width, crude*: units by"
    " pivoted QR; *width*: by greedy removal in the two-sided metric; both refitted, and spread over the places by the"
    " knapsack; *even*: the same units, every place the same share. *Both*: at every place what the knapsack takes,"
    " narrower maps or interpolative factors. Loss: divergence from the original's outputs on validation samples, ± its"
    " standard error; *more*: than interpolative factors of the same size lose, paired. Metric, MACs, predicted loss:"
    " of " + ", ".join(SHOWN) + "."
)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A choice: what it should lose, what it keeps, and the weights that are other than they were."""

    predicted: float
    parameters: float
    macs: float
    weights: Mapping[str, Array]
    narrower: int


@dataclass(frozen=True, slots=True)
class Option:
    """What weights cost at a choice: at rank `rank`, or as a narrower place (form, count)."""

    loss: float
    parameters: tuple[float, ...]
    rank: int = 0
    form: int = -1
    count: int = 0


def _ranks(there: Collection, site: str, *, pairs: bool) -> list[Option]:
    own, scores = there.sites[site], there.scores[site]
    m, n = own.shape[0] // own.groups, int(np.prod(own.shape[1:]))
    made = [Option(0.0, (float(own.parameters),))]
    for (rank,), rise in zip(scores.ranks, scores.rise, strict=True):
        size = own.groups * rank * (m + n - (0 if pairs else rank))
        if size < own.parameters:
            made.append(Option(float(rise), (float(size),), rank=rank))
    return made


def _narrower(there: Collection, place: int, selection: str) -> list[Option]:
    weights = [there.sites[weight].parameters for weight in there.places[place].weights]
    return [
        Option(
            float(loss),
            tuple(s * w for s, w in zip(curve.form.share(count / curve.form.of), weights, strict=True)),
            form=at,
            count=count,
        )
        for at, curve in enumerate(there.curves[selection][place])
        for count, loss in zip(curve.counts, curve.loss, strict=True)
    ]  # fmt: skip


def made(there: Collection, method: str, share: float) -> Made | None:
    """Return the best choice of a method within a share of the parameters, None where none fits."""
    budget = share * sum(there.sites[w].parameters for place in there.places for w in place.weights)
    selection = "crude" if method == "width, crude" else "greedy"
    if method == "width, even":
        curves = [own[0] for own in there.curves[selection]]
        return _finished(
            there, selection, [[_even(_narrower(there, i, selection), c, share)] for i, c in enumerate(curves)]
        )
    if method.startswith("width"):
        return _only_narrower(there, selection, budget)
    options: list[list[Option]] = []
    ties, starts = [], [0]
    for i, place in enumerate(there.places):
        own = [_ranks(there, weight, pairs=method == "pairs") for weight in place.weights]
        together = _narrower(there, i, selection) if method == "both" else []
        if together:
            rows = np.array([[len(each) + k for each in own] for k in range(len(together))])
            ties.append(wb.Tie(tuple(range(starts[-1], starts[-1] + len(own))), rows))
        options += [[*each, *together] for each in own]
        starts.append(len(options))
    members = [member for place in there.places for member in range(len(place.weights))]
    losses = [
        np.array([o.loss if o.form < 0 or member == 0 else 0.0 for o in each])
        for member, each in zip(members, options, strict=True)
    ]
    costs = [
        np.array([o.parameters[0 if o.form < 0 else member] for o in each])
        for member, each in zip(members, options, strict=True)
    ]
    chosen = wb.relaxed(losses, costs, budget, ties)
    if chosen is None:
        return None
    picks = [each[pick] for each, pick in zip(options, chosen, strict=True)]
    return _finished(there, selection, [picks[a:b] for a, b in pairwise(starts)])


def _only_narrower(there: Collection, selection: str, budget: float) -> Made | None:
    options = [
        [Option(0.0, tuple(float(there.sites[w].parameters) for w in place.weights)), *_narrower(there, i, selection)]
        for i, place in enumerate(there.places)
    ]
    losses = [np.array([o.loss for o in each]) for each in options]
    chosen = wb.relaxed(losses, [np.array([sum(o.parameters) for o in each]) for each in options], budget)
    if chosen is None:
        return None
    return _finished(there, selection, [[each[pick]] for each, pick in zip(options, chosen, strict=True)])


def _even(options: Sequence[Option], curve: Any, share: float) -> Option:
    """Return the first form at the count that keeps this share of a place, at most."""
    own = [option for option in options if option.form == 0]
    fits = [o for o in own if np.mean(curve.form.share(o.count / curve.form.of)) <= share * (1 + 1e-9)]
    return min(fits, key=lambda o: -o.count) if fits else min(own, key=lambda o: o.count)


def _finished(there: Collection, selection: str, picks: Sequence[Sequence[Option]]) -> Made:
    weights: dict[str, Array] = {}
    kept: dict[str, float] = {}
    predicted, narrower = 0.0, 0
    for i, (place, own) in enumerate(zip(there.places, picks, strict=True)):
        if len(own) == 1 or own[0].form >= 0:
            option = own[0]
            predicted += option.loss
            kept |= dict(zip(place.weights, option.parameters, strict=True))
            if option.form >= 0:
                narrower += 1
                weights |= there.narrowed(i, there.curves[selection][i][option.form], option.count)
            continue
        for weight, option in zip(place.weights, own, strict=True):
            predicted += option.loss
            kept[weight] = option.parameters[0]
            if option.rank:
                weights[weight] = there.scores[weight].factors.dense((option.rank,))
    whole = {weight: float(there.sites[weight].parameters) for weight in kept}
    macs = [sum(sizes[w] * there.positions[w] for w in sizes) for sizes in (kept, whole)]
    return Made(predicted, sum(kept.values()) / sum(whole.values()), macs[0] / macs[1], weights, narrower)


def with_dense(there: Collection, weights: Mapping[str, Array]) -> Any:
    """Return the model with other weights at some sites."""
    inventory, entries = there.session.inventory, {}
    for site, dense in weights.items():
        stored = wb.arriving(inventory, there.sites[site], np.asarray(dense, np.float64))
        entries |= inventory.sources[site].replaced(stored)
    return wb.with_weights(there.session.loaded.model, entries)


def _measure(bench: Workbench) -> Line:
    there = bench.once(width_curves.collect)
    samples = wb.some(bench.samples(bench.entry.validation), JUDGED.get(bench.entry.name, 10**9))
    outputs = wb.first_outputs(there.session.loaded, samples.feeds)
    metric, _ = wb.choose_metric(bench.entry.validation.metric, samples.labels, outputs)
    judge = wb.make_judge(there.session.loaded, samples, metric, wb.Gate(max_drop=0.0, observed=True), bench.options)
    base, rows = judge.baseline(), []
    for share in QUICK_SIZES if bench.quick else SIZES:
        losses: dict[str, Array] = {}
        for method in METHODS:
            if method == "width, crude" and not there.has_units:
                continue
            if (choice := made(there, method, share)) is None:
                continue
            own: list[float] = []

            def watch(reference: Any, outputs: Any, own: list[float] = own) -> None:
                pairs = zip(reference, outputs, strict=True)
                own += [min(bench.objective.divergence(*pair, 1), wb.MOST_LOSS) for pair in pairs]

            run = judge.compared(bench.runner(with_dense(there, choice.weights)), watch=watch)
            losses[method] = np.array(own)
            rows.append(
                {
                    "share": share, "method": method, "predicted": choice.predicted, "parameters": choice.parameters,
                    "macs": choice.macs, "narrower": choice.narrower, "loss": _mean(losses[method]),
                    "paired": _mean(losses[method] - losses[RIVAL]) if RIVAL in losses else None,
                    "metric": wb.said(judge.verdict(base, run)),
                }
            )  # fmt: skip
            print(
                rows[-1]["share"],
                method,
                f"{choice.predicted:.5f}",
                rows[-1]["loss"],
                rows[-1]["metric"]["candidate"],
                choice.narrower,
                flush=True,
            )
    sites = there.sites.values()
    return {
        "rows": rows, "n": len(samples), "calibration": len(there.session.split.calibration),
        "unit": bench.objective.unit, "places": [_kinds(there)], "weights": len(there.sites),
        "share": sum(site.parameters for site in sites) / there.session.inventory.parameters,
    }  # fmt: skip


def _kinds(there: Collection) -> dict[str, int]:
    names = [place.forms[0].name for place in there.places]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _mean(values: Array) -> list[float]:
    return [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]


def _with_error(pair: Sequence[float]) -> str:
    if pair[1] < SMALL:
        return f"{pair[0]:.1e} ± {pair[1]:.0e}".replace("-", "−")
    digits = int(max(3, min(6, 1 - np.floor(np.log10(pair[1])))))
    return f"{number(pair[0], digits)} ± {number(pair[1], digits)}"


def _section(model: str, cells: Cells) -> list[str]:
    text: list[str] = []
    if "sizes" in cells:
        data = cells["sizes"]
        kinds = ", ".join(f"{count} × {name}" for name, count in data["places"][0].items())
        first = data["rows"][0]["metric"]
        task = first["metric"].split(":")[-1]
        text += [
            f"{kinds}: {data['weights']} weights with {percent(data['share'], 0)} of the parameters;"
            f" {data['calibration']} calibration, {data['n']} validation samples; loss in {data['unit']};"
            f" {task} of the original {number(first['original'][0], 4)}.",
            "",
        ]
        there = [method for method in METHODS if any(row["method"] == method for row in data["rows"])]
        heads = ("kept", f"{RIVAL}: loss", *(f"{m}: more" for m in there[1:]), f"{task}: {', '.join(SHOWN)}")
        by = {(row["share"], row["method"]): row for row in data["rows"]}
        shares = dict.fromkeys(row["share"] for row in data["rows"])
        text += table((*heads, "MACs", "predicted", "narrower in *both*"), [_row(s, by, there) for s in shares])
    return [*text, *(width_time.section(cells["time"]) if "time" in cells else [])]


def _row(share: float, by: Mapping[tuple[float, str], Line], there: Sequence[str]) -> list[str]:
    own = {method: by.get((share, method)) for method in there}

    def each(show: Callable[[Line], str]) -> str:
        return ", ".join(show(row) if (row := own.get(m)) else NONE for m in SHOWN)

    more = [_with_error(row["paired"]) if (row := own[m]) and row["paired"] else NONE for m in there[1:]]
    both = own.get("both")
    return [
        percent(share, 0), _with_error(row["loss"]) if (row := own[RIVAL]) else NONE, *more,
        each(lambda row: number(row["metric"]["candidate"][0], 4)), each(lambda row: percent(row["macs"], 0)),
        each(lambda row: f"{row['predicted']:.2g}".replace("-", "−")), str(both["narrower"]) if both else NONE,
    ]  # fmt: skip


PART = Part(
    "width", "Units between two constant maps",
    lambda model, quick: [Cell("sizes", _measure), Cell("time", partial(width_time.measure, share=0.8))],
    sections("width", _section, ABOUT), MODELS, costly=True,
)  # fmt: skip
