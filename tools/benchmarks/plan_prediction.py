"""Part "prediction", whole plans: all weights at once, predicted and measured, and what checking them took."""

from __future__ import annotations

import itertools

import numpy as np

from benchmarks.lines import Line
from benchmarks.substitution import Substitution
from benchmarks.wording import table
from benchmarks.workbench import Plan, Samples, Session, Workbench, collected_to_plan, some

KEEPS, SAMPLES, QUICK_SAMPLES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), 384, 8
"""Shares of the factorable parameters that plans keep; unseen inputs that they are measured on."""
ROUNDING = 1e-6
"""Losses below this are float32 rounding of the model itself, as the tool counts them."""
STEP, WITHIN, MOST = "measuring whole plans", 2.0, 1e6


def measure_plans(bench: Workbench) -> Line:
    """Return what plans lose on unseen inputs beside what was predicted, and what checking takes beside collecting."""
    session = bench.once(collected_to_plan)
    problem, steps = session.problem("parameters"), session.clock.seconds
    plans = {keep: problem.best(keep * problem.dense, "") for keep in KEEPS}
    plans = {keep: plan for keep, plan in plans.items() if plan is not None and plan.factored}
    sets = {
        test.name: some(bench.samples(test), QUICK_SAMPLES if bench.quick else SAMPLES) for test in bench.entry.tests
    }
    first, *others = [(name, len(samples), _rows(bench, session, plans, samples)) for name, samples in sets.items()]
    return {
        "plans": first[2], "unit": session.state.calibrated.objective.unit, "said": session.state.source, "n": first[1],
        "others": [{"name": name, "n": n, "plans": rows} for name, n, rows in others],
        "seconds": steps.get(STEP, 0.0), "collecting": sum(steps.values()) - steps.get(STEP, 0.0),
    }  # fmt: skip


def _rows(bench: Workbench, session: Session, plans: dict[float, Plan], unseen: Samples) -> list[Line]:
    """Return what every plan was expected to lose, and lost on unseen inputs."""
    there, rows = Substitution(bench, session, unseen), []
    for keep, plan in plans.items():
        chosen = {choice.site: choice.option for choice in plan.factored}
        losses = np.minimum([there.loss(pair) for pair in there.together(chosen)], MOST)
        rows.append(
            {
                "keep": keep, "predicted": plan.loss, "expected": session.state.expected(plan.loss),
                "measured": float(losses.mean()), "deviation": float(losses.std(ddof=1) / len(losses) ** 0.5),
            }
        )  # fmt: skip
    return rows


def near(plan: Line) -> bool:
    """Return whether a plan was measured within a factor of WITHIN of what was expected."""
    low, high = sorted((plan["measured"], plan["expected"]))
    return bool(high <= WITHIN * low)


def _counted(plans: list[Line]) -> str:
    """Return how many plans are near what was expected, and how many of the others are rounding."""
    off = [plan for plan in plans if not near(plan)]
    small = sum(max(plan["measured"], plan["expected"]) <= ROUNDING for plan in off)
    text = f"{len(plans) - len(off)} of {len(plans)} within a factor of {WITHIN:g}"
    return text + (f" (of the others {small} below {ROUNDING:g}: rounding)" if small else "")


def dominated(plans: list[Line]) -> int:
    """Return how many plans lose more than the next smaller one, by more than the standard error of the difference."""
    return sum(
        large["measured"] - small["measured"] > float(np.hypot(large["deviation"], small["deviation"]))
        for large, small in itertools.pairwise(plans)
    )


def plans_section(data: Line) -> list[str]:
    """Return the table of whole plans, and what it comes to."""
    plans = data["plans"]
    rows = [
        (
            f"{plan['keep']:.0%}",
            f"{plan['predicted']:.2g}",
            f"{plan['expected']:.2g}",
            f"{plan['measured']:.2g} ± {plan['deviation']:.1g}",
            f"{plan['measured'] / max(plan['expected'], 1e-12):.2f}",
        )
        for plan in plans
    ]
    head = (f"whole plans, kept; loss in {data['unit']}", "predicted", "expected", "measured", "factor")
    return [
        *table(head, rows),
        f"{_counted(plans)}; {dominated(plans)} lose more than a"
        f" smaller one ({data['n']} unseen inputs). Checking took {data['seconds']:.1f} s beside"
        f" {data['collecting']:.1f} s of collecting.",
        *(f"On {other['name']} ({other['n']}): {_counted(other['plans'])}." for other in data["others"]),
        "",
    ]
