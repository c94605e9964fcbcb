"""Curves for a goal of time with `--bits`: what operators compute in integers, beside every option as it is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from builders import build, convnet, mlp, node, normal, options, run, value, weight, with_depthwise

from onnx_lowrank import SavedPlan, apply
from onnx_lowrank.errors import DataError, GoalError, PlanError
from onnx_lowrank.goals import Compact, Gate
from onnx_lowrank.latency import stopwatch
from onnx_lowrank.latency.measure import Group
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline import DataSources, Session, meet_goal
from onnx_lowrank.pipeline.notes import integer_notes
from onnx_lowrank.progress import Silent
from onnx_lowrank.sensitivity import integer_arithmetic
from onnx_lowrank.sensitivity.calibrated import SensitivityState
from onnx_lowrank.types import DENSE, OWN, Choice, Plan

ANYHOW = Gate(observed=True)


def opened(model, shape: list[int], count: int = 120, bits: tuple[int, ...] = (8, 32)) -> Session:
    return Session.of(model, DataSources(data={"x": normal([count, *shape], 1)}), options(rank_multiple=8, bits=bits))


@cache
def session(kind: str = "mlp") -> Session:
    if kind == "mlp":
        return opened(mlp([48, 64, 10], [24, None], 3), [48])
    return opened(convnet([3, 16, 24], [None, 8], 5, 2), [3, 8, 8])


def in_time(one: Session) -> SensitivityState:
    return one.in_formats(one.collect(one.metric(ANYHOW)[0]), "latency")


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_every_plain_option_comes_in_integers_as_well(kind: str):
    one = session(kind)
    before = {curve.site: curve for curve in one.collect(one.metric(ANYHOW)[0]).curves}
    sites = {site.id: site for site in one.inventory.sites}
    for curve in in_time(one).curves:
        site = sites[curve.site]
        own = curve.options[:1] if site.rigid else before[curve.site].options
        assert curve.options[: len(own)] == own
        (number,) = one.inventory.arithmetic(site)
        more = curve.options[len(own) :]
        assert {o.form.storage for o in more} == {number.name}
        assert {o.scheme for o in more} == {o.scheme for o in own if not o.shared_input}
        ranks = {(o.scheme, o.ranks): o for o in own}
        for option in more:
            assert not option.form.interpolative
            assert option.loss > ranks[option.scheme, option.ranks].loss
            assert option.cost.bytes < option.cost.parameters * 2
            assert option.cost.parameters < site.parameters or option.scheme == DENSE


@pytest.mark.parametrize(("kind", "least"), [("mlp", 0.5), ("convnet", 0.3)])
def test_what_all_weights_lose_in_integers_is_predicted(kind: str, least: float):
    """Within a factor of two; a convolution's own output, which is rounded before it is added up, is not counted."""
    one = session(kind)
    state = in_time(one)
    chosen: list[Choice] = []
    for curve in state.curves:
        option = next(o for o in curve.options if o.scheme == DENSE and not o.dense)
        chosen.append(Choice(curve.site, curve.site, option))
    weights = {site.id: site.weight for site in one.inventory.sites}
    plan = Plan(tuple(Choice(c.site, weights[c.site], c.option) for c in chosen))
    made = rewrite(one.loaded.model, one.inventory_of(state), plan, {})
    feeds, off = state.calibrated.samples.feeds, state.calibrated.objective.divergence
    measured = np.mean([off(run(one.loaded.model, feed), run(made, feed), 1) for feed in feeds])
    assert least < plan.loss / measured < 2


def test_weights_alone_are_for_bytes_and_integers_for_time():
    one = session()
    storages = {
        resource: {o.form.storage for curve in one.in_formats(one.collect(one.metric(ANYHOW)[0]), resource).curves
                   for o in curve.options}
        for resource in ("bytes", "latency")
    }  # fmt: skip
    assert storages["latency"] == {OWN, "int8-dynamic"}
    assert {OWN, "int8"} < storages["bytes"] <= {OWN, "int8", "int8-blocks", "int8/int8-blocks", "int8-blocks/int8"}
    assert one.state is one.in_formats(one.collect(one.metric(ANYHOW)[0]), "latency")


def test_what_no_scheme_factors_is_computed_in_integers():
    """A depthwise convolution."""
    model = with_depthwise()
    one = opened(model, [8, 6, 6])
    rigid = next(site for site in one.inventory.sites if site.weight == "D")
    (curve,) = (curve for curve in in_time(one).curves if curve.site == rigid.id)
    assert [(o.scheme, o.form.storage) for o in curve.options] == [(DENSE, OWN), (DENSE, "int8-static")]
    assert curve.options[1].loss > 0


@cache
def sharing() -> Session:
    tensors = {f"W{i}": weight((32, 32), i) for i in range(3)} | {"V": weight((32, 6), 9)}
    nodes = [node("MatMul", ["x", f"W{i}"], [f"y{i}"]) for i in range(3)]
    nodes += [node("Sum", ["y0", "y1", "y2"], ["s"]), node("MatMul", ["s", "V"], ["y"])]
    return opened(build(nodes, [value("x", ["n", 32])], [value("y", ["n", 6])], tensors), [32])


