"""The joint collection on real graphs: where the loss is quadratic the predicted rise is the measured one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import build, constant, found_in, mlp, node, normal, options, run, value, weight
from exhaustive import WIDE, Exhaustive, class_seed, collection, kl, reached, scored, squared, unit
from scipy.linalg import hadamard

from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.projected_sides import sides_of
from onnx_lowrank.collection.setup import passes
from onnx_lowrank.errors import GoalError
from onnx_lowrank.metrics import listed
from onnx_lowrank.options import DEFAULT_MEMORY
from onnx_lowrank.types import Array


def one_node(op: str, x: Sequence[int], y: Sequence[int], W: Array, *, first: bool = False, **flags) -> onnx.ModelProto:
    bias = {"b": 3 + normal([y[1]], 9)} if op != "MatMul" else {}
    inputs = [*(["W", "x"] if first else ["x", "W"]), *bias]
    nodes = [node(op, inputs, ["y"], "op", **flags)]
    return build(nodes, [value("x", ["n", *x[1:]])], [value("y", ["n", *y[1:]])], {"W": W, **bias})


def shared() -> onnx.ModelProto:
    """One kernel at two places, a third convolution in between: still linear."""
    weights = {"W": weight((4, 4, 3, 3), 1), "V": weight((2, 4, 3, 3), 2)}
    nodes = [
        node("Conv", ["x", "W"], ["h"], "one", pads=[1, 1, 1, 1]),
        node("Add", ["h", "x"], ["s"]),
        constant("c", normal([4], 3)),
        node("Conv", ["s", "W", "c"], ["g"], "two", pads=[2, 2, 2, 2], dilations=[2, 2], strides=[2, 2]),
        node("Conv", ["g", "V"], ["y"], "three", strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    return build(nodes, [value("x", ["n", 4, 8, 8])], [value("y", ["n", 2, 2, 2])], weights)


LINEAR: dict[str, tuple[onnx.ModelProto, list[int]]] = {
    "MatMul": (one_node("MatMul", [1, 6], [1, 8], weight((6, 8), 1)), [6]),
    "MatMul of tokens": (one_node("MatMul", [1, 2, 6], [1, 2, 4], weight((6, 4), 1)), [2, 6]),
    "MatMul, weight first": (one_node("MatMul", [1, 6, 2], [1, 4, 2], weight((4, 6), 1), first=True), [6, 2]),
    "Gemm": (one_node("Gemm", [1, 7], [1, 8], weight((8, 7), 1), transB=1, alpha=-1.5, beta=0.5), [7]),
    "Conv": (
        one_node(
            "Conv",
            [1, 4, 5, 6],
            [1, 2, 2, 2],
            weight((2, 4, 3, 2), 1),
            strides=[2, 3],
            pads=[1, 0, 0, 1],
            dilations=[1, 2],
        ),
        [4, 5, 6],
    ),
    "Conv of many taps": (one_node("Conv", [1, 3, 12], [1, 4, 2], weight((4, 3, 11), 1)), [3, 12]),
    "Conv 1x1 with stride": (
        one_node("Conv", [1, 6, 3, 4], [1, 2, 2, 2], weight((2, 6, 1, 1), 1), strides=[2, 2]),
        [6, 3, 4],
    ),
}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", LINEAR)
def test_the_score_of_a_linear_model_is_the_measured_rise(name: str, batch: int):
    """With every seed once, no sampling is left: exact at every rank, for every scheme that projects one side."""
    model, shape = LINEAR[name]
    one = collection(model, normal([8, *shape], 5), Exhaustive("y", unit), repeats=WIDE, batch=batch)
    curves = reached(one, squared)
    probes = [probe for curve in curves for probe in curve.probes]
    assert len(probes) == sum(len(curve.options) - 1 for curve in curves) >= 1
    for probe in probes:
        assert probe.loss > 1e-4
        if probe.form.scheme == "tucker-2":  # what both sides lose is counted twice, so this is no exact one
            assert probe.loss / 4 < probe.predicted < probe.loss * 4
        else:
            assert probe.predicted == pytest.approx(probe.loss, rel=2e-3)


def test_a_shared_weight_is_scored_at_all_its_places_together():
    """Its loss is of the second degree in δ as it comes twice: exact to first order in δ's relative size only."""
    model = shared()
    one = collection(model, normal([8, 4, 8, 8], 5), Exhaustive("y", unit), repeats=WIDE, batch=4)
    by_site = {curve.site: curve for curve in reached(one, squared)}
    assert set(by_site) == {"h", "y"}
    for probe in by_site["y"].probes:
        assert probe.form.scheme == "tucker-2" or probe.predicted == pytest.approx(probe.loss, rel=2e-3)
    small = min(by_site["h"].probes, key=lambda probe: probe.error)
    assert small.predicted == pytest.approx(small.loss, rel=0.25)


