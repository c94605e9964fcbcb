"""Part "prediction": the predicted rise of single substitutions against the measured one, on unseen inputs.

At every site some ranks over the whole curve are measured, each alone, with the factors that the product would write;
and whole plans (plan_prediction.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.lines import Cells, Line, Setting, cells_of
from benchmarks.parts import Cell, Part, sections
from benchmarks.plan_prediction import SAMPLES as PLAN_SAMPLES
from benchmarks.plan_prediction import measure_plans, plans_section
from benchmarks.plots import panels
from benchmarks.substitution import Substitution
from benchmarks.wording import NONE, number, table, with_interval
from benchmarks.workbench import LEVEL, Curve, Option, Workbench, aggregate_interval, resamples, some
from benchmarks.zoo import MODELS

CELL, PLANS = "points", "plans"
RANKS, SAMPLES, QUICK_SAMPLES = 5, 48, 8
"""Ranks a weight; unseen inputs that a substitution is measured on, of the first test set."""
MOST, RESAMPLED = 1e6, 1000
ABOUT = (
    f"Every point is one weight at one rank, alone, measured on {SAMPLES} unseen inputs. *Beyond the range* are weights"
    " that were measured to lose more than predicted: plans take a measured loss there. In brackets the 95 % interval"
    " of the bootstrap over points, which takes all as independent. Plans are measured on"
    f" {PLAN_SAMPLES} unseen inputs; *expected* is the prediction after plans were measured on calibration samples, the"
    " factor is measured over expected."
)
ROUNDING = 1e-12


def _measure(bench: Workbench) -> Line:
    session = bench.collected()
    there = Substitution(
        bench, session, some(bench.samples(bench.entry.tests[0]), QUICK_SAMPLES if bench.quick else SAMPLES)
    )
    ranges = {curve.site: curve.trust_range for curve in session.state.curves}
    points = []
    for curve in there.curves:
        for option in _spread(curve):
            losses = [there.loss(pair) for pair in there.outputs(curve.site, option)]
            points.append(
                {
                    "site": curve.site, "scheme": option.scheme, "rank": "x".join(map(str, option.ranks)),
                    "predicted": option.loss, "measured": min(float(np.mean(losses)), MOST),
                    "inside": ranges[curve.site] is None or option.error <= ranges[curve.site],
                }
            )  # fmt: skip
    return {"points": points, "unit": session.state.calibrated.objective.unit}


def _spread(curve: Curve) -> list[Option]:
    """Return options at predicted losses that are evenly spread on a log scale."""
    usable = sorted((o for o in curve.options[1:] if o.loss > 0), key=lambda o: o.loss)
    if not usable:
        return []
    logs = np.log([o.loss for o in usable])
    picks = [int(np.argmin(np.abs(logs - target))) for target in np.linspace(logs[0], logs[-1], RANKS)]
    return [usable[i] for i in dict.fromkeys(picks)]


def rank_correlation(
    points: Sequence[Line], *, inside: bool, drawn: int = RESAMPLED, seed: int = 0
) -> tuple[list[float], int]:
    """Return Spearman's correlation of predicted and measured rise with its 95 % interval, and of how many points.

    The interval is estimate ± t × the standard error of a bootstrap over points, not beyond ±1: ends are infinite,
    then ±1, where nothing is drawn.
    """
    chosen = [(p["predicted"], p["measured"]) for p in points if p["inside"] or not inside]
    if len(chosen) < 3:
        return [float("nan")] * 3, len(chosen)
    pairs = np.array(chosen)
    estimate = _spearman(pairs)
    values = np.array([_spearman(pairs[indices]) for indices in resamples(len(pairs), drawn, seed)])
    interval = aggregate_interval(estimate, values, len(pairs), LEVEL, 2.0)
    return [estimate, max(interval.low, -1.0), min(interval.high, 1.0)], len(chosen)


def _spearman(pairs: np.ndarray[Any, Any]) -> float:
    """Return Pearson's correlation of the ranks of (n, 2) values, nan where all of a side are equal."""
    ranks = stats.rankdata(pairs, axis=0)
    return float(np.corrcoef(ranks, rowvar=False)[0, 1]) if np.ptp(ranks, axis=0).all() else float("nan")


def _section(model: str, cells: Cells) -> list[str]:
    plans = plans_section(cells[PLANS]) if PLANS in cells else []
    return [*(_points(cells[CELL]) if CELL in cells else []), *plans]


def _body(lines: Sequence[Line], setting: Setting) -> list[str]:
    """Return the sections, with the figure where there are points to draw."""
    drawn = any(CELL in cells for cells in cells_of(lines, "prediction").values())
    figure = ["![Predicted and measured rise](prediction.svg)"] if drawn else []
    return sections("prediction", _section, ABOUT, *figure)(lines, setting)


def _points(data: Line) -> list[str]:
    rows = []
    for label, inside in (("inside the range", True), ("all points", False)):
        correlation, count = rank_correlation(data["points"], inside=inside)
        rows.append((label, with_interval(correlation) if count >= 3 else NONE, str(count)))
    return table((f"rank correlation; loss in {data['unit']}", "Spearman", "points"), rows)


def draw(lines: Sequence[Line], path: Path) -> bool:
    models = cells_of(lines, "prediction")
    return panels(
        path, [partial(_panel, model=model, data=cells[CELL]) for model, cells in models.items() if CELL in cells]
    )


def _panel(axes: Any, model: str, data: Line) -> None:
    values = np.array([(p["predicted"], p["measured"]) for p in data["points"]])
    inside = np.array([p["inside"] for p in data["points"]])
    shown = (values > ROUNDING * values.max()).all(axis=1)  # one of 1e-56 hides the rest
    for label, chosen, marker, colour in (
        ("inside", inside, "o", "#1f5fa8"),
        ("beyond the range", ~inside, "x", "#c2571a"),
    ):
        axes.plot(*values[shown & chosen].T, marker, color=colour, markersize=3, fillstyle="none", label=label)
    ends = values[shown].min() / 2, values[shown].max() * 2
    axes.plot(ends, ends, color="0.5", linewidth=0.8, zorder=0)
    correlation, count = rank_correlation(data["points"], inside=True, drawn=0)
    hidden = f"; {(~shown).sum()} at 0" if not shown.all() else ""
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel=f"predicted rise, {data['unit']}")
    title = f"{model}: Spearman {number(correlation[0])} inside ({count} of {len(values)}{hidden})"
    axes.set(ylabel="measured rise", title=title)
    axes.minorticks_off()  # each tick is a line of the file
    axes.legend(loc="upper left", frameon=False)


PART = Part(
    "prediction", "Predicted and measured rise",
    lambda model, quick: [Cell(CELL, _measure), Cell(PLANS, measure_plans)],
    _body, MODELS,
    figures={"prediction.svg": draw},
)  # fmt: skip
