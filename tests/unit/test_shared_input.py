"""Siblings: which weights are, what a shared first factor is predicted to do, and that they stay together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import (
    ANY,
    build,
    found_in,
    node,
    normal,
    observed,
    options,
    quantised,
    run,
    samples_of,
    shared_inputs,
    value,
    weight,
)
from exhaustive import Exhaustive, collection, reached, squared, unit

from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.sample_cache import SampleCache
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.gradient import observed_ranks
from onnx_lowrank.graph.model_io import content_hash
from onnx_lowrank.metrics import listed
from onnx_lowrank.options import Runtime
from onnx_lowrank.pipeline import inspect
from onnx_lowrank.plan import Problem
from onnx_lowrank.sensitivity.curves import joint_curves
from onnx_lowrank.sensitivity.decompose import cost_curves, decompose_plain
from onnx_lowrank.types import SHARED


def members(model: onnx.ModelProto, *, multiple: int = 1) -> list[tuple[str, ...]]:
    return [shared.members for shared in found_in(model, multiple=multiple).shared_inputs]


def readers(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], width: int = 6) -> onnx.ModelProto:
    names = [output for each in nodes for output in each.output if output.startswith("y")]
    return build(nodes, [value("x", ["n", width])], [value(name, [ANY, ANY]) for name in names], weights)


def made(out: int, seed: int = 0) -> np.ndarray:
    return weight((6, out), seed)


def test_weights_of_one_form_that_read_one_tensor_are_siblings_in_the_order_of_the_graph():
    """Not in the order in which their weights are stored; and one family for every tensor."""
    nodes = [
        node("MatMul", ["x", "B"], ["y0"], "second"),
        node("Relu", ["x"], ["r"]),
        node("MatMul", ["r", "C"], ["y1"], "other"),
        node("MatMul", ["x", "A"], ["y2"], "first"),
        node("MatMul", ["r", "D"], ["y3"], "more"),
    ]
    model = readers(nodes, {"A": made(8, 1), "B": made(9, 2), "C": made(8, 3), "D": made(5, 4)})
    assert members(model) == [("y0", "y2"), ("y1", "y3")]
    shared = found_in(model).shared_inputs[0]
    assert (shared.outs, shared.inner) == ((9, 8), 6)


ALONE = {
    "another operator": (
        [node("MatMul", ["x", "A"], ["y0"]), node("Gemm", ["x", "B"], ["y1"])],
        {"A": made(8, 1), "B": made(8, 2)},
    ),
    "other flags": (
        [node("Gemm", ["x", "A"], ["y0"]), node("Gemm", ["x", "B"], ["y1"], transB=1)],
        {"A": made(8, 1), "B": weight((8, 6), 2)},
    ),
    "another side": (
        [node("Gemm", ["x", "A"], ["y0"]), node("Gemm", ["B", "x"], ["y1"], transB=1)],
        {"A": made(8, 1), "B": weight((8, 6), 2)},
    ),
    "two nodes": (
        [
            node("MatMul", ["x", "A"], ["y0"]),
            node("Relu", ["x"], ["r"]),
            node("MatMul", ["r", "A"], ["y1"]),
            node("MatMul", ["x", "B"], ["y2"]),
        ],
        {"A": made(8, 1), "B": made(8, 2)},
    ),
    "a matrix for every slice": (
        [node("MatMul", ["x", "A"], ["y0"]), node("MatMul", ["x", "B"], ["y1"])],
        {"A": made(8, 1), "B": np.stack([made(8, 2), made(8, 3)])},
    ),
}


REASONS = {"two nodes": "several nodes use it", "a matrix for every slice": "it has a matrix for every slice"}


@pytest.mark.parametrize("name", ALONE)
def test_other_forms_are_none(name: str):
    nodes, weights = ALONE[name]
    model = readers(nodes, weights)
    assert len(found_in(model).sites) == 2
    assert members(model) == []
    notes = [note for note in inspect(model, rank_multiple=1).notes if "shares no first factor" in note]
    assert notes
    assert all(note.startswith(("A reads", "B reads", "A, like 1 more, reads")) for note in notes)
    assert any(REASONS.get(name, "no other has its form") in note for note in notes)


def test_integers_are_none_as_every_factor_has_scales_of_its_own():
    model = quantised(shared_inputs(16, [16, 16], rank=None, together=False), {"W0": None, "W1": None})
    assert [site.itemsize for site in found_in(model).sites if site.id.startswith("h")] == [1, 1]
    assert members(model) == []
    assert (
        "W0, like 1 more, reads what other weights read, but shares no first factor: it is stored as integers"
        in inspect(model, rank_multiple=1).notes
    )


def test_a_family_that_no_rank_makes_smaller_is_none():
    model = shared_inputs(9, [9, 9], rank=None, together=False)
    assert members(model, multiple=4) == [("h0", "h1")]  # each breaks even at 4.5, both together at 6
    assert members(model, multiple=5) == []


def test_a_family_is_gone_where_one_of_it_is():
    found = found_in(shared_inputs(16, [16, 16], rank=None, together=False))
    assert len(found.shared_inputs) == 1
    assert replace(found, sites=tuple(site for site in found.sites if site.id != "h1")).shared_inputs == ()


@pytest.mark.parametrize("outs", [(8, 8), (12, 14, 5), (3, 2)])
def test_the_score_of_a_shared_first_factor_is_the_measured_rise_of_every_sibling(outs: tuple[int, ...]):
    """With every seed once, no sampling is left: exact at every rank, wider and narrower than the input."""
    model = shared_inputs(8, outs, rank=None, together=False, linear=True)
    one = collection(model, normal([8, 8], 5), Exhaustive("y", unit), repeats=8, batch=8)
    probes = [(curve.site, probe) for curve in reached(one, squared) for probe in curve.probes]
    shared = [(site, probe) for site, probe in probes if probe.form.scheme == SHARED]
    assert {site for site, _ in shared} == {f"h{i}" for i in range(len(outs))}
    for _, probe in shared:
        assert probe.loss > 1e-6
        assert probe.predicted == pytest.approx(probe.loss, rel=2e-3)


def sampled(model: onnx.ModelProto, x: np.ndarray, **settings) -> CollectionSetup:
    feeds = [{"x": x[i : i + 1]} for i in range(len(x))]
    found = found_in(model)
    shapes = observed_ranks(model, feeds[0], runtime=Runtime(provider="cpu", threads=1))
    objective = Objective.of(model, "relative-l2", listed([run(model, feed) for feed in feeds[:8]]), 0)
    seen, samples, chosen = observed(model, found, feeds), samples_of(feeds), options(**settings)
    return CollectionSetup(model, content_hash(model), found, seen, samples, objective, shapes, chosen, 4, True)


def test_one_row_space_costs_nothing_together_and_something_alone():
    model = shared_inputs(16, [16, 16, 16], rank=6, together=True)
    one = sampled(model, normal([96, 16], 5))
    joint = joint_scores(one)
    for site in ("h0", "h1", "h2"):
        shared, alone = joint.scored[site, SHARED], joint.scored[site, "svd"]
        at = shared.ranks.index((6,))
        assert shared.rise[at] <= 1e-6 * shared.rise[0]
        assert alone.rise[alone.ranks.index((5,))] > 1e-3 * alone.rise[0]
        assert (np.diff(shared.rise) <= 0).all()


def test_scores_are_those_of_samples_run_again(monkeypatch: pytest.MonkeyPatch):
    one = sampled(shared_inputs(12, [12, 20], rank=None, together=False), normal([24, 12], 5))
    kept = joint_scores(one)
    monkeypatch.setattr(SampleCache, "open", False)
    again = joint_scores(one)
    for site in ("h0", "h1"):
        first, second = kept.scored[site, SHARED], again.scored[site, SHARED]
        np.testing.assert_allclose(first.tails, second.tails, rtol=1e-4, atol=1e-5 * np.abs(second.tails).max())


def test_siblings_are_collected_together_whatever_the_memory():
    """Their first stage is fitted to all of them: in one group, even where that is more than is allowed."""
    model = shared_inputs(8, [8, 8, 8], rank=None, together=False)
    one = sampled(model, normal([8, 8], 5), memory=2**24)
    tight = replace(one, observed=replace(one.observed, bytes=dict.fromkeys(one.observed.bytes, 2**24)))
    groups = [[site.id for site in group] for group in tight.groups()]
    assert len(groups) == 4
    assert {"h0", "h1", "h2"} in [set(group) for group in groups]
    expected, got = (joint_curves(c.inventory, c.observed, joint_scores(c)).decomposed.curves for c in (one, tight))
    for mine, other in zip(expected, got, strict=True):
        np.testing.assert_allclose([o.loss for o in mine.options], [o.loss for o in other.options], rtol=1e-4)


def test_without_families_nothing_changes():
    model = shared_inputs(12, [12, 20], rank=None, together=False)
    one = sampled(model, normal([24, 12], 5))
    without = replace(one, inventory=replace(one.inventory, all_shared_inputs=()))
    expected, got = joint_scores(without), joint_scores(one)
    assert {key for key in got.scored if key[1] != SHARED} == set(expected.scored)
    for key, scored in expected.scored.items():
        np.testing.assert_array_equal(scored.tails, got.scored[key].tails)
        np.testing.assert_array_equal(scored.kron, got.scored[key].kron)


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
                assert sum(choice.option.cost.parameters for choice in taken) == rank * (16 + 3 * 16)
                saved += 1
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
    alone, ends = 3 * (16 + 16), 3 * (16 + 8)
    assert Problem(cost_curves(found, 1), {}, "parameters").smallest == 16 + 3 * 16 + ends
    apart = replace(found, all_shared_inputs=())
    assert Problem(cost_curves(apart, 1), {}, "parameters").smallest == alone + ends


def test_siblings_with_different_options_are_an_error():
    found = found_in(shared_inputs(16, [16, 16], rank=None, together=False))
    first, *rest = decompose_plain(found, 1).curves
    torn = replace(first, options=tuple(o for o in first.options if o.ranks != (3,) or not o.shared_input))
    with pytest.raises(ValueError, match="weights of a shared input take the same options together: h0, h1"):
        Problem((torn, *rest), {}, "parameters").ties  # noqa: B018 - the property checks
