"""The quadratic choice: what truncations of different sites do to the loss together.

docs/method.md, section 3.8: the rise of a choice is ½ E_s (Σ_i ⟨Γ_s, δ_i⟩)², whose cross terms between sites the sum of
`Option.loss` leaves out. With t_i = −⟨Γ_s, δ_i⟩ of every option, a site's share, given the choices of the others, is
½ E t_i² + E t_i Σ_{j≠i} t_j: a knapsack again, solved in a few rounds. The cross terms come from few samples and are
noisy (docs/method.md, section 3.8: mostly worse than none in the ablation), so validation decides about such a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_lowrank.plan.knapsack import Solver, solve
from onnx_lowrank.plan.problem import Problem
from onnx_lowrank.types import Array, Plan

ROUNDS = 6
"""Knapsacks solved at most after the first."""
SWEEPS = 20
"""Passes of the final descent at most, over all sites."""
GAIN = 1e-9
"""A swap must lower the joint rise by more than this share of it: rounding must neither choose nor go in circles."""


def interlayer(problem: Problem, budget: float, tails: Mapping[str, Array], solver: Solver = solve) -> Plan | None:
    """Return a plan of low joint rise within the budget, never worse than the solver's own; None where none fits.

    tails: site id -> (samples, options), −⟨Γ_s, δ⟩ of every option of its curve in order, zeros for dense; the same
    samples at every site. Raises KeyError for a site without tails, ValueError where shapes do not fit.
    """
    columns = _checked(problem, tails)
    costs, ties = problem.costs, problem.ties
    picks = solver([np.array([o.loss for o in curve.options]) for curve in problem.curves], costs, budget, ties)
    if picks is None:
        return None
    best, seen = picks, {tuple(picks)}
    means = [column[:, pick] for column, pick in zip(columns, picks, strict=True)]
    for _ in range(ROUNDS):
        picks = solver(_linearised(columns, means), costs, budget, ties)
        if picks is None or tuple(picks) in seen:
            break
        seen.add(tuple(picks))
        best = min(best, picks, key=lambda chosen: _rise(columns, chosen))
        means = [(mean + t[:, pick]) / 2 for mean, t, pick in zip(means, columns, picks, strict=True)]
    limit = max(budget, sum(float(cost[pick]) for cost, pick in zip(costs, best, strict=True)))
    alone = [np.array([not option.shared_input for option in curve.options]) for curve in problem.curves]
    return problem.plan(_descended(columns, costs, alone, limit, best), "least joint rise, with inter-layer terms")


def joint_rise(problem: Problem, plan: Plan, tails: Mapping[str, Array]) -> float:
    """Return ½ mean_s (Σ_i t_si)² of a plan of this problem, in the unit of the tails squared (nats for a KL)."""
    return _rise(*_picked(problem, plan, tails))


def between(problem: Problem, plan: Plan, tails: Mapping[str, Array]) -> float:
    """Return the part of `joint_rise` that sums over sites leave out: the terms of two sites."""
    columns, picks = _picked(problem, plan, tails)
    return _rise(columns, picks) - sum(_rise([t], [pick]) for t, pick in zip(columns, picks, strict=True))


def _picked(problem: Problem, plan: Plan, tails: Mapping[str, Array]) -> tuple[list[Array], list[int]]:
    picks = [curve.options.index(c.option) for curve, c in zip(problem.curves, plan.choices, strict=True)]
    return _checked(problem, tails), picks


def _checked(problem: Problem, tails: Mapping[str, Array]) -> list[Array]:
    """Return one (samples, options) array a site, in float64."""
    columns: list[Array] = [np.asarray(tails[curve.site], np.float64) for curve in problem.curves]
    for curve, t in zip(problem.curves, columns, strict=True):
        wanted = (columns[0].shape[0], len(curve.options))
        if t.shape != wanted or not len(t):
            raise ValueError(f"tails of {curve.site!r} have shape {t.shape}, not (samples, options) {wanted}")
    return columns


def _rise(columns: Sequence[Array], picks: Sequence[int]) -> float:
    total = sum((t[:, pick] for t, pick in zip(columns, picks, strict=True)), np.zeros(1))
    return float(np.mean(total**2)) / 2


def _share(t: Array, rest: Array) -> Array:
    """Return ½ E t² + E t · rest of every option (options,), from t (samples, options) and rest (samples,)."""
    share: Array = (np.einsum("so,so->o", t, t) / 2 + rest @ t) / len(t)
    return share


def _linearised(columns: Sequence[Array], means: Sequence[Array]) -> list[Array]:
    """Return every site's losses (options,) against the others' mean over the rounds (damping), clipped at 0.

    All sites move at once, so a negative share would be counted at both ends of a pair.
    """
    total = sum(means, np.zeros(1))
    return [np.maximum(_share(t, total - mean), 0.0) for t, mean in zip(columns, means, strict=True)]


def _descended(
    columns: Sequence[Array], costs: Sequence[Array], alone: Sequence[Array], budget: float, start: Sequence[int]
) -> list[int]:
    """Swap one site at a time to its best option that fits, while the joint rise falls.

    alone: (options,) whether an option of the site is the site's alone; options of a shared input stay.
    """
    picks = list(start)
    total = sum((t[:, pick] for t, pick in zip(columns, picks, strict=True)), np.zeros(1))
    spent = sum(float(cost[pick]) for cost, pick in zip(costs, picks, strict=True))
    for _ in range(SWEEPS):
        before = list(picks)
        for site, (t, cost, own) in enumerate(zip(columns, costs, alone, strict=True)):
            now = picks[site]
            if not own[now]:
                continue
            share = np.where(own & (spent - cost[now] + cost <= budget), _share(t, total - t[:, now]), np.inf)
            share[now] = _share(t[:, [now]], total - t[:, now])[0]
            least = GAIN * float(np.mean(total**2))
            best = int(np.argmin(np.where(share <= share.min() + least, cost, np.inf)))
            if share[now] - share[best] > 2 * least:
                total, picks[site] = total + t[:, best] - t[:, now], best
                spent += float(cost[best] - cost[now])
        if picks == before:
            break
    return picks
