"""The page of part "trust", and what its cells are: gates on draws of the demo, and simulated ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks import workbench as wb
from benchmarks.lines import Cells, Line, Setting, cells_of
from benchmarks.trust_kinds import ALPHA, KINDS, Kind
from benchmarks.wording import NONE, interval, number, percent, table
from models.fashion_mnist import TRAINED_ON
from onnx_lowrank import Gate

DEMO, SIMULATED = "demo", "simulated"
ALLOWED = 0.01
CERTIFIED, FIRST, BITS = "certified .01", "first version's .01", "certified .01, ranks and bits"
GATES = {
    CERTIFIED: Gate(max_drop=ALLOWED),
    "certified .005": Gate(max_drop=0.005),
    "observed .005": Gate(max_drop=0.005, observed=True),
}
LIMITS = {**{name: gate.allowed() for name, gate in GATES.items()}, FIRST: ALLOWED, BITS: ALLOWED}
"""What each rule allows."""
SIZES = (500, 2000)
"""Validation samples."""
CHANGED = (0.005, 0.01, 0.02, 0.05)
"""Shares of samples whose value changes, at the severity that loses just what is allowed."""
BESIDE = 0.0075
"""A share beside those that the bound of a metric of a set was made by: between two of them, where it is weakest."""
PLANS = (1, 5, 15)
ERRORS = 2
"""Monte-Carlo errors by which a rate may be above its level."""
ABOUT_DRAWS = (
    "Every draw takes {calibration} calibration images and n validation images, disjoint, by seed, from the training"
    f" images after the first {TRAINED_ON:,}: the demo was not trained on these. There are 10,000 of them, so draws"
    " share images. The truth is the drop of top-1 on the {test:,} test images (the original has {top1}), which no gate"
    " sees; it is itself an estimate. All rules of a row of draws work on the same collection. *"
    f"{FIRST}* is the rule that `--confidence 0.95 --max-drop 0.01` stood for at first: a search for the smallest plan"
    " whose two-sided 95 % interval of the drop ends at or below .01. *Too much*: the true drop is larger than allowed;"
    " its interval is Clopper and Pearson's. A draw that is not saved keeps all its parameters."
    f" *{BITS}* is for the fewest bytes, of which *kept* is the share there; the same draws, by a later state."
    " **Not untouched:** how plans are placed in a sequence was changed twice after earlier results of these same draws"
    " had been seen on the test images (at first certified .01 kept more than the first version's rule), and the number"
    " of draws was doubled after the last change. So the comparison of sizes is in favour of what it was tuned on, and"
    " wants fresh data; the level of the tests was not chosen by it."
)
ABOUT_SIMULATION = (
    "A sequence of nested plans of rising true drop; its middle one loses exactly what is allowed. *False*: the last"
    f" plan that is certified loses that or more, at a level of {number(ALPHA, 2)}; by number of plans, on the same"
    " samples."
    " *Changed*: samples whose value changes by the middle plan (*all scores move*: by that share of their variance)."
    " *Power*: a single plan that changes as many samples and loses nothing is certified; beside it the best that any"
    " test can do: right or wrong, the likelihood-ratio test that knows how many samples change; else a z test that"
    " knows the standard deviation, which does not keep its level where losses are rare: there it is out of reach."
    f" *Limit*: the level plus {ERRORS} Monte-Carlo errors. The bound of an aggregate (macro-F1, correlation) was"
    " mended by earlier results of these same kinds; cells beside the grid show where that does not carry over."
)


def simulations(changed: Sequence[float], quick: bool) -> list[tuple[Kind, float, int]]:
    """Return (kind, share changed, samples) of the cells at some shares."""
    if quick:
        return [(kind, share, SIZES[0]) for kind in KINDS for share in changed if share == CHANGED[2]]
    return [(kind, share, n) for kind in KINDS for share in changed for n in SIZES]


def simulation_name(kind: Kind, changed: float, n: int) -> str:
    return f"simulation/{kind.name}/{changed:g}/{n}"


def body(lines: Sequence[Line], setting: Setting) -> list[str]:
    models = cells_of(lines, "trust")
    draws, simulated = models.get(DEMO, {}), models.get(SIMULATED, {})
    rows = checks(draws, simulated, setting.quick)
    text = table(("must be shown", "", "measured"), rows, figures=False)
    return [*text, *_draws(draws), *_simulation(simulated, setting.quick)]


def checks(draws: Cells, simulated: Cells, quick: bool) -> list[tuple[str, str, str]]:
    """Return (what is asked, whether it is so, what was measured)."""
    level = f"false certified at most {number(ALPHA, 2)} and {ERRORS} Monte-Carlo errors"
    asked = {f"{level} in every cell of {', '.join(percent(share) for share in CHANGED)} changed": CHANGED}
    asked |= {} if quick else {f"{level} beside these, at {percent(BESIDE, 2)} changed": (BESIDE,)}
    rows = []
    for text, changed in asked.items():
        wanted = [simulation_name(*cell) for cell in simulations(changed, quick)]
        there = [simulated[name] for name in wanted if name in simulated]
        over = sum(worst(cell) > limit(cell["repetitions"]) for cell in there)
        found = f"{over} of {len(there)} cells above; largest rate {number(max(map(worst, there), default=0.0), 4)}"
        rows.append((text, _mark(not over if len(there) == len(wanted) else None), found if there else NONE))
    large = max(SIZES)
    kept = [float(np.median(v)) for rule in (CERTIFIED, FIRST) if (v := _values(draws, large, rule, "kept"))]
    text = f"at n = {large:,} {CERTIFIED} keeps no more parameters than {FIRST}, by the median"
    found = " and ".join(map(percent, kept))
    return [*rows, (text, _mark(kept[0] <= kept[1] if len(kept) == 2 else None), found or NONE)]


def _mark(met: bool | None) -> str:
    return {True: "met", False: "**MISSED**", None: "open"}[met]


def worst(cell: Line) -> float:
    return float(max(cell["false"].values()) / cell["repetitions"])


def limit(repetitions: int) -> float:
    return float(ALPHA + ERRORS * math.sqrt(ALPHA * (1 - ALPHA) / repetitions))


def _values(cells: Cells, n: int, rule: str, what: str) -> list[float]:
    rules = [data["rules"] for name, data in cells.items() if name.split("/")[1] == str(n)]
    return [float(each[rule][what]) for each in rules if rule in each]


def _draws(cells: Cells) -> list[str]:
    if not cells:
        return []
    about, rows = next(iter(cells.values())), []
    for rule, n in ((rule, n) for rule in LIMITS for n in SIZES):
        drops, kept, saved, tests = (_values(cells, n, rule, what) for what in ("true_drop", "kept", "saved", "tests"))
        if not drops:
            continue
        wrong = sum(drop > LIMITS[rule] for drop in drops)
        share = wb.triple(wb.proportion_interval(wrong, len(drops), wb.LEVEL))
        low, middle, high = np.quantile(kept, (0.25, 0.5, 0.75))
        told = [rule, f"{n:,}", str(len(drops)), f"{sum(saved):.0f}", f"{wrong} {interval(share, 2)}"]
        told += [number(float(np.mean(drops)), 4), f"{number(middle)} {interval((middle, low, high))}"]
        rows.append([*told, f"{np.mean(tests):.1f}"])
    heads = ("rule", "n", "draws", "saved", "too much", "mean true drop", "kept, median [quartiles]", "plans tested")
    text = ABOUT_DRAWS.format(**{**about, "top1": number(about["top1"], 4)})
    return ["## Draws of the demo", "", text, "", *table(heads, rows)]


def _simulation(cells: Cells, quick: bool) -> list[str]:
    wanted = [simulation_name(*cell) for changed in (CHANGED, (BESIDE,)) for cell in simulations(changed, quick)]
    rows = [_row(cells[name]) for name in wanted if name in cells]
    counts = sorted(f"{kind.name} {kind.repetitions:,}" for kind in KINDS)
    repetitions = "" if quick else f" Repetitions: {', '.join(counts)}."
    heads = ["metric", "changed", "n", "allowed", *(f"false, {n} plan{'s' * (n > 1)}" for n in PLANS)]
    text = ["## Simulated gates", "", ABOUT_SIMULATION + repetitions, ""]
    return [*text, *table([*heads, "limit", "power", "best"], rows)] if rows else []


def _row(cell: Line) -> list[str]:
    most = limit(cell["repetitions"])
    rates = [cell["false"][str(plans)] / cell["repetitions"] for plans in PLANS]
    shown = [number(rate, 4) if rate <= most else f"**{number(rate, 4)}**" for rate in rates]
    first = [cell["kind"], percent(cell["changed"], 2), f"{cell['n']:,}", number(cell["allowed"], 4)]
    return [*first, *shown, number(most, 4), number(cell["power"], 2), number(cell["best"], 2)]
