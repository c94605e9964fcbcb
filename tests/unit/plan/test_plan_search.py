"""plan: the search for the smallest model that holds, the competing allocations, and what can be reached."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.plan import Problem, compact, lossless
from onnx_lowrank.plan.allocate import curve_plans
from onnx_lowrank.plan.compact import RESOLUTION, STEPS
from onnx_lowrank.plan.problem import amount, blended
from onnx_lowrank.types import UNCHANGED, Choice, Cost, Curve, Form, Option, Plan


def problem(sites: int = 2, ranks: int = 40, resource: str = "parameters") -> Problem:
    """Sites of 1,000 parameters, an option every 20; the loss falls as a power of the rank, faster at later sites."""
    curves = []
    for site in range(sites):
        options = [Option(UNCHANGED, Cost(1000, 4000, 5000.0))]
        for rank in range(ranks, 0, -1):
            loss = (1 - rank / (ranks + 1)) ** (2 + site)
            options.append(Option(Form("svd", (rank,)), Cost(20 * rank, 80 * rank, 100.0 * rank), loss / 4, loss))
        curves.append(Curve(f"s{site}", tuple(options)))
    return Problem(tuple(curves), {c.site: f"w_{c.site}" for c in curves}, resource)


def searched(made: Problem, least: float) -> list[Plan]:
    """Return the plans proposed where a plan holds from `least` parameters on."""
    plans: list[Plan] = []
    proposals = compact(made)
    try:
        plan = next(proposals)
        while True:
            plans.append(plan)
            plan = proposals.send(plan.cost.parameters >= least)
    except StopIteration:
        return plans


@settings(max_examples=12)
@given(st.integers(0, 2100))
def test_compact_finds_the_smallest_that_holds(least: int):
    made = problem()
    plans = searched(made, least)
    held = [plan.cost.parameters for plan in plans if plan.cost.parameters >= least]
    reachable = [*range(40, 1601, 20), *range(1020, 1801, 20)]  # both sites factored, or one
    possible = min((n for n in reachable if n >= least), default=None)
    assert len(plans) <= STEPS
    assert len({plan.choices for plan in plans}) == len(plans), "no plan is measured twice"
    assert all(plan.factored for plan in plans)
    if possible is None:
        assert not held
    else:
        assert min(held) <= possible + RESOLUTION * (made.dense - made.smallest) + 20


def test_compact_finds_the_only_option():
    made = problem(sites=1, ranks=1)
    (plan,) = searched(made, 0)
    assert plan.cost.parameters == 20
    assert plan.origin == "proposal 1"


def test_compact_looks_below_a_plan_that_failed():
    """Whether a plan holds need not be monotone in its size: one bad plan in the middle closes nothing off."""
    made = problem(sites=3)
    search = compact(made)
    plan, smallest = next(search), None
    with contextlib.suppress(StopIteration):
        while True:
            share = amount(plan.cost, "parameters") / made.dense
            held = share > 0.9 or 0.3 < share < 0.45
            smallest = min(smallest or share, share) if held else smallest
            plan = search.send(held)
    assert smallest is not None
    assert smallest < 0.45


def test_compact_has_nothing_to_propose_where_nothing_saves():
    curve = Curve("s", (Option(UNCHANGED, Cost(10, 40, 5.0)),))
    assert searched(Problem((curve,), {"s": "w"}, "parameters"), 0) == []
    assert searched(Problem((), {}, "parameters"), 0) == []


def test_lossless_proposes_different_plans_within_the_budget():
    made = problem(sites=3)
    plans = list(lossless(made, 1500))
    assert next(plan.origin for plan in plans) == "least predicted loss"
    assert [plan.origin for plan in plans][-2:] == ["uniform", "least predicted loss, smaller than asked for"]
    assert amount(plans[-1].cost, "parameters") <= 0.85 * 1500
    assert len({plan.choices for plan in plans}) == len(plans)
    assert all(amount(plan.cost, "parameters") <= 1500 for plan in plans)
    assert plans[0].loss == min(plan.loss for plan in plans)
    assert list(lossless(made, 1)) == []


def test_a_blend_weighs_the_error_beside_the_loss_and_what_costs_nothing_stays_free():
    one, none = Option(Form("svd", (1,)), Cost(), error=0.16, loss=0.01), Option(Form("svd", (2,)), Cost(), error=0.5)
    assert [blended(one, share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.01, 0.04, 0.16])
    assert [blended(none, share) for share in (0.0, 0.5, 1.0)] == [0.0, 0.0, 0.0]
    made = problem(sites=3)
    for share, loss in ((0.0, lambda o: o.loss), (1.0, lambda o: o.error)):
        plan, same = replace(made, blend=share).best(1500, ""), made.best(1500, "", loss)
        assert plan is not None
        assert same is not None
        assert plan.choices == same.choices


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_curve_has_no_plan_that_is_predicted_to_lose_more_than_a_smaller_one(share: float):
    plans = curve_plans(replace(problem(sites=4), blend=share))
    assert len(plans) > 20
    assert plans[0].loss == 0
    for larger, smaller in pairwise(plans):
        assert larger.cost.parameters > smaller.cost.parameters
        assert larger.loss <= smaller.loss


def test_lossless_never_proposes_to_change_nothing():
    assert all(plan.factored for plan in lossless(problem(), 2000))


def test_uniform_gives_every_site_its_share():
    plan = problem(sites=3).uniform(1500)
    assert plan is not None
    assert {c.option.ranks for c in plan.choices} == {(25,)}
    assert problem().uniform(10) is None


def test_resources_are_what_they_say():
    cost = Cost(3, 12, 7.5)
    assert [amount(cost, r) for r in ("parameters", "bytes", "macs")] == [3.0, 12.0, 7.5]
    assert (problem(resource="macs").dense, problem(resource="macs").smallest) == (10_000.0, 200.0)
    assert (problem(resource="bytes").dense, problem().smallest) == (8000.0, 40.0)


def test_a_plan_adds_up():
    made = problem()
    plan = made.plan([0, 40], "by hand")
    assert plan.choices[1] == Choice("s1", "w_s1", made.curves[1].options[40])
    assert [c.site for c in plan.factored] == ["s1"]
    assert plan.cost == Cost(1020, 4080, 5100.0)
    assert plan.loss == made.curves[1].options[40].loss
