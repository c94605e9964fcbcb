"""Part "bits", predicted and measured: weights in each number format alone, and whole plans with ranks and formats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import workbench as wb
from benchmarks.lines import Line
from benchmarks.plan_prediction import QUICK_SAMPLES, SAMPLES, WITHIN, near
from benchmarks.substitution import Substitution
from benchmarks.wording import table
from benchmarks.workbench import Workbench

SHARES = (0.5, 0.25, 0.18, 0.14, 0.11, 0.08, 0.06, 0.04, 0.03)
"""Shares of the factorable weights' bytes that plans may take."""
SINGLES = 48
"""Unseen inputs that one weight is measured on."""
OWN = "own"
ROUNDING = 1e-7
"""Losses below this are float32 rounding of the model itself."""


def measure_prediction(bench: Workbench, bits: tuple[int, ...]) -> Line:
    """Return what forms lose on unseen inputs beside what was predicted, of single weights and of whole plans."""
    session = bench.opened(bits=bits)
    problem = session.problem("bytes")
    unseen = bench.samples(bench.entry.tests[0])
    there = Substitution(bench, session, wb.some(unseen, QUICK_SAMPLES if bench.quick else SINGLES))
    points = []
    for site, option in _singles(session.state.curves):
        losses = [there.loss(pair) for pair in there.outputs(site, option)]
        points.append(
            {
                "site": site, "scheme": option.scheme, "storage": option.form.storage, "predicted": option.loss,
                "measured": float(np.mean(losses)),
            }
        )  # fmt: skip
    chosen, plans = wb.some(unseen, QUICK_SAMPLES if bench.quick else SAMPLES), []
    for share in SHARES:
        plan = problem.best(share * problem.dense, "")
        if plan is None or not plan.factored:
            continue
        losses = bench.divergences(bench.rewritten(session, plan), chosen, f"bits {len(chosen)}")
        expected = session.state.expected(plan.loss)
        plans.append({"share": share, "predicted": plan.loss, "expected": expected, "measured": float(losses.mean())})
    return {"points": points, "plans": plans, "unit": session.state.calibrated.objective.unit, "n": len(chosen)}


def _singles(curves: tuple[wb.Curve, ...]) -> Iterator[tuple[str, wb.Option]]:
    """Yield the largest and the smallest option of every weight in every format."""
    for curve in curves:
        by_format: dict[str, list[wb.Option]] = {}
        for option in curve.options[1:]:
            if option.form.storage != OWN and not option.shared_input:
                by_format.setdefault(option.form.storage, []).append(option)
        for options in by_format.values():
            ordered = sorted(options, key=lambda option: option.cost.bytes)
            yield from ((curve.site, option) for option in dict.fromkeys((ordered[0], ordered[-1])))


def prediction_section(data: Line) -> list[str]:
    """Return the tables of single weights by format, and of whole plans."""
    rows = []
    for storage in dict.fromkeys(point["storage"] for point in data["points"]):
        mine = [p for p in data["points"] if p["storage"] == storage and max(p["predicted"], p["measured"]) > ROUNDING]
        if mine:
            ratios = np.array([p["measured"] / max(p["predicted"], 1e-12) for p in mine])
            inside = int(((ratios <= WITHIN) & (ratios >= 1 / WITHIN)).sum())
            low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
            rows.append((storage, str(len(mine)), str(inside), f"{middle:.2f}", f"{low:.2f}", f"{high:.2f}"))
    heads = ("one weight alone, as", "points", f"within {WITHIN:g} times", "measured / predicted", "10 %", "90 %")
    text = table(heads, rows)
    shown = [
        (
            f"{plan['share']:.0%}",
            f"{plan['predicted']:.2g}",
            f"{plan['expected']:.2g}",
            f"{plan['measured']:.2g}",
            f"{plan['measured'] / max(plan['expected'], 1e-12):.2f}",
        )
        for plan in data["plans"]
    ]
    heads = (f"whole plans, bytes; loss in {data['unit']}", "predicted", "expected", "measured", "factor")
    good = sum(near(plan) for plan in data["plans"])
    return [
        *text,
        *table(heads, shown),
        f"{good} of {len(shown)} within a factor of {WITHIN:g} ({data['n']} inputs).",
        "",
    ]
