"""Siblings in a plan: all or none of them take the shared first factor, and it counts once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import found_in, shared_inputs

from onnx_lowrank.plan import Problem
from onnx_lowrank.sensitivity.decompose import cost_curves, decompose_plain


def shared_cost(rank: int) -> int:
    """Of three 16×16 weights without the shared factor's identity, but at rank 1: one number is not worth nodes."""
    return rank * (16 + 3 * 16) - (rank**2 if rank > 1 else 0)


def test_a_problem_takes_all_siblings_or_none_and_counts_the_first_factor_once():
    found = found_in(shared_inputs(16, [16, 16, 16], rank=6, together=True))
    plain = decompose_plain(found, 1)
    names = {site.id: site.weight for site in found.sites}
    problem = Problem(plain.curves, names, "parameters")
    saved = 0
    for budget in np.linspace(problem.smallest, problem.dense, 12):
        for plan in (problem.best(budget, "", lambda option: option.error), problem.quick(budget, "")):
            assert plan is not None
            taken = [choice for choice in plan.choices if choice.option.shared_input]
            assert len(taken) in (0, 3)
            if taken:
                ((rank,),) = {choice.option.ranks for choice in taken}
                assert sum(choice.option.cost.parameters for choice in taken) == shared_cost(rank)
                saved += rank > 1
    assert saved
    assert (
        problem.uniform(0.6 * problem.dense).choices
        == Problem(
            tuple(replace(c, options=tuple(o for o in c.options if not o.shared_input)) for c in plain.curves),
            names,
            "parameters",
        )
        .uniform(0.6 * problem.dense)
        .choices
    )


def test_what_can_be_reached_counts_families():
    found = found_in(shared_inputs(16, [16, 16, 16], rank=None, together=False))
    alone, ends = 3 * (16 + 16 - 1), 3 * (16 + 8 - 1)
    assert Problem(cost_curves(found, 1), {}, "parameters").smallest == shared_cost(1) + ends
    apart = replace(found, all_shared_inputs=())
    assert Problem(cost_curves(apart, 1), {}, "parameters").smallest == alone + ends


def test_siblings_with_different_options_are_an_error():
    found = found_in(shared_inputs(16, [16, 16], rank=None, together=False))
    first, *rest = decompose_plain(found, 1).curves
    torn = replace(first, options=tuple(o for o in first.options if o.ranks != (3,) or not o.shared_input))
    with pytest.raises(ValueError, match="weights of a shared input take the same options together: h0, h1"):
        Problem((torn, *rest), {}, "parameters").ties  # noqa: B018 - the property checks
