"""plan.layer_selective: one late weight alone, cut to a few shares."""

from __future__ import annotations

from onnx_lowrank.plan import Problem
from onnx_lowrank.plan.layer_selective import SHARES, single_cuts
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option


def curve(site: str, parameters: int, *, shared: bool = False) -> Curve:
    ranks = [parameters * share // 100 for share in (50, 20, 10, 4, 1)]
    options = [Option(Form("svd", (size,)), Cost(size), 1 / size, 1 / size) for size in ranks]
    if shared:
        options = [
            Option(option.form, option.cost, option.error, option.loss, shared_input=("a", "b")) for option in options
        ]
    return Curve(site, (Option(UNCHANGED, Cost(parameters)), *options))


def cut(*curves: Curve) -> list[dict[str, int]]:
    """Return which weights the plans factor, and to how many parameters."""
    plans = single_cuts(Problem(curves, {c.site: c.site for c in curves}, "parameters"))
    return [{c.site: c.option.cost.parameters for c in plan.factored} for plan in plans]


def test_every_plan_cuts_one_late_weight():
    plans = cut(*(curve(name, 1000) for name in "abcd"))
    assert {site for plan in plans for site in plan} == {"c", "d"}
    assert all(len(plan) == 1 for plan in plans)
    assert [plan["c"] for plan in plans if "c" in plan] == [200, 100, 40, 10]  # each once, by SHARES
    assert len(SHARES) == 5


def test_options_of_a_shared_input_are_not_taken_alone():
    assert cut(curve("a", 1000), curve("b", 1000, shared=True)) == []


def test_only_the_largest_of_many():
    plans = cut(*(curve(f"w{i}", 1000 + i) for i in range(40)))
    assert {site for plan in plans for site in plan} == {f"w{i}" for i in range(32, 40)}


def test_nothing_of_nothing():
    assert cut() == []
