"""Tables tied to an output layer: which ones, what is collected of them, and the whole way through optimize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import (
    ANY,
    build,
    elements,
    factored,
    feeds_of,
    found_in,
    moments_of,
    node,
    normal,
    ops,
    options,
    quantised,
    run,
    settled_chain,
    value,
    weight,
)
from onnx import TensorProto
from scipy.stats import spearmanr

from onnx_lowrank.collection import overridable
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.latency.micro_model import Scene, chain_model
from onnx_lowrank.latency.node_inputs import capture
from onnx_lowrank.numerics.kronecker_metric import SideMoments, bases, in_metric, kronecker
from onnx_lowrank.options import Runtime
from onnx_lowrank.pipeline import optimize
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.progress import Silent
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples
from onnx_lowrank.schemes import by_name
from onnx_lowrank.sensitivity.measure import calibrate, kind_of
from onnx_lowrank.sensitivity.substitution import stored_weight
from onnx_lowrank.types import Array, Cost, Form, Option, Why

WORDS, WIDTH, LENGTH = 96, 24, 6


def falling(seed: int) -> Array:
    """Return a table whose spectrum falls by a quarter from one direction to the next."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))
    return (3 * rng.standard_normal((WORDS, WIDTH)) * 0.75 ** np.arange(WIDTH) @ turn).astype(np.float32)


def language_model(E: Array, *, stored: str = "E") -> onnx.ModelProto:
    """Words -> embedding, a layer, the mean over what came before, and the same table for the next word's chances."""
    past = (np.tril(np.ones((LENGTH, LENGTH))) / np.arange(1, LENGTH + 1)[:, None]).astype(np.float32)
    first = "T" if stored == "E" else "E"
    nodes = [
        node("Transpose", [stored], [first], "turn", perm=[1, 0]),
        node("Gather", ["E", "x"], ["rows"], "embed"),
        node("MatMul", ["rows", "M"], ["m"], "mix"),
        node("Tanh", ["m"], ["t"]),
        node("MatMul", ["past", "t"], ["s"], "look back"),
        node("Add", ["s", "rows"], ["h"]),
        node("MatMul", ["h", "T"], ["logits"], "head"),
        node("Softmax", ["logits"], ["y"], axis=-1),
    ]
    weights = {stored: E if stored == "E" else np.ascontiguousarray(E.T), "M": weight((WIDTH, WIDTH), 2), "past": past}
    ends = [value("x", ["n", LENGTH], TensorProto.INT64)], [value("y", ["n", LENGTH, WORDS])]
    return build(nodes, *ends, weights)


def texts(count: int, seed: int) -> Array:
    """Return words with the frequencies that words have (Zipf)."""
    chances = 1 / np.arange(1, WORDS + 1)
    return np.random.default_rng(seed).choice(WORDS, (count, LENGTH), p=chances / chances.sum())


def test_a_tied_table_is_one_site_of_both_nodes():
    found = found_in(language_model(falling(1)))
    site = next(site for site in found.sites if site.weight == "E")
    assert (site.id, site.shape, site.sharers) == ("rows", (WIDTH, WORDS), ("rows", "logits"))
    assert [call.transposed for call in found.calls["rows"]] == [False, True]
    assert "E" not in {skip.weight for skip in found.skips}


@pytest.mark.parametrize("stored", ["E", "T"])
def test_the_factors_are_stored_once_and_the_file_is_as_large_as_they_are(stored: str):
    model = language_model(falling(1), stored=stored)
    changed = factored(model, {"rows": ("svd", 8)})
    tensors = {t.name: list(t.dims) for t in changed.graph.initializer}
    assert tensors == {
        "M": [WIDTH, WIDTH],
        "past": [LENGTH, LENGTH],
        f"{stored}.lowrank0": [WORDS, 8],
        f"{stored}.lowrank1": [8, WIDTH],
    }
    saved = 4 * (WORDS * WIDTH - 8 * (WORDS + WIDTH))
    assert model.ByteSize() - changed.ByteSize() == pytest.approx(saved, abs=600)  # of nodes and names
    head = ["Transpose", "Transpose", "MatMul", "MatMul", "Softmax"]
    assert ops(changed) == ["Gather", "MatMul", "MatMul", "Tanh", "MatMul", "Add", *head]


