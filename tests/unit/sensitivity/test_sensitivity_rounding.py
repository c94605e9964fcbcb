"""Curves with number formats: every option in each of them, with the loss of truncation and rounding together."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from builders import mlp, normal, options, with_depthwise
from exhaustive import kl

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.options import Options
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline import DataSources, Session, meet_goal
from onnx_lowrank.sensitivity.rounding import undominated
from onnx_lowrank.sensitivity.substitution import Substitutions, stored_weight
from onnx_lowrank.types import DENSE, OWN, Cost, Curve, Form, Option

BITS = (4, 8, 32)


@cache
def session(bits: tuple[int, ...] = BITS, count: int = 160) -> Session:
    model = mlp([48, 64, 10], [24, None], 3)
    x = normal([count, 48], 1)
    made = Session.of(model, DataSources(data={"x": x}), options(rank_multiple=8, bits=bits))
    made.problem("bytes")
    return made


def curves(bits: tuple[int, ...] = BITS) -> tuple[Curve, ...]:
    return session(bits).state.curves


def mixed(*names: str) -> set[str]:
    """Return formats, and those of pairs."""
    return {*names, *(f"{first}/{last}" for first in names for last in names if first != last)}


def test_only_what_is_allowed_is_offered():
    assert {o.form.storage for c in curves((32,)) for o in c.options} == {OWN}
    assert {o.form.storage for c in curves((8, 32)) for o in c.options} <= {OWN, *mixed("int8", "int8-blocks")}
    assert {o.form.storage for c in curves((16, 32)) for o in c.options} == {OWN, "float16"}
    every = {o.form.storage for c in curves() for o in c.options}
    assert {OWN, "int8", "int4"} < every <= {OWN, *mixed("int8", "int8-blocks", "int4")}
    assert all(len(o.ranks) == 1 for c in curves() for o in c.options if "/" in o.form.storage)
    for curve in curves():
        assert curve.options[0].dense
        assert any(o.scheme == DENSE and o.form.storage.startswith("int8") for o in curve.options)
        sizes = [(o.cost.bytes, -o.loss) for o in curve.options[1:]]
        assert sizes == sorted(sizes, reverse=True)


def test_the_loss_of_a_form_is_what_its_rounded_weight_loses():
    """Of the weight itself within a factor of 2 of what substitution measures; with truncation, sampled, within 4."""
    one = session()
    state, sites = one.state, {site.id: site for site in one.inventory.sites}
    feeds, inventory = state.calibrated.samples.feeds, replace(one.inventory, compensation=state.compensation)
    there = Substitutions.of(one.loaded.model, inventory, list(sites.values()), feeds, kl, one.options.runtime)
    compared = 0
    for curve in state.curves:
        for option in curve.options[1:]:
            factors = state.calibrated.decomposed.factors.get((curve.site, option.scheme))
            weight = stored_weight(inventory, sites[curve.site], factors, option)
            measured = there.loss(sites[curve.site], weight)
            if option.form.storage != OWN and 1e-6 < measured < 0.05:
                compared += 1
                factor = 2 if option.scheme == DENSE else 4
                assert 1 / factor < option.loss / measured < factor
    assert compared >= 6


def test_a_plan_in_bytes_mixes_ranks_and_bits():
    one = session()
    problem = one.problem("bytes")
    plan = problem.best(0.25 * problem.dense, "small")
    assert plan is not None
    assert plan.cost.bytes <= 0.25 * problem.dense
    assert {name for choice in plan.choices for name in choice.option.form.storage.split("/")} & {"int4", "int8"}
    alone = session((32,)).problem("bytes").best(0.25 * problem.dense, "small")
    assert alone is None or plan.loss < alone.loss


def test_what_costs_more_and_loses_as_much_is_left_out():
    def option(size: int, loss: float) -> Option:
        return Option(Form("svd", (size,)), Cost(bytes=size), loss=loss)

    given = [option(4, 0.1), option(3, 0.2), option(5, 0.1), option(2, 0.15), option(9, 0.0)]
    assert [o.cost.bytes for o in undominated(given)] == [9, 4, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": (8,)}, "32, its own type, is among them"),
        ({"bits": (3, 32)}, "not 3,32"),
        ({"bits": (8, 32), "then": "quantize"}, "--then quantize does not go with --bits"),
        ({"bits": (8, 32), "sensitivity": "inputs"}, "--sensitivity inputs does not go with --bits"),
        ({"bits": (8, 32), "continuation": 2}, "--continuation does not go with --bits"),
        ({"bits": (8, 32), "inter_layer": True}, "--inter-layer does not go with --bits"),
    ],
)
def test_what_does_not_go_together_is_told(changes: dict[str, object], said: str):
    with pytest.raises(GoalError, match=said):
        Options(**changes)


@pytest.mark.parametrize("goal", [Compact(), Lossless(keep=0.5), Compact(resource="macs")])
def test_bits_are_for_bytes_or_time(goal: Compact | Lossless):
    with pytest.raises(GoalError, match=r"--bits below 32 saves bytes or time, no [a-z]+: give --"):
        meet_goal(session(), goal, dry_run=True)


def test_a_format_that_does_not_run_here_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onnx_lowrank.pipeline.number_formats.refused", lambda model, number, runtime: "no kernel")
    model, x = mlp([48, 64, 10], [24, None], 3), normal([60, 48], 1)
    one = Session.of(model, DataSources(data={"x": x}), options(rank_multiple=8, bits=BITS))
    result = meet_goal(one, Compact(resource="bytes", gate=Gate(max_drop=1.0, observed=True)), dry_run=True)
    assert {o.form.storage for c in one.state.curves for o in c.options} == {OWN}
    assert "int4 is not available: no kernel" in result.notes
    assert np.isfinite(result.after.bytes)


def test_what_no_scheme_factors_gets_another_number_format():
    """A depthwise convolution: its curve has the weight itself and int8, with the loss that substitution measures."""
    model = with_depthwise()
    x = normal([160, 8, 6, 6], 4)
    one = Session.of(model, DataSources(data={"x": x}), options(rank_multiple=1, bits=BITS, metric="agreement"))
    problem = one.problem("bytes")
    site = next(site for site in one.inventory.sites if site.weight == "D")
    curve = next(curve for curve in problem.curves if curve.site == site.id)
    assert site.rigid
    assert {o.scheme for o in curve.options} == {DENSE}
    rounded = next(o for o in curve.options if o.form.storage.startswith("int8"))
    feeds = one.state.calibrated.samples.feeds
    there = Substitutions.of(one.loaded.model, one.inventory, [site], feeds, kl, one.options.runtime)
    measured = there.loss(site, stored_weight(one.inventory, site, None, rounded))
    assert 1 / 2 < rounded.loss / measured < 2
    plan = problem.best(problem.smallest, "smallest")
    assert plan is not None
    made = rewrite(model, one.inventory, plan, one.state.calibrated.decomposed.factors)
    (chosen,) = (choice.option for choice in plan.choices if choice.site == site.id)
    assert chosen.form.storage == "int4"
    assert {t.name: t.data_type for t in made.graph.initializer}["D.whole.int4"] == onnx.TensorProto.INT4
    assert Session.of(model, DataSources(data={"x": x}), options(rank_multiple=1)).inventory.sites == tuple(
        site for site in one.inventory.sites if not site.rigid
    )


def test_two_bits_are_offered_where_outputs_fill_bytes(monkeypatch: pytest.MonkeyPatch):
    """The last layer has 10 outputs, no multiple of 4: onnxruntime would compute other numbers if it stayed packed."""
    found = curves((2, 4, 8, 32))
    storages = {curve.site: {o.form.storage for o in curve.options} for curve in found}
    assert "int2" in storages[found[0].site] & storages[found[1].site]
    monkeypatch.setattr("onnx_lowrank.types.number_formats.PACKED", 0)
    packed = session.__wrapped__((2, 4, 8, 32)).state.curves
    storages = {curve.site: {o.form.storage for o in curve.options} for curve in packed}
    assert "int2" in storages[packed[0].site]
    assert "int2" not in storages[packed[1].site]
    assert min(found[0].options, key=lambda option: option.cost.bytes).form.storage == "int2"