def test_the_prediction_for_a_classifier_is_the_measured_divergence_where_the_change_is_small():
    """Gauss–Newton is the whole Hessian of KL at its minimum; what is left is of the third order."""
    model = mlp([12, 16, WIDE], [None, None], 3)
    one = collection(model, normal([24, 12], 5), Exhaustive("y", class_seed), repeats=WIDE, batch=8)
    for curve in reached(one, kl):
        small = sorted(curve.probes, key=lambda probe: probe.error)[:2]
        assert small[0].loss < 0.03
        for probe in small:
            assert probe.predicted == pytest.approx(probe.loss, rel=0.25)


def test_sampled_targets_give_the_measured_rise_within_their_standard_error():
    """The objective's own head instead of all directions: 3,200 draws on 40 samples, and five standard errors."""
    model, shape = LINEAR["Gemm"]
    x = normal([40, *shape], 5)
    objective = Objective.of(model, "relative-l2", listed([run(model, {"x": x[i : i + 1]}) for i in range(40)]), 0)
    (variance,) = [each.variance for each in objective.probing.outputs]
    one = collection(model, x, objective, repeats=80, batch=8)
    joint, (curve,) = scored(one)
    assert objective.unit == "relative squared error"
    measured = reached(one, lambda a, b, n: squared(a, b, n) / variance)
    for probe in measured[0].probes:
        deviation = next(o.deviation for o in curve.options if o.ranks == probe.form.ranks)
        assert deviation < 0.05 * probe.loss
        assert probe.predicted == pytest.approx(probe.loss, abs=5 * 2**0.5 * deviation)
    assert all((np.diff(s.rise) <= 0).all() for s in joint.scored.values())


