"""From samples to joint curves by the pipeline: layouts, operators without a gradient, memory, labels, continuation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import build, elements, feeds_of, found_in, mlp, node, normal, options, run, value, weight
from scipy.special import log_softmax

from onnx_lowrank.collection import overridable
from onnx_lowrank.errors import GoalError, MetricError
from onnx_lowrank.goals import Gate, Lossless
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline import optimize
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.plan import Problem
from onnx_lowrank.progress import Silent
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples
from onnx_lowrank.sensitivity.calibrated import Calibrated, SensitivityState
from onnx_lowrank.sensitivity.continuation import go_on, shrunken
from onnx_lowrank.sensitivity.measure import calibrate, kind_of, probe
from onnx_lowrank.types import Array, Curve, Feed
from onnx_lowrank.weights.inventory import Inventory


def samples_of(feeds: list[Feed], labels: object = None) -> Samples:
    return Samples(feeds, labels, "the test", tuple(map(str, range(len(feeds)))))  # type: ignore[arg-type]


def stand_of(
    model: onnx.ModelProto, feeds: list[Feed], *, labels: object = None, chosen: Options
) -> tuple[LoadedModel, Inventory, SensitivityState]:
    loaded, samples, found = LoadedModel.of(model, chosen.runtime), samples_of(feeds, labels), found_in(model)
    done = calibrate(loaded, samples, found, chosen, Silent(), kind_of(loaded, None, samples))
    return loaded, found, probe(loaded, found, done, chosen, Silent())


def calibrated(model: onnx.ModelProto, feeds: list[Feed], *, labels: object = None, chosen: Options) -> Calibrated:
    loaded, samples = LoadedModel.of(model, chosen.runtime), samples_of(feeds, labels)
    return calibrate(loaded, samples, found_in(model), chosen, Silent(), kind_of(loaded, None, samples))


ROWS = {
    "one row": ([1, 6], [1, 6], []),
    "four rows": ([4, 6], [4, 6], []),
    "rows that mix": ([4, 6], [4, 6], [node("CumSum", ["h", "axis"], ["y"], "mix")]),
    "rows that the output does not have": ([4, 6], [8, 3], [node("Reshape", ["h", "shape"], ["y"], "cut")]),
    "a row of rows": ([4, 6], [1, 4, 6], [node("Unsqueeze", ["h", "axis"], ["y"], "more")]),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_fixed_leading_axis_of_any_meaning_is_predicted_as_it_is_measured(name: str):
    """Two samples cannot run together here; what the rows are decides nothing. The model is linear: only draws err."""
    shape, output, ends = ROWS[name]
    weights = {"W": weight((6, 6), 1), "axis": np.array([0]), "shape": np.array(output)}
    used = {key: weights[key] for key in ("W", *(n for end in ends for n in end.input[1:]))}
    nodes = [node("MatMul", ["x", "W"], ["h" if ends else "y"], "fc"), *ends]
    model = build(nodes, [value("x", shape)], [value("y", output)], used)
    rng = np.random.default_rng(3)
    feeds = [{"x": np.repeat(rng.standard_normal((1, 6)), shape[0], 0).astype(np.float32)} for _ in range(768)]
    _, _, state = stand_of(model, feeds, chosen=options())
    assert state.unit == "relative squared error"
    assert state.checks
    for each in state.checks:
        assert each.predicted == pytest.approx(each.measured, rel=0.5)


def test_a_small_memory_gives_the_same_curves():
    weights = {f"W{i}": weight((16, 16), i) for i in range(8)}
    nodes = [node("Identity", ["x"], ["r0"])]
    for i in range(8):
        nodes.append(node("MatMul", [f"r{i}", f"W{i}"], [f"h{i}"], f"fc{i}"))
        nodes.append(node("Tanh", [f"h{i}"], [f"r{i + 1}" if i < 7 else "y"]))
    model = build(nodes, [value("x", [1, 6000, 16])], [value("y", [1, 6000, 16])], weights)
    feeds = feeds_of(normal([8, 6000, 16], 2))
    one, other = (calibrated(model, feeds, chosen=options(memory=memory)) for memory in (2**30, 2**24))
    assert one.tails.keys() == other.tails.keys() == {f"h{i}" for i in range(8)}
    for site, tails in one.tails.items():
        np.testing.assert_allclose(other.tails[site], tails, rtol=1e-3, atol=1e-3 * np.abs(tails).max())


def without_a_rule() -> onnx.ModelProto:
    """conv, LpPool (which has no gradient rule), conv, Gemm."""
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], "first", pads=[1, 1, 1, 1]),
        node("LpPool", ["c0"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "k1"], ["c1"], "second", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["c1"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "head"], ["y"], "head", transB=1),
    ]
    weights = {"k0": weight((8, 4, 3, 3), 1), "k1": weight((8, 8, 3, 3), 2), "head": weight((6, 8), 3)}
    return build(nodes, [value("x", ["n", 4, 8, 8])], [value("y", ["n", 6])], weights)


def test_sites_above_an_operator_without_a_rule_fall_back_and_the_others_stay_joint():
    _, found, state = stand_of(without_a_rule(), feeds_of(normal([32, 4, 8, 8], 1)), chosen=options())
    done = state.calibrated
    assert done.fallback == {"c0": "no rule for LpPool"}
    (note,) = done.notes
    assert note.startswith("1 of 3 weights has no gradient (no rule for LpPool)")
    assert done.joint is not None
    assert {site for site, _ in done.joint.scored} == set(done.tails) == {"c1", "y"}
    assert [curve.site for curve in state.curves] == [site.id for site in found.sites] == ["c0", "c1", "y"]
    by_site = {curve.site: curve for curve in state.curves}
    assert by_site["c0"].trust_range is None
    assert all(by_site[site].trust_range is not None for site in ("c1", "y") if by_site[site].probes)
    for curve in state.curves:
        assert len(curve.options) > 1
        assert all(option.loss > 0 for option in curve.options[1:])


@pytest.mark.parametrize("on", [{}, {"inter_layer": True}, {"continuation": 2}], ids=str)
def test_the_whole_pipeline_names_the_operator_without_a_rule(on: dict[str, object]):
    result = optimize(without_a_rule(), feeds_of(normal([40, 4, 8, 8], 1)),
                      Lossless(keep=0.6, gate=Gate(max_drop=1e9, observed=True)),
                      options(**on), dry_run=True)  # fmt: skip
    assert result.changed
    assert any("no rule for LpPool" in note for note in result.notes)


def plan_at(inventory: Inventory, curves: tuple[Curve, ...], keep: float):
    problem = Problem(curves, {site.id: site.weight for site in inventory.sites}, "parameters")
    plan = problem.best(keep * sum(site.parameters for site in inventory.sites), "")
    assert plan is not None
    return plan


CONTINUED = {
    "mlp": (lambda: mlp([16, 24, 20, 8], [None] * 3, 1), [16]),
    "conv": (without_a_rule, [4, 8, 8]),
}


@pytest.mark.parametrize("name", CONTINUED)
@pytest.mark.parametrize("sensitivity", ["joint", "inputs"])
def test_continuation_goes_on_from_the_ranks_that_a_step_left(name: str, sensitivity: str):
    make, shape = CONTINUED[name]
    model, chosen = make(), options(sensitivity=sensitivity)
    feeds = feeds_of(normal([48, *shape], 1))
    loaded, found, state = stand_of(model, feeds, chosen=chosen)
    first = plan_at(found, state.curves, 0.7)
    there = go_on(loaded, found, state, first, chosen, Silent())
    assert [curve.site for curve in there.curves] == [curve.site for curve in state.curves]
    factored = {choice.site: choice.option for choice in first.factored}
    assert factored
    for curve in there.curves:
        own = factored.get(curve.site)
        if curve.site in there.calibrated.tails:
            assert there.calibrated.tails[curve.site].shape[1] == len(curve.options)
        if own is None:
            assert len(curve.options) > 1
            continue
        same, *cheaper = curve.options[1:]
        assert (same.scheme, same.ranks, same.loss) == (own.scheme, own.ranks, 0.0)
        assert all(o.loss > 0 and not o.cost.parameters >= own.cost.parameters for o in cheaper)
        (before,) = [c for c in state.curves if c.site == curve.site]
        assert min(o.cost.parameters for o in cheaper) == min(o.cost.parameters for o in before.options)
    second = plan_at(found, there.curves, 0.5)
    moved = replace(found, weights={**found.weights, **tensors(shrunken(found, first, state.calibrated))})
    small = rewrite(model, moved, second, there.calibrated.decomposed.factors)
    saved = sum(site.parameters for site in found.sites) - second.cost.parameters
    assert elements(small) == elements(model) - saved
    assert second.cost.parameters <= 0.5 * sum(site.parameters for site in found.sites)
    assert np.isfinite(run(small, feeds[0])["y"]).all()


def tensors(arrays: dict[str, Array]) -> dict[str, onnx.TensorProto]:
    return {name: onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()}


def test_a_step_that_keeps_its_ranks_gives_the_same_model_again():
    """The factors of the shrunken weights at their own ranks stand for the shrunken weights."""
    model, chosen = mlp([16, 24, 20, 8], [None] * 3, 1), options()
    feeds = feeds_of(normal([48, 16], 1))
    loaded, found, state = stand_of(model, feeds, chosen=chosen)
    plan = plan_at(found, state.curves, 0.6)
    there = go_on(loaded, found, state, plan, chosen, Silent())
    one = rewrite(model, found, plan, state.calibrated.decomposed.factors)
    other = rewrite(model, found, plan, there.calibrated.decomposed.factors)
    np.testing.assert_allclose(run(other, feeds[3])["y"], run(one, feeds[3])["y"], rtol=0, atol=1e-4)


def classifier(*, name: str) -> tuple[onnx.ModelProto, list[Feed], Array]:
    model = mlp([16, 24, 10], [None] * 2, 1)
    model.graph.node[-1].output[0] = model.graph.output[0].name = name
    feeds = feeds_of(normal([64, 16], 1))
    return model, feeds, np.array([int(run(model, feed)[name].argmax()) for feed in feeds])


def test_the_signed_term_is_the_measured_slope_of_the_labelled_loss():
    """Central differences of cross-entropy along δ, on the fold that the basis was fitted without."""
    model, feeds, decided = classifier(name="logits")
    labels = (decided + np.arange(64) % 3) % 10
    _, found, state = stand_of(model, feeds, labels=labels, chosen=options(signed=True))
    joint = state.calibrated.joint
    assert joint is not None
    fold = [i for i in range(64) if i // 8 % 2 == 0]
    runner = Runner(
        overridable(model, [site.weight for site in found.sites]), runtime=Runtime(provider="cpu", threads=1)
    )

    def loss(name: str, weight: Array) -> float:
        rows = [runner.run({**feeds[i], name: weight.astype(np.float32)})["logits"][0] for i in fold]
        return -float(np.mean([log_softmax(row.astype(float))[labels[i]] for row, i in zip(rows, fold, strict=True)]))

    for site, curve in zip(found.sites, state.curves, strict=True):
        scored = joint.scored[site.id, "svd"]
        slopes = scored.slopes[: scored.first].mean(0)
        W = found.weight(site)
        expected = []
        for ranks in scored.ranks:
            step = 1e-2 * (scored.held.dense(ranks) - W)
            expected.append((loss(site.weight, W + step) - loss(site.weight, W - step)) / 2e-2)
        assert scored.first == len(fold)
        assert np.abs(expected).max() > 0.05
        np.testing.assert_allclose(slopes, expected, rtol=0, atol=0.02 * np.abs(expected).max())
        means = state.calibrated.slopes[site.id].mean(0)
        np.testing.assert_allclose([option.slope for option in curve.options], means, rtol=1e-6, atol=1e-12)


def test_without_labels_the_decisions_of_class_scores_stand_for_them():
    model, feeds, decided = classifier(name="logits")
    one, other = (calibrated(model, feeds, labels=x, chosen=options(signed=True)) for x in (None, decided))
    for site, slopes in one.slopes.items():
        np.testing.assert_allclose(slopes, other.slopes[site], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("labels", [None, list(range(64))])
def test_the_signed_term_needs_class_scores_or_a_loss(labels):
    model = mlp([16, 24, 8], [None] * 2, 1)
    with pytest.raises(GoalError, match="first-order term is zero") as e:
        calibrated(model, feeds_of(normal([64, 16], 1)), labels=labels, chosen=options(signed=True))
    assert "\n" not in str(e.value)


def test_wrong_labels_and_a_loss_without_labels_are_refused(tmp_path):
    model, feeds, decided = classifier(name="logits")
    with pytest.raises(MetricError, match="needs a class number"):
        calibrated(model, feeds, labels=decided + 5, chosen=options(signed=True))
    path = tmp_path / "loss.py"
    path.write_text("def f(outputs, label):\n    return {'logits': label * outputs['logits']}\n")
    loss = options(signed=True, loss=f"{path}:f")
    with pytest.raises(GoalError, match="needs labels"):
        calibrated(model, feeds, chosen=loss)
    one, twice = (calibrated(model, feeds, labels=x * np.ones(64), chosen=loss) for x in (1, 2))
    for site, slopes in one.slopes.items():
        assert np.abs(slopes).max() > 1e-3
        np.testing.assert_allclose(twice.slopes[site], 2 * slopes, rtol=1e-4, atol=1e-5)
