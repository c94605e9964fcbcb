"""Allocation rules of others on the same curves: what a benchmark measures ours against (docs/method.md, section 6).

*Energy threshold*: one bound on the relative squared error for every site.

*ALDS* (Liebenwein et al., arXiv 2107.11442): least maximum over the sites of the relative spectral error
‖W − W_k‖₂ / ‖W‖₂. ALDS also splits a layer into groups of channels, each with factors of its own, and chooses their
number together with the rank; here only its rule for the ranks is compared, on our schemes.

*The paper* (Zhang et al., arXiv 2412.06867): choose ranks by the first-order change of the loss ⟨G, δ⟩ alone.

- From its abstract: factor error and loss are one problem, with a trust range for the error, stated as a
  numerical rank deficiency with inequality constraints; "lossless" takes the best accuracy while it compresses,
  "compact" the smallest size that keeps the performance; no fine-tuning. From a summary of it (sciencestack.ai): both
  are greedy. From docs/method.md, section 1: ⟨G_i, δ_i⟩ ≤ 0, ‖W_i − L_i R_i‖ ≤ ε_i and 0 < k_i < nm / (n + m).
- Its pseudocode was not at hand, so these are our reading: the bound as a share γ of ‖W‖, the same for all layers;
  ties (every slope is 0 without labels) to the least error where lossless, to the least cost where compact; how
  lossless goes on to a budget; and γ itself, which has no value here that would be the paper's.

All of them look at every weight by itself: options of a shared input are not taken.

Meant for curves of the plain SVD (`error` = ‖δ‖² / ‖W‖²). The rules take the slope as it is: its standard error and the
second order (`Option.loss`), which the paper leaves out, are left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from onnx_lowrank.plan.problem import Problem, amount
from onnx_lowrank.types import Array, Curve, Option, Plan


def energy(problem: Problem, budget: float) -> Plan | None:
    """Return the plan of the smallest threshold on `Option.error` that fits the budget; None where none fits."""
    errors = [np.array([np.inf if o.shared_input else o.error for o in curve.options]) for curve in problem.curves]
    return _threshold(problem, budget, errors, "energy threshold")


def alds(problem: Problem, budget: float, spectral: Mapping[tuple[str, str], Array]) -> Plan | None:
    """Return the plan of least maximum relative spectral error within the budget; None where none fits.

    spectral: (site id, scheme name) -> singular values (r,) of the scheme's matricization, largest first
    (`schemes.spectrum`). An option without any (more than one truncation: Tucker-2) is not taken.
    """
    errors = [
        np.array([0.0 if o.dense else _spectral_error(spectral.get((curve.site, o.scheme)), o) for o in curve.options])
        for curve in problem.curves
    ]
    return _threshold(problem, budget, errors, "ALDS: least maximum spectral error")


def paper_lossless(problem: Problem, budget: float | None, gamma: float) -> Plan | None:
    """Return the paper's lossless plan, first order only: for every layer the option of most negative ⟨G, δ⟩.

    Only options with ‖δ‖ ≤ gamma ‖W‖ that save parameters, and only where ⟨G, δ⟩ ≤ 0; the layer stays dense otherwise.
    Where that costs more than the budget, go on with the step to a cheaper option (now of any sign) that raises
    ⟨G, δ⟩ least for what it saves, until it fits. None where it never does.
    """
    return next(paper_descent(problem, [np.inf if budget is None else budget], gamma), None)


def paper_descent(problem: Problem, budgets: Sequence[float], gamma: float) -> Iterator[Plan]:
    """Yield `paper_lossless` of every budget, largest first, as far as they can be met: all lie on one path."""
    picks = [
        min(_falling(curve, gamma), key=lambda i: (curve.options[i].slope, curve.options[i].error), default=0)
        for curve in problem.curves
    ]
    for budget in budgets:
        if not _descend(problem, budget, gamma, picks):
            return
        yield problem.plan(picks, f"first order, lossless, gamma {gamma:g}")


def paper_compact(problem: Problem, gamma: float) -> Plan:
    """Return the paper's compact plan, first order only: for every layer the cheapest option with ⟨G, δ⟩ ≤ 0.

    Only options with ‖δ‖ ≤ gamma ‖W‖ that save parameters; the layer stays dense where there is none.
    """
    picks = [
        min(
            _falling(curve, gamma),
            key=lambda i: (amount(curve.options[i].cost, problem.resource), curve.options[i].slope),
            default=0,
        )
        for curve in problem.curves
    ]
    return problem.plan(picks, f"first order, compact, gamma {gamma:g}")


def _spectral_error(singular: Array | None, option: Option) -> float:
    """Return σ_k / σ_0, what a truncation at rank k leaves in the spectral norm."""
    if singular is None:
        return np.inf
    (rank,) = option.ranks
    return float(singular[rank] / singular[0]) if rank < len(singular) and singular[0] > 0 else 0.0


def _threshold(problem: Problem, budget: float, errors: Sequence[Array], origin: str) -> Plan | None:
    """Return the plan of the smallest common bound on `errors` (per site, (options,)) that fits: by bisection.

    A looser bound offers every site more options, so the cost falls with the bound.
    """
    levels = np.unique(np.concatenate([np.zeros(1), *errors]))
    levels = levels[np.isfinite(levels)]
    choose = _chooser(problem, errors)
    low, high = 0, len(levels) - 1
    if _cost(problem, choose(levels[high])) > budget:
        return None
    while low < high:
        middle = (low + high) // 2
        if _cost(problem, choose(levels[middle])) <= budget:
            high = middle
        else:
            low = middle + 1
    return problem.plan(choose(levels[high]), origin)


def _chooser(problem: Problem, errors: Sequence[Array]) -> Callable[[float], list[int]]:
    """Return what gives, for a bound, every site's cheapest option within it (ties: least error, then the first)."""
    costs = [np.array([amount(o.cost, problem.resource) for o in curve.options]) for curve in problem.curves]
    orders = [np.lexsort((error, cost)) for error, cost in zip(errors, costs, strict=True)]

    def choose(bound: float) -> list[int]:
        return [
            next((int(i) for i in order if error[i] <= bound), 0) for order, error in zip(orders, errors, strict=True)
        ]

    return choose