def test_two_output_layers_and_two_lookups_share_the_factors():
    nodes = [
        node("Gather", ["E", "x"], ["one"], "first"),
        node("Gather", ["E", "z"], ["two"], "second"),
        node("Add", ["one", "two"], ["h"]),
        node("Gemm", ["h", "E"], ["y"], "head", transB=1),
        node("Gemm", ["one", "E", "b"], ["w"], "other head", transB=1, alpha=0.5),
    ]
    ends = [value(name, ["n"], TensorProto.INT64) for name in "xz"], [value(name, ["n", WORDS]) for name in "yw"]
    model = build(nodes, *ends, {"E": falling(1), "b": normal([WORDS], 2)})
    (site,) = found_in(model).sites
    assert site.sharers == ("one", "two", "y", "w")
    changed = factored(model, {"one": ("svd", WIDTH)})
    assert sorted(t.name for t in changed.graph.initializer) == ["E.lowrank0", "E.lowrank1", "b"]
    feed = {"x": np.array([1, 5]), "z": np.array([7, -1])}
    for name, expected in run(model, feed).items():
        np.testing.assert_allclose(run(changed, feed)[name], expected, rtol=1e-4, atol=1e-4)


def uses(*heads: onnx.NodeProto) -> onnx.ModelProto:
    nodes = [node("Gather", ["E", "x"], ["h"], "embed"), *heads]
    ends = [value("x", [WIDTH], TensorProto.INT64)], [value("y", [ANY] * 2)]
    return build(nodes, *ends, {"E": falling(1)})