def test_a_shared_first_factor_is_computed_in_integers_for_all():
    """What is read is rounded once, and what all of them read next; predicted within a factor of two."""
    one = sharing()
    state = in_time(one)
    weights = {site.id: site.weight for site in one.inventory.sites}
    picks = [next(o for o in c.options[::-1] if o.shared_input) for c in state.curves[:3]]
    assert {option.form.storage for option in picks} == {"int8-dynamic"}
    exact = [
        next(o for o in c.options if o.shared_input and o.ranks == pick.ranks and o.form.storage == OWN)
        for c, pick in zip(state.curves, picks, strict=False)
    ]
    models = []
    for chosen in (picks, exact):
        pairs = zip(state.curves, chosen, strict=False)
        plan = Plan(tuple(Choice(c.site, weights[c.site], o) for c, o in pairs)).plain
        models.append(rewrite(one.loaded.model, one.inventory_of(state), plan, state.calibrated.decomposed.factors))
    kinds = [n.op_type for n in models[0].graph.node]
    assert (kinds.count("DynamicQuantizeLinear"), kinds.count("MatMulInteger")) == (2, 4)
    off, feeds = state.calibrated.objective.divergence, state.calibrated.samples.feeds
    measured = np.mean([off(run(models[1], feed), run(models[0], feed), 1) for feed in feeds])
    rounding = sum(pick.loss - other.loss for pick, other in zip(picks, exact, strict=True))
    assert 0.5 < rounding / measured < 2


def test_a_shared_first_factor_is_timed_for_all_in_each_form(monkeypatch: pytest.MonkeyPatch):
    one = sharing()
    state = in_time(one)

    def group(original, feed, scene, chains, form, runtime):
        return Group(0.1, tuple((0.3 if form.storage == OWN else 0.2) * (i + 1) for i in range(len(chains))), 0.01)

    monkeypatch.setattr(stopwatch, "measure_group", group)
    monkeypatch.setattr(stopwatch, "scale_of", lambda *_: 1.0)
    timed = one.renewed().stopwatch(state).timed(state.curves, state.calibrated.decomposed.factors, Silent())
    for curve in timed.curves[:3]:
        shared = [o for o in curve.options if o.shared_input]
        least = {s: min(o.cost.milliseconds for o in shared if o.form.storage == s) for s in (OWN, "int8-dynamic")}
        assert least == {OWN: pytest.approx(0.3), "int8-dynamic": pytest.approx(0.2)}


def test_where_one_member_is_not_measured_none_shares_in_integers(monkeypatch: pytest.MonkeyPatch):
    real = integer_arithmetic.responses

    def spoiled(*given: object) -> dict[str, np.ndarray]:
        found = real(*given)  # type: ignore[arg-type]
        return {site: np.full_like(rows, np.nan) if site == "y1" else rows for site, rows in found.items()}

    monkeypatch.setattr(integer_arithmetic, "responses", spoiled)
    one = sharing().renewed()
    for curve in in_time(one).curves[:3]:
        assert all(option.form.storage == OWN for option in curve.options if option.shared_input)


def test_bits_without_8_save_no_time():
    one = opened(mlp([48, 64, 10], [24, None], 3), [48], bits=(4, 32))
    with pytest.raises(GoalError, match=r"--bits without 8 saves no time, .*: give --bits 8,32"):
        meet_goal(one, Compact(resource="latency", gate=ANYHOW), dry_run=True)


def test_what_does_not_run_here_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "onnx_lowrank.pipeline.number_formats.refused_arithmetic",
        lambda model, number, runtime: f"no kernel of {number.bits}",
    )
    one = opened(mlp([48, 64, 10], [24, None], 3), [48])
    storages = {option.form.storage for curve in in_time(one).curves for option in curve.options}
    assert storages == {OWN}
    assert {"int8-static is not available: no kernel of 8", "int8-dynamic is not available: no kernel of 8"} <= set(
        one.notes
    )


def test_a_site_that_is_not_finite_in_integers_keeps_its_own_options(monkeypatch: pytest.MonkeyPatch):
    real = integer_arithmetic.responses

    def spoiled(*given: object) -> dict[str, np.ndarray]:
        found = real(*given)  # type: ignore[arg-type]
        first = next(iter(found))
        return found | {first: np.full_like(found[first], np.nan)}

    monkeypatch.setattr(integer_arithmetic, "responses", spoiled)
    one = opened(mlp([48, 64, 10], [24, None], 3), [48])
    first, second = in_time(one).curves
    assert {o.form.storage for o in first.options} == {OWN}
    assert {o.form.storage for o in second.options} == {OWN, "int8-dynamic"}


def test_a_plan_in_static_ranges_is_repeated_by_its_samples():
    """By sensitivity `weights` factors need no samples, but the ranges do."""
    one = session("convnet")
    state = in_time(one)
    weights = {site.id: site.weight for site in one.inventory.sites}
    picks = [(c.site, next(o for o in c.options if o.scheme == DENSE and not o.dense)) for c in state.curves]
    plan = Plan(tuple(Choice(site, weights[site], option) for site, option in picks))
    made = rewrite(one.loaded.model, one.inventory_of(state), plan, {})
    assert [note.split(":")[0] for note in integer_notes(plan)] == [
        "2 weights in integers with ranges of the calibration samples",
        "1 weight in integers with ranges found at every call",
    ]
    shapes = {site.id: site.shape for site in one.inventory.sites}
    saved = SavedPlan.of(plan, shapes, one.loaded.sha256, one.options, "t")
    assert saved.needs_data
    assert replace(saved, sensitivity="weights", refit=False).needs_data
    again = apply(saved, one.loaded.model, {"x": normal([120, 3, 8, 8], 1)}, one.options)
    assert made.graph.SerializeToString() == again.graph.SerializeToString()
    with pytest.raises(DataError, match="int8 ranges come from them"):
        apply(replace(saved, sensitivity="weights", refit=False), one.loaded.model, None, one.options)
    for storage in ("int3-static", "int8-static/int8-static/int8-static"):
        choices = tuple(replace(choice, storage=storage) for choice in saved.choices[:1])
        with pytest.raises(PlanError, match=f"the plan stores 'k0'.*'{storage}'"):
            apply(replace(saved, choices=choices), one.loaded.model, {"x": normal([120, 3, 8, 8], 1)}, one.options)
