"""Milliseconds onto curves, from times that the test makes up."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from builders import build, chained, elements, mlp, node, normal, observed, options, value, weight

from onnx_lowrank.errors import RuntimeProblem
from onnx_lowrank.latency import Stopwatch, stopwatch
from onnx_lowrank.latency import measure as group
from onnx_lowrank.latency import whole_model_scale as anchor
from onnx_lowrank.latency.interleaving import rounds_of
from onnx_lowrank.latency.measure import Group
from onnx_lowrank.progress import Silent
from onnx_lowrank.sensitivity.decompose import decompose_plain
from onnx_lowrank.weights.find import find_sites


class Fake:
    """A chain takes `each` of the node's time for every one of its parameters' share; the model takes 20 ms."""

    def __init__(self, each=1.0, dense=0.1):
        self.each, self.dense, self.scenes = each, dense, []

    def __call__(self, original, feed, scene, chains, scheme, runtime):
        self.scenes.append(scene)
        whole = sum(scene.captured[weight].size for weight in scene.weights)
        sizes = [chained(of_calls) / whole for of_calls in chains]
        return Group(self.dense, tuple(self.each * float(size) for size in sizes), 0.02)


def timed(model, monkeypatch, fake, x, scale=lambda *_: 1.0):
    monkeypatch.setattr(stopwatch, "measure_group", fake)
    monkeypatch.setattr(stopwatch, "scale_of", scale)
    inventory = find_sites(model, multiple=1)
    feeds = [{"x": x}]
    watch = Stopwatch.of(model, inventory, observed(model, inventory, feeds), feeds, options())
    plain = decompose_plain(inventory, 1)
    return watch, plain, watch.timed(plain.curves, plain.factors, Silent())


def test_milliseconds_are_shares_of_the_originals_time(monkeypatch):
    model = mlp([16, 24, 8], [None, None], 0)
    _, _, made = timed(model, monkeypatch, Fake(), normal([1, 16], 1))
    assert made.original == pytest.approx(20.0)
    for curve in made.curves:
        assert curve.dense.cost.milliseconds == pytest.approx(2.0)
        for option in curve.options[1:]:
            share = option.cost.parameters / curve.dense.cost.parameters
            assert option.cost.milliseconds == pytest.approx(2.0 * share, rel=1e-9)


def test_all_weights_are_scaled_by_what_the_fastest_model_saves(monkeypatch):
    """Each weight takes .1 of the time, and its smallest chain its share of that: the model saves what is left."""
    asked = []

    def scale(original, feed, fastest, predicted, chosen):
        asked.append((predicted, elements(fastest)))
        return 1.25

    model = mlp([16, 24, 8], [None, None], 0)
    watch, plain, made = timed(model, monkeypatch, Fake(), normal([1, 16], 1), scale)
    for curve in made.curves:
        assert curve.dense.cost.milliseconds == pytest.approx(1.25 * 2.0)
        least = min(o.cost.milliseconds for o in curve.options)
        share = min(o.cost.parameters for o in curve.options) / curve.dense.cost.parameters
        assert least == pytest.approx(1.25 * 2.0 * share)
    kept = [min(o.cost.parameters for o in c.options) / c.dense.cost.parameters for c in made.curves]
    biases = sum(int(np.prod(t.dims)) for t in model.graph.initializer if len(t.dims) == 1)
    smallest = sum(min(o.cost.parameters for o in c.options) for c in made.curves)
    assert asked == [(pytest.approx(0.1 * (2 - sum(kept))), smallest + biases)]
    assert watch.timed(plain.curves, plain.factors, Silent()) == made
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("ratio", "predicted", "scale"), [(0.4, 0.5, 1.2), (0.9, 0.5, 1 / 1.5), (0.1, 0.5, 1.5), (0.5, 0.02, 1.0)]
)
def test_the_scale_is_what_is_saved_over_what_was_predicted(monkeypatch, ratio, predicted, scale):
    monkeypatch.setattr(anchor, "rounds_of", lambda timed, against: np.array([[1.0, ratio], [3.0, 3 * ratio]]))
    found = anchor.scale_of(None, {}, mlp([4, 4], [None], 0), predicted, options().runtime)
    assert found == pytest.approx(scale)


def test_what_is_no_faster_is_not_offered_and_the_places_of_the_rest_are_told(monkeypatch):
    model = mlp([16, 24, 8], [None, None], 0)
    _, plain, made = timed(model, monkeypatch, Fake(each=2.0), normal([1, 16], 1))
    for curve, before in zip(made.curves, plain.curves, strict=True):
        assert 1 < len(curve.options) < len(before.options)
        assert all(o.cost.parameters < before.dense.cost.parameters / 2 for o in curve.options[1:])
        kept = [before.options[i] for i in made.kept[curve.site]]
        assert [(o.scheme, o.ranks) for o in kept] == [(o.scheme, o.ranks) for o in curve.options]


def test_equal_shapes_are_measured_once_and_never_again(monkeypatch):
    model, fake = mlp([16, 16, 16, 16], [None] * 3, 0), Fake()
    watch, plain, made = timed(model, monkeypatch, fake, normal([1, 16], 1))
    assert len(fake.scenes) == 2, "with and without identity blocks"
    assert len(made.curves) == 3
    again = watch.timed(plain.curves, plain.factors, Silent())
    assert len(fake.scenes) == 2
    assert again == made


def test_other_shapes_and_subnormal_weights_are_measured_apart(monkeypatch):
    fake = Fake()
    timed(mlp([16, 24, 16], [None, None], 0), monkeypatch, fake, normal([1, 16], 1))
    assert len(fake.scenes) == 4, "each with and without identity blocks"
    dusty, fake = mlp([16, 16, 16], [None, None], 0), Fake()
    array = np.array(weight((16, 16), 5))
    array[0, 0] = 1e-40
    tensor = next(t for t in dusty.graph.initializer if t.name == "fc1")
    tensor.CopyFrom(stopwatch.onnx.numpy_helper.from_array(array, "fc1"))
    timed(dusty, monkeypatch, fake, normal([1, 16], 1))
    assert len(fake.scenes) == 4


def test_the_faster_of_both_forms_can_be_taken(monkeypatch):
    """Plain twins have places of their own, and those of the options that they come from."""
    model = mlp([16, 24, 8], [None, None], 0)
    _, plain, made = timed(model, monkeypatch, Fake(), normal([1, 16], 1))
    for curve, before in zip(made.curves, plain.curves, strict=True):
        twins = [o for o in curve.options[1:] if not o.form.interpolative]
        stored = {o.ranks: o for o in curve.options[1:] if o.form.interpolative}
        assert twins
        for twin in twins:
            assert twin.cost.parameters < curve.dense.cost.parameters
            other = stored.get(twin.ranks)
            if other is not None:
                assert twin.cost.parameters - other.cost.parameters == twin.ranks[0] ** 2
                assert twin.loss == other.loss
        places = [before.options[i].ranks for i in made.kept[curve.site]]
        assert places == [option.ranks for option in curve.options]


def test_a_shared_weight_costs_the_time_of_all_its_nodes(monkeypatch):
    nodes = [
        node("MatMul", ["x", "W"], ["h"], "one"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "W"], ["y"], "two"),
    ]
    model = build(nodes, [value("x", ["n", 16])], [value("y", ["n", 16])], {"W": weight((16, 16), 0)})
    _, _, made = timed(model, monkeypatch, Fake(), normal([1, 16], 1))
    (curve,) = made.curves
    assert curve.dense.cost.milliseconds == pytest.approx(4.0)


def test_what_cannot_run_alone_stays_dense_with_its_reason(monkeypatch):
    def refuse(*arguments):
        raise RuntimeProblem("no such kernel")

    _, _, made = timed(mlp([16, 24, 8], [None, None], 0), monkeypatch, refuse, normal([1, 16], 1))
    assert all(len(curve.options) == 1 for curve in made.curves)
    assert made.untimed == {"fc0": "no such kernel", "fc1": "no such kernel"}
    assert made.original == 0.0


def test_a_real_measurement_gives_finite_times(monkeypatch):
    for part in (group, anchor):
        monkeypatch.setattr(part, "rounds_of", partial(rounds_of, seconds=0.05))
    model = mlp([16, 24, 8], [None, None], 0)
    inventory = find_sites(model, multiple=8)
    feeds = [{"x": normal([1, 16], 1)}]
    watch = Stopwatch.of(model, inventory, observed(model, inventory, feeds), feeds, options(rank_multiple=8))
    plain = decompose_plain(inventory, 8)
    made = watch.timed(plain.curves, plain.factors, Silent())
    assert made.original > 0
    assert not made.untimed
    assert all(0 < o.cost.milliseconds < np.inf for curve in made.curves for o in curve.options)
