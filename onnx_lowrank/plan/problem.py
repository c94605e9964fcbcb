"""Curves as a rank-choice problem in one resource: plans by budget, by uniform share, and what can be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.goals import Resource
from onnx_lowrank.numerics.rounding import rounded
from onnx_lowrank.plan.groups import Tie
from onnx_lowrank.plan.knapsack import Solver, least_cost, relaxed, solve
from onnx_lowrank.plan.tie_breaking import settled
from onnx_lowrank.plan.two_budgets import within_all
from onnx_lowrank.schemes import preference
from onnx_lowrank.types import Array, Choice, Cost, Curve, Form, Option, Plan


def amount(cost: Cost, resource: Resource) -> float:
    """Return what a cost says about one resource."""
    amounts = {"parameters": cost.parameters, "bytes": cost.bytes, "macs": cost.macs, "latency": cost.milliseconds}
    return float(amounts[resource])


def blended(option: Option, blend: float) -> float:
    """Return loss to the power of 1 − blend times error to that of blend; a loss of 0 or less as it is."""
    if not blend or option.loss <= 0:
        return option.loss
    return float(option.loss ** (1 - blend) * option.error**blend)


@dataclass(frozen=True, slots=True)
class Problem:
    """curves: one a site; weights: site id -> the weight's name; resource: what a budget counts, for the sites only.

    tails: site id -> (samples, options) of −⟨Γ_s, δ⟩, where the terms between sites are to count.
    caps: other resources, and what the sites may cost in them whatever the budget is; not with `tails`.
    blend: what plans are to keep small: 0 the predicted loss, 1 the error at the site, .5 the geometric mean of both,
    which trusts a prediction less the further it is from what the error alone would say.
    """

    curves: tuple[Curve, ...]
    weights: Mapping[str, str]
    resource: Resource
    tails: Mapping[str, Array] | None = None
    caps: tuple[tuple[Resource, float], ...] = ()
    blend: float = 0.0

    @property
    def dense(self) -> float:
        """What the sites cost as they are."""
        return sum(amount(curve.dense.cost, self.resource) for curve in self.curves)

    @property
    def smallest(self) -> float:
        """What the sites cost at least."""
        return least_cost(self.costs, self.ties)

    @property
    def costs(self) -> list[Array]:
        """Every site's costs, (options,)."""
        return self.costs_in(self.resource)

    def costs_in(self, resource: Resource) -> list[Array]:
        """Return every site's costs in a resource, (options,)."""
        return [np.array([amount(o.cost, resource) for o in curve.options]) for curve in self.curves]

    @property
    def ties(self) -> list[Tie]:
        """The options that all members of a shared input take, or none. Raises ValueError where a member lacks one."""
        places = {curve.site: group for group, curve in enumerate(self.curves)}
        rows: dict[tuple[str, ...], dict[Form, dict[str, int]]] = {}
        for curve in self.curves:
            for index, option in enumerate(curve.options):
                if option.shared_input:
                    row = rows.setdefault(option.shared_input, {}).setdefault(option.form, {})
                    row[curve.site] = index
        for shared, by_form in rows.items():
            if any(row.keys() != set(shared) for row in by_form.values()):
                names = ", ".join(shared)
                raise ValueError(
                    f"weights of a shared input take the same options together: {names} have different ones"
                )
        return [
            Tie(
                tuple(places[site] for site in shared),
                np.array([[row[site] for site in shared] for row in by_form.values()]),
            )
            for shared, by_form in rows.items()
        ]

    def best(self, budget: float, origin: str, loss: Callable[[Option], float] | None = None) -> Plan | None:
        """Return the plan of least loss (`measure`, or another one) within the budget; None where none fits."""
        return self._solved(budget, origin, solve, loss or self.measure)

    def quick(self, budget: float, origin: str) -> Plan | None:
        """Return a plan close to the best by the Lagrangian relaxation alone: milliseconds, for whole curves."""
        return self._solved(budget, origin, relaxed, self.measure)

    def measure(self, option: Option) -> float:
        """Return what plans keep small in their sum, by `blend`."""
        return blended(option, self.blend)

    def _solved(self, budget: float, origin: str, solver: Solver, loss: Callable[[Option], float]) -> Plan | None:
        losses = [np.array([loss(o) for o in curve.options]) for curve in self.curves]
        budgets = [(self.costs, budget), *((self.costs_in(resource), most) for resource, most in self.caps)]
        picks = within_all(losses, budgets, solver, self.ties)
        if picks is None:
            return None
        costs = [np.stack(site_costs) for site_costs in zip(*(cost for cost, _ in budgets), strict=True)]
        return self.plan(settled(picks, losses, costs, self.curves), origin)

    def uniform(self, budget: float) -> Plan | None:
        """Return the plan that gives every site the same share of its cost, the largest share that fits.

        Every site by itself: no first factor is shared here.
        """
        low, high = 0.0, 1.0
        best: list[int] | None = None
        for _ in range(40):
            share = (low + high) / 2
            picks = [self._within(curve, share) for curve in self.curves]
            if self._within_budgets(picks, budget):
                low, best = share, picks
            else:
                high = share
        return None if best is None else self.plan(best, "uniform")

    def _within_budgets(self, picks: Sequence[int], budget: float) -> bool:
        spent = sum((c.options[p].cost for c, p in zip(self.curves, picks, strict=True)), Cost())
        return all(amount(spent, resource) <= most for resource, most in ((self.resource, budget), *self.caps))

    def _within(self, curve: Curve, share: float) -> int:
        """Return the option of least error within a share of the dense cost, or the cheapest."""
        limit = share * amount(curve.dense.cost, self.resource)
        alone = [i for i, o in enumerate(curve.options) if not o.shared_input]
        fitting = [i for i in alone if amount(curve.options[i].cost, self.resource) <= limit]
        if not fitting:
            return min(alone, key=lambda i: amount(curve.options[i].cost, self.resource))
        errors = rounded(np.array([option.error for option in curve.options]))
        return min(fitting, key=lambda i: (errors[i], preference(curve.options[i])))

    def plan(self, picks: Sequence[int], origin: str) -> Plan:
        """Return the plan that takes these options."""
        return Plan(
            tuple(
                Choice(curve.site, self.weights[curve.site], curve.options[pick])
                for curve, pick in zip(self.curves, picks, strict=True)
            ),
            origin,
        )
