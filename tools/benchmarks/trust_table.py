"""The page of part "trust": what gates let through, on draws of the demo and in simulation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.lines import Line, Setting
from benchmarks.target import Inventory, Target
from benchmarks.trust_kinds import ALPHA, Kind
from benchmarks.trust_parts import CERTIFIED, DEMO, FIRST, LIMITS, PART, SIMULATED, SIZES, draw_name, draws
from benchmarks.trust_simulation import BESIDE, CHANGED, KINDS, PLANS, beside, cell_name, cells
from benchmarks.wording import NONE, interval, number, percent, table
from models.fashion_mnist import TRAINED_ON
from onnx_lowrank.statistics import LEVEL, proportion_interval

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
    " **Not untouched:** how plans are placed in a sequence was changed twice after earlier results of these same draws"
    " had been seen on the test images (at first certified .01 kept more than the first version's rule), and the number"
    " of draws was doubled after the last change. So the comparison of sizes is in favour of what it was tuned on, and"
    " wants fresh data; the level of the tests was not chosen by it."
)
ABOUT_SIMULATION = (
    "A sequence of nested plans of rising true drop; its middle one loses exactly what is allowed. *False*: the last"
    " plan that is certified loses that or more, at a level of {alpha}; by number of plans, on the same samples."
    " *Changed*: samples whose value changes by the middle plan (*all scores move*: by that share of their variance)."
    " *Power*: a single plan that changes as many samples and loses nothing is certified; beside it the best that any"
    " test can do: right or wrong, the likelihood-ratio test that knows how many samples change; else a z test that"
    " knows the standard deviation, which does not keep its level where losses are rare: there it is out of reach."
    " *Limit*: the level plus {errors} Monte-Carlo errors. The bound of an aggregate (macro-F1, correlation) was mended"
    " by earlier results of these same kinds; cells beside the grid show where that does not carry over."
)


def page(lines: Sequence[Line], setting: Setting) -> str:
    """Return the text of the page, "" where nothing was run."""
    mine = [line for line in lines if line["part"] == PART]
    if not mine:
        return ""
    found = {(line["part"], line["model"], line["cell"]): line["data"] for line in mine}
    title = "# Trust" + (" in a quick trial: not to be quoted" if setting.quick else "")
    text = [title, "", f"Written by `tools/bench.py --part {PART}`; do not edit.", ""]
    rows = [(each.asked, each.mark, each.measured or NONE) for each in targets(found, setting.quick)]
    text += table(("must be shown", "", "measured"), rows, figures=False)
    text += [*_draws(found, setting.quick), *_simulation(found, setting.quick), *_how(mine, setting)]
    return "\n".join(text).rstrip() + "\n"


def targets(inventory: Inventory, quick: bool) -> Iterator[Target]:
    """Yield what is asked for, met or not."""
    level = f"false certified at most {number(ALPHA, 2)} and {ERRORS} Monte-Carlo errors"
    shares = ", ".join(percent(share) for share in CHANGED)
    yield _kept(inventory, f"{level} in every cell of {shares} changed", cells(quick))
    if not quick:
        yield _kept(inventory, f"{level} beside these, at {percent(BESIDE, 2)} changed", beside(quick))
    large = max(SIZES)
    kept = {rule: _values(inventory, large, rule, "kept", quick) for rule in (CERTIFIED, FIRST)}
    asked = f"at n = {large:,} {CERTIFIED} keeps no more parameters than {FIRST}, by the median"
    if not all(kept.values()):
        yield Target(asked, "", None)
        return
    mine, first = (float(np.median(kept[rule])) for rule in (CERTIFIED, FIRST))
    yield Target(asked, f"{percent(mine)} and {percent(first)}", mine <= first)


def _kept(inventory: Inventory, asked: str, wanted: Sequence[tuple[Kind, float, int]]) -> Target:
    """Return whether a level is kept in all the cells."""
    there = [inventory[key] for cell in wanted if (key := (PART, SIMULATED, cell_name(*cell))) in inventory]
    over = [cell for cell in there if worst(cell) > limit(cell["repetitions"])]
    said = f"{len(over)} of {len(there)} cells above; largest rate {number(max(map(worst, there), default=0.0), 4)}"
    return Target(asked, said if there else "", None if len(there) < len(wanted) else not over)


def worst(cell: Line) -> float:
    """Return the largest rate of false claims over the numbers of plans."""
    return float(max(cell["false"].values()) / cell["repetitions"])


def limit(repetitions: int) -> float:
    """Return the rate above which a level is not kept."""
    return float(ALPHA + ERRORS * math.sqrt(ALPHA * (1 - ALPHA) / repetitions))


def _values(inventory: Inventory, n: int, rule: str, what: str, quick: bool) -> list[float]:
    """Return one value a draw of n validation samples."""
    given = [inventory.get((PART, DEMO, draw_name(*cell))) for cell in draws(quick) if cell[0] == n]
    return [float(data["rules"][rule][what]) for data in given if data is not None]


def _draws(inventory: Inventory, quick: bool) -> list[str]:
    about = next((data for (_, model, _), data in inventory.items() if model == DEMO), None)
    if about is None:
        return []
    told = {**about, "top1": number(about["top1"], 4)}
    heads = ("rule", "n", "draws", "saved", "too much", "mean true drop", "kept, median [quartiles]", "plans tested")
    rows = [
        _row(inventory, rule, n, quick) for rule in LIMITS for n in SIZES if _values(inventory, n, rule, "kept", quick)
    ]
    return ["## Draws of the demo", "", ABOUT_DRAWS.format(**told), "", *table(heads, rows)]


def _row(inventory: Inventory, rule: str, n: int, quick: bool) -> list[str]:
    drops, kept, saved, tests = (_values(inventory, n, rule, w, quick) for w in ("true_drop", "kept", "saved", "tests"))
    count = len(drops)
    wrong = sum(drop > LIMITS[rule] for drop in drops)
    share = proportion_interval(wrong, count, LEVEL)
    low, middle, high = np.quantile(kept, (0.25, 0.5, 0.75))
    return [
        rule,
        f"{n:,}",
        str(count),
        f"{sum(saved):.0f}",
        f"{wrong} {interval((share.estimate, share.low, share.high), 2)}",
        number(float(np.mean(drops)), 4),
        f"{number(middle)} {interval((middle, low, high))}",
        f"{np.mean(tests):.1f}",
    ]


def _simulation(inventory: Inventory, quick: bool) -> list[str]:
    """Return the table of simulated cells, one row a cell."""
    heads = ["metric", "changed", "n", "allowed", *(f"false, {_plans(plans)}" for plans in PLANS)]
    heads += ["limit", "power", "best"]
    wanted = (*cells(quick), *beside(quick))
    rows = [_cell(inventory[key]) for cell in wanted if (key := (PART, SIMULATED, cell_name(*cell))) in inventory]
    if not rows:
        return []
    about = ABOUT_SIMULATION.format(alpha=number(ALPHA, 2), errors=ERRORS)
    counts = {f"{kind.name} {kind.repetitions:,}" for kind in KINDS} if not quick else set()
    repetitions = f" Repetitions: {', '.join(sorted(counts))}." if counts else ""
    return ["## Simulated gates", "", about + repetitions, "", *table(heads, rows)]


def _plans(count: int) -> str:
    return "1 plan" if count == 1 else f"{count} plans"


def _cell(cell: Line) -> list[str]:
    most = limit(cell["repetitions"])
    rates = [cell["false"][str(plans)] / cell["repetitions"] for plans in PLANS]
    return [
        cell["kind"],
        percent(cell["changed"], 2),
        f"{cell['n']:,}",
        number(cell["allowed"], 4),
        *(number(rate, 4) if rate <= most else f"**{number(rate, 4)}**" for rate in rates),
        number(most, 4),
        number(cell["power"], 2),
        number(cell["best"], 2),
    ]


def _how(lines: Sequence[Mapping[str, object]], setting: Setting) -> list[str]:
    """Return the commands, machines, versions and states of the code."""
    threads = sorted({str(line["threads"]) for line in lines})
    places = Counter(", ".join(f"{k} {v}" for k, v in dict(line["machine"]).items()) for line in lines)  # type: ignore[call-overload]
    sources = Counter((str(line["model"]), str(line["source"])) for line in lines)
    states = ", ".join(f"`{source}` ({model}, {count} cells)" for (model, source), count in sources.items())
    return [
        "## How it was measured",
        "",
        "```sh",
        "apt-get install dataset-fashion-mnist",
        f"python tools/bench.py --zoo zoo --part {PART} --seed {setting.seed} --threads {' or '.join(threads)}"
        + (" --quick" if setting.quick else ""),
        "```",
        "",
        *(f"- {place} ({count} cells)" for place, count in places.items()),
        f"- state of `onnx_lowrank/` (a hash of its source): {states}",
        f"- raw lines: `{PART}.jsonl` beside this page",
    ]