def _cost(problem: Problem, picks: Sequence[int]) -> float:
    options = [curve.options[pick] for curve, pick in zip(problem.curves, picks, strict=True)]
    return sum(amount(option.cost, problem.resource) for option in options)


def _within(curve: Curve, gamma: float) -> list[int]:
    """Return the options inside the trust range that save parameters (0 < k < nm / (n + m))."""
    dense = curve.dense.cost.parameters
    return [
        i
        for i, option in enumerate(curve.options)
        if not (option.dense or option.shared_input)
        and option.cost.parameters < dense
        and option.error <= gamma * gamma
    ]


def _falling(curve: Curve, gamma: float) -> list[int]:
    return [i for i in _within(curve, gamma) if curve.options[i].slope <= 0]


def _descend(problem: Problem, budget: float, gamma: float, picks: list[int]) -> bool:
    """Take the steps of least rise in ⟨G, δ⟩ for what they save, in place; return whether the budget was met."""
    offered = [_within(curve, gamma) for curve in problem.curves]
    while _cost(problem, picks) > budget:
        best: tuple[float, float, int, int] | None = None
        for site, curve in enumerate(problem.curves):
            now = curve.options[picks[site]]
            for index in offered[site]:
                option = curve.options[index]
                saved = amount(now.cost, problem.resource) - amount(option.cost, problem.resource)
                if saved > 0:
                    step = ((option.slope - now.slope) / saved, -saved, site, index)
                    best = step if best is None else min(best, step)
        if best is None:
            return False
        picks[best[2]] = best[3]
    return True