@pytest.mark.parametrize("name", ["Gemm", "Conv"])
def test_a_batch_as_one_unit_expects_the_same_as_its_samples_apart(name: str):
    """Seeds carry the signs of a Hadamard matrix from batch to batch: cross terms of samples vanish exactly."""
    model, shape = LINEAR[name]
    signs = hadamard(WIDE)
    rows = normal([2, WIDE, *shape], 5)
    x = np.concatenate([rows[fold] for _ in range(WIDE) for fold in (0, 1)])  # blocks of WIDE are dealt to two folds
    head = Exhaustive("y", lambda value, j, block: signs[block // 2, j] * unit(value, j, block))
    apart = collection(model, x, head, repeats=1, batch=WIDE)
    one, other = (joint_scores(replace(apart, separate=separate)) for separate in (True, False))
    assert one.scored.keys() == other.scored.keys() != set()
    for key, scored_apart in one.scored.items():
        together = other.scored[key]
        assert len(together.tails) == 2 * WIDE == len(scored_apart.tails) // WIDE
        np.testing.assert_allclose(together.rise, scored_apart.rise, rtol=1e-3)
        np.testing.assert_allclose(together.kron, scored_apart.kron, rtol=1e-3)
        assert scored_apart.rise[0] > 1e-3


def test_a_bound_on_memory_that_cannot_be_kept_is_told_with_the_least_that_can():
    model = build(
        [node("MatMul", ["x", "W"], ["y"], "fc")],
        [value("x", ["n", 400])],
        [value("y", ["n", 600])],
        {"W": weight((400, 600), 1)},
    )
    x = normal([8, 400], 2)
    objective = Objective.of(model, "relative-l2", listed([run(model, {"x": x[:1]})]), 0)
    whole = collection(model, x, objective, repeats=1, batch=1)
    least = 32 * 2 * 400**2 / 1e6  # MB, of moments and bases of the smaller side in two folds
    assert least < max(whole.needs.values()) / 1e6 < least + 0.1
    replace(whole, options=options(memory=DEFAULT_MEMORY)).check_memory()
    replace(whole, options=options(memory=2**24)).check_memory()
    wide = replace(whole, observed=replace(whole.observed, bytes=dict.fromkeys(whole.observed.bytes, 2**21)))
    with pytest.raises(GoalError, match=r"--memory 17MB cannot be kept: weight 'W' alone takes 31 MB .* --memory 32MB"):
        replace(wide, options=options(memory=2**24)).check_memory()
    replace(wide, options=options(memory=32 * 10**6)).check_memory()


def test_groups_that_fit_in_memory_change_nothing():
    weights = {f"W{i}": weight((16, 16), i) for i in range(8)}
    nodes = [node("Identity", ["x"], ["r0"])]
    for i in range(8):
        nodes.append(node("MatMul", [f"r{i}", f"W{i}"], [f"h{i}"], f"fc{i}"))
        nodes.append(node("Tanh", [f"h{i}"], [f"r{i + 1}" if i < 7 else "y"]))
    ends = [[value(name, ["n", 6000, 16])] for name in ("x", "y")]
    model = build(nodes, *ends, weights)
    x = normal([8, 6000, 16], 2)
    objective = Objective.of(model, "relative-l2", listed([run(model, {"x": x[:1]})]), 0)
    whole = collection(model, x, objective, repeats=1, batch=1)
    small = replace(whole, options=options(memory=2**24))
    assert (len(list(whole.groups())), len(list(small.groups()))) == (1, 4)
    assert passes([small]) == 4 * passes([whole])
    (_, expected), (_, got) = scored(whole), scored(small)
    assert [c.site for c in got] == [c.site for c in expected] == [s.id for s in whole.inventory.sites]
    for one, other in zip(expected, got, strict=True):
        assert [(o.ranks, o.cost) for o in one.options] == [(o.ranks, o.cost) for o in other.options]
        whole_losses, losses = (np.array([o.loss for o in each.options]) for each in (one, other))
        large = whole_losses > 1e-5 * whole_losses.max()
        np.testing.assert_allclose(losses[large], whole_losses[large], rtol=1e-4)
        # a rank below the full one may lose next to nothing: what float32 rounds off all of it is as large
        np.testing.assert_allclose(losses[~large], whole_losses[~large], rtol=0, atol=1e-8 * whole_losses.max())
        assert large.sum() >= 8


def test_a_kernel_has_both_sides_and_a_matrix_the_smaller():
    found = found_in(shared())
    assert [sides_of(site) for site in found.sites] == [("out", "in")] * 2
    for shape, side in (((4, 8), "out"), ((8, 4), "in")):
        assert sides_of(replace(found.sites[0], shape=shape)) == (side,)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("after", ["Identity", "Tanh"])
def test_a_sample_that_overflows_at_a_site_is_left_out_alone(after: str, batch: int):
    """Its gradient may well be finite: noise at the output, and nothing in between. Its neighbours stay."""
    nodes = [node("Exp", ["x"], ["e"]), node("MatMul", ["e", "W"], ["h"], "fc"), node(after, ["h"], ["y"])]
    model = build(nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], {"W": weight((8, 8), 1)})
    x = normal([32, 8], 2)
    x[[5, 27]] = 1000
    one = collection(model, x, Exhaustive("y", unit), repeats=1, batch=batch)
    joint, (curve,) = scored(one)
    assert joint.scored["h", "svd"].tails.shape[0] == 30
    assert joint.scored["h", "svd"].first == 15
    assert (joint.broken, joint.uneven) == ({5, 27}, False)
    rest = collection(model, x, Exhaustive("y", unit), repeats=1, batch=1)
    np.testing.assert_allclose(
        joint_scores(rest).scored["h", "svd"].tails, joint.scored["h", "svd"].tails, rtol=1e-4, atol=1e-5
    )
    assert all(np.isfinite(option.loss) and option.loss > 0 for option in curve.options[1:])


@pytest.mark.parametrize("batch", [1, 2])
def test_runs_at_a_time_change_nothing(batch: int):
    one = collection(mlp([12, 16, WIDE], [None, None], 3), normal([12, 12], 4), Exhaustive("y", unit), repeats=WIDE,
                     batch=batch)  # fmt: skip
    alone, together = (
        joint_scores(replace(one, options=options(threads=2), concurrent_batches=concurrent_batches))
        for concurrent_batches in (1, 2)
    )
    assert alone.scored.keys() == together.scored.keys()
    for key, one_by_one in alone.scored.items():
        np.testing.assert_array_equal(one_by_one.tails, together.scored[key].tails)
        np.testing.assert_array_equal(one_by_one.kron, together.scored[key].kron)


def test_what_is_run_at_a_time_counts_as_memory():
    one = collection(mlp([12, 16, WIDE], [None, None], 3), normal([12, 12], 4), Exhaustive("y", unit), repeats=WIDE,
                     batch=8)  # fmt: skip
    assert (one.fitted_to_memory().batch, one.fitted_to_memory().concurrent_batches) == (4, 2)
    site = one.inventory.sites[0]
    assert replace(one, batch=2, concurrent_batches=2).needs[site.id] == replace(one, batch=4).needs[site.id]
    seen = replace(one.observed, bytes=dict.fromkeys(one.observed.bytes, 10**9))
    tight = replace(one, observed=seen).fitted_to_memory()
    assert (tight.batch, tight.concurrent_batches) == (1, 1)