TURN = node("Transpose", ["E"], ["T"], perm=[1, 0])
UNTIED = {
    "soft lookup": (
        [node("Softmax", ["h"], ["s"]), node("Gemm", ["s", "E"], ["y"], transA=1)],
        "an embedding table that another layer multiplies by",
    ),
    "turned twice": ([TURN, node("Gemm", ["h", "T"], ["y"], transB=1)], "its nodes read it in different forms"),
    "both lookups": ([TURN, node("Gather", ["T", "x"], ["y"])], "its nodes read it in different forms"),
    "cast between": (
        [node("Cast", ["E"], ["C"], to=TensorProto.FLOAT16), node("Cast", ["h"], ["g"], to=TensorProto.FLOAT16),
         node("Gemm", ["g", "C"], ["z"], transB=1), node("Cast", ["z"], ["y"], to=TensorProto.FLOAT)],
        "its nodes read it in different forms",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(UNTIED))
def test_other_uses_of_a_table_are_refused(name: str):
    heads, detail = UNTIED[name]
    found = found_in(uses(*heads))
    assert found.sites == ()
    assert [(s.weight, s.why, s.detail) for s in found.skips] == [("E", Why.SHARED, detail)]


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_table_of_integers_is_quantised_again(axis: int | None):
    """What remains is the rounding of both factors to 8 bits: a few hundredths."""
    model = quantised(language_model(falling(1)), {"E": axis})
    site = next(site for site in found_in(model).sites if site.weight == "E")
    changed = factored(model, {site.id: ("svd", WIDTH)})
    kinds = {t.name: t.data_type for t in changed.graph.initializer if "lowrank" in t.name and "." not in t.name[10:]}
    assert kinds == {"E.lowrank0": TensorProto.INT8, "E.lowrank1": TensorProto.INT8}
    x = texts(20, 3)
    np.testing.assert_allclose(run(changed, {"x": x})["y"], run(model, {"x": x})["y"], rtol=0, atol=0.15)


def some(seed: int, count: int) -> SideMoments:
    z, e = normal([count, 8], seed), normal([count, 8], seed + 1) * 0.7 ** np.arange(8)
    return SideMoments(z.T.astype(float) @ z, e.T.astype(float) @ e, count, count)


def test_moments_of_both_ways_add_and_go_away_again():
    both, other = replace(some(1, 20), transposed=some(3, 30)), replace(some(5, 40), transposed=some(7, 50))
    total = both + other
    assert total.transposed is not None
    assert other.transposed is not None
    assert (total.positions, total.transposed.positions) == (60, 80)
    np.testing.assert_allclose((total - both).Z, other.Z, rtol=1e-9, atol=1e-9)
    rest = (total - both).transposed
    assert rest is not None
    np.testing.assert_allclose(rest.E, other.transposed.E, rtol=1e-9, atol=1e-9)


def test_a_way_that_nothing_takes_does_not_count():
    none = SideMoments(np.zeros((8, 8)), np.zeros((8, 8)), 0, 0)
    given, gram = some(1, 40), np.eye(8)
    expected = bases(given, "out", gram, 8, [1e-2])[0]
    for moments in (replace(given, transposed=none), replace(none, transposed=given)):
        (basis,) = bases(moments, "out", gram, 8, [1e-2])
        projections = (one.write[:, :3] @ one.read[:, :3].T for one in (basis, expected))
        np.testing.assert_allclose(*projections, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(kronecker(basis, moments), kronecker(expected, given), rtol=1e-6, atol=1e-12)
        assert not moments.empty
    assert replace(none, transposed=none).empty


def test_the_basis_of_both_ways_loses_less_than_that_of_either():
    """On what both lose together; moments of unlike size: gradients are small where activations are not."""
    small = some(11, 60)
    first = SideMoments(small.Z * 1e4, small.E * 1e-4, 60, 60)
    both = replace(first, transposed=some(21, 60))
    assert both.transposed is not None
    gram = np.eye(8)
    losses = [kronecker(bases(m, "out", gram, 8, [1e-9])[0], both)[1:7] for m in (both, first, both.transposed)]
    assert np.log(losses[0]).sum() < np.log(losses[1]).sum() - 0.1
    assert np.log(losses[0]).sum() < np.log(losses[2]).sum() - 0.1


def test_the_metric_of_the_inputs_takes_the_plain_weight_for_gradients():
    gram = np.diag(np.arange(1.0, 9.0))
    both = replace(some(1, 20), transposed=some(3, 30))
    inputs = in_metric(both, "out", gram, "inputs")
    assert inputs.transposed is not None
    assert both.transposed is not None
    np.testing.assert_array_equal(inputs.E, 20 * np.eye(8))
    np.testing.assert_array_equal(inputs.transposed.Z, 30 * gram)
    np.testing.assert_array_equal(inputs.transposed.E, both.transposed.E)
    assert in_metric(both, "out", gram, "weights").transposed is None


def collected(model: onnx.ModelProto, x: Array, names: Sequence[str]) -> list[Array]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    found = run(copy, {"x": x})
    return [found[name].reshape(-1, found[name].shape[-1]).astype(np.float64) for name in names]


def test_errors_without_gradients_are_those_of_both_outputs():
    """Half of what the lookup loses of its rows, half of what the output layer loses of its logits."""
    model, x = language_model(falling(1)), texts(40, 3)
    moments = moments_of(model, [{"x": x}])["rows"]
    rows, h = collected(model, x, ["rows", "h"])
    assert moments.H is not None
    assert moments.C is not None
    np.testing.assert_allclose(moments.H, h.T @ h, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moments.C, rows.T @ rows, rtol=1e-6, atol=1e-6)
    W, seen = falling(1).T.astype(np.float64), x.reshape(-1)
    for fit in (moments, None):
        factors = by_name("svd").factor(W, fit, moments, (WIDTH,))
        for rank in (2, 6, 12):
            lost = W - factors.dense((rank,))
            shares = ((lost[:, seen] ** 2).sum() / (rows**2).sum(), ((h @ lost) ** 2).sum() / ((h @ W) ** 2).sum())
            assert factors.error((rank,)) == pytest.approx(np.mean(shares), rel=1e-3)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_predicted_rise_is_the_measured_one(seed: int):
    """In the order of all ranks, on texts that nothing was fitted on; and where little is lost, in size.

    Above rather than below: what is predicted is that of a basis fitted on half of the texts.
    """
    model, chosen = language_model(falling(seed)), options()
    feeds = feeds_of(texts(384, 3))
    loaded, found = LoadedModel.of(model, chosen.runtime), found_in(model)
    samples = Samples(feeds, None, "the test", tuple(map(str, range(len(feeds)))))
    done = calibrate(loaded, samples, found, chosen, Silent(), kind_of(loaded, None, samples))
    assert done.joint is not None
    scored = done.joint.scored["rows", "svd"]
    site = next(site for site in found.sites if site.id == "rows")
    runner, x = Runner(overridable(model, ["E"]), runtime=Runtime(provider="cpu", threads=1)), texts(400, 9)
    p = np.maximum(runner.run({"x": x})["y"].astype(np.float64), 1e-30)
    measured = []
    for ranks in scored.ranks:
        E = stored_weight(found, site, scored.factors, Option(Form("svd", ranks), Cost()))
        q = np.maximum(runner.run({"x": x, "E": E})["y"].astype(np.float64), 1e-30)
        measured.append(float((p * np.log(p / q)).sum(-1).mean()))
    assert spearmanr(scored.rise, measured).statistic > 0.99
    fine = [i for i, loss in enumerate(measured) if 1e-5 < loss < 1e-3]
    assert len(fine) > 2
    for i in fine:
        assert 0.5 * measured[i] < scored.rise[i] < 3 * measured[i]


@pytest.mark.parametrize("sensitivity", ["joint", "inputs", "weights"])
def test_optimize_finds_the_rank_of_a_tied_table(sensitivity: str):
    E = weight((WORDS, WIDTH), 1, rank=5) * 8
    model = language_model(E)
    goal = Compact(gate=Gate(max_drop=1e-4, observed=True))
    result = optimize(model, {"x": texts(200, 3)}, goal, options(metric="relative-l2", sensitivity=sensitivity))
    assert result, result.reason
    assert {c.weight: c.option.ranks for c in result.plan.factored}["E"] == (5,)
    x = texts(20, 9)
    np.testing.assert_allclose(run(result.model, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-2, atol=1e-3)
    saved = {c.weight: site.parameters - c.option.cost.parameters for c in result.plan.factored
             for site in result.sites if site.id == c.site}  # fmt: skip
    assert saved["E"] == WORDS * WIDTH - 5 * (WORDS + WIDTH - 5)
    assert elements(model) - elements(result.model) == sum(saved.values())


@pytest.mark.parametrize("stored", ["E", "T"])
@pytest.mark.parametrize("more", [{"continuation": 2}, {"refit": True}])
def test_a_tied_table_through_the_other_switches(stored: str, more: dict[str, object]):
    model = language_model(falling(1), stored=stored)
    goal = Lossless(keep=0.5, gate=Gate(max_drop=0.9, observed=True))
    result = optimize(model, {"x": texts(200, 3)}, goal, options(metric="relative-l2", **more))
    assert result, result.reason
    assert stored in {c.weight for c in result.plan.factored}
    assert sorted(t.name for t in result.model.graph.initializer if t.name.startswith(stored)) == [
        f"{stored}.lowrank0",
        f"{stored}.lowrank1",
    ]


def test_both_nodes_of_a_tied_table_are_timed_on_their_own():
    """A micro-model of the output layer alone is a product like any other, of the same factors turned."""
    model, chosen = language_model(falling(1)), options()
    found, feed = found_in(model), {"x": texts(2, 3)}
    site = next(site for site in found.sites if site.id == "rows")
    chain = by_name("svd").factor(found.weight(site), None, None, (8,)).chain((8,))
    captured = capture(model, found, feed, chosen.runtime)
    scenes = [Scene.of(model, [call], ["E"], captured) for call in found.calls["rows"]]
    made = [chain_model(scene, [chain], Form("svd")) for scene in scenes]
    kinds = [[n.op_type for n in micro.graph.node][:2] for micro in made]
    assert kinds == [["Gather", "MatMul"], ["MatMul", "MatMul"]]
    shapes = [{tuple(t.dims) for t in micro.graph.initializer} for micro in made]
    assert shapes == [{(WORDS, 8), (8, WIDTH)}, {(WIDTH, 8), (8, WORDS)}]
    without = settled_chain(chain, site.identity)
    made = [chain_model(scene, [without], Form("svd")) for scene in scenes]
    shapes = [{tuple(t.dims) for t in micro.graph.initializer if t.data_type == TensorProto.FLOAT} for micro in made]
    assert shapes == [{(WORDS, 8), (8, WIDTH - 8)}, {(WIDTH - 8, 8), (8, WORDS)}], "an identity of both, stored by none"


def test_a_tied_table_inside_both_branches_of_an_if():
    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            node("Gather", ["E", "x"], [f"h{name}"], f"embed {name}"),
            node("Gemm", [f"h{name}", "E"], [f"y{name}"], f"head {name}", transB=1),
        ]
        return onnx.helper.make_graph(nodes, name, [], [value(f"y{name}", [ANY, ANY])])

    choice = node("If", ["c"], ["y"], "choice", then_branch=branch("a"), else_branch=branch("b"))
    ends = [value("x", ["n"], TensorProto.INT64), value("c", [], TensorProto.BOOL)], [value("y", [ANY, ANY])]
    model = build([choice], *ends, {"E": falling(1)})
    (site,) = found_in(model).sites
    changed = factored(model, {site.id: ("svd", WIDTH)})
    assert [t.name for t in changed.graph.initializer] == ["E.lowrank0", "E.lowrank1"]
    for way in (True, False):
        feed = {"x": np.array([1, 4, -2]), "c": np.array(way)}
        np.testing.assert_allclose(run(changed, feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-4)
