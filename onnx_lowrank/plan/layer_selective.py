"""One weight alone, cut far below what a size asks for: what a late layer holds beyond its first ranks may be noise.

Layer-selective rank reduction (LASER, arXiv 2312.13558): of a trained network single late layers, cut to a few percent
of their rank, lose nothing and at times gain. All other weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx_lowrank.plan.problem import Problem, amount
from onnx_lowrank.types import Choice, Curve, Option, Plan

LATE = 1 / 2
"""The share of the weights, from the last one, that are cut alone."""
MOST = 8
"""Weights that are cut alone, at most: the largest of them."""
SHARES = (0.4, 0.2, 0.1, 0.05, 0.02)
"""What is left of the weight."""


def single_cuts(problem: Problem) -> Iterator[Plan]:
    """Yield plans that factor one late weight each, to every share of SHARES that it has an option for."""
    for curve in _late(problem.curves):
        options = [o for o in curve.options if not o.dense and not o.shared_input]
        chosen: dict[object, Option] = {}
        for share in SHARES:
            within = [o for o in options if amount(o.cost, problem.resource) <= share * amount_of(curve, problem)]
            if within:
                option = min(within, key=lambda o: o.loss)
                chosen.setdefault(option.form, option)
        for option in chosen.values():
            picks = tuple(
                Choice(each.site, problem.weights[each.site], option if each is curve else each.options[0])
                for each in problem.curves
            )
            yield Plan(picks, "single layer")


def amount_of(curve: Curve, problem: Problem) -> float:
    """Return what a weight costs as it is."""
    return amount(curve.dense.cost, problem.resource)


def _late(curves: Sequence[Curve]) -> list[Curve]:
    """Return the largest of the late weights, in order."""
    late = curves[len(curves) - max(round(LATE * len(curves)), 1) :] if curves else []
    largest = sorted(late, key=lambda curve: -curve.dense.cost.parameters)[:MOST]
    return [curve for curve in late if curve in largest]
