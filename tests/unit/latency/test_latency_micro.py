"""A micro-model computes what the node does, on what the node is given, with a weight of its own in every copy."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from builders import build, constant, node, normal, plan_of, run, settled_chain, shared_inputs, value, weight

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.editing import expose
from onnx_lowrank.latency.micro_model import (
    COLD,
    DATA,
    FIRST,
    MOST_COPIES,
    Scene,
    chain_model,
    copies_of,
    dense_model,
)
from onnx_lowrank.latency.node_inputs import capture, has_subnormals, typical
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes import SCHEMES, factor_shared, form_of
from onnx_lowrank.sensitivity.decompose import decompose_plain
from onnx_lowrank.types import SHARED, Form
from onnx_lowrank.weights.find import find_sites

OPTIONS = Options(runtime=Runtime(provider="cpu", threads=1), rank_multiple=1)


def matmul():
    weights = {"W": weight((12, 16), 0)}
    nodes = [node("Relu", ["x"], ["r"]), node("MatMul", ["r", "W"], ["y"], "fc")]
    return build(nodes, [value("x", [2, 3, 12])], [value("y", [2, 3, 16])], weights), normal([2, 3, 12], 1)


def gemm():
    weights = {"W": weight((16, 12), 0), "b": normal([16], 2)}
    nodes = [node("Relu", ["x"], ["r"]), node("Gemm", ["r", "W", "b"], ["y"], "fc", transB=1, alpha=0.5)]
    return build(nodes, [value("x", [5, 12])], [value("y", [5, 16])], weights), normal([5, 12], 1)


def conv():
    weights = {"W": weight((10, 8, 3, 3), 0), "b": normal([10], 2)}
    attributes = {"pads": [1, 0, 1, 0], "strides": [2, 1], "dilations": [1, 2]}
    nodes = [node("Relu", ["x"], ["r"]), node("Conv", ["r", "W", "b"], ["y"], "c", **attributes)]
    return build(nodes, [value("x", [1, 8, 9, 9])], [value("y", [1, 10, 5, 5])], weights), normal([1, 8, 9, 9], 1)


def grouped():
    weights = {"W": weight((16, 8, 3, 3), 0)}
    nodes = [node("Relu", ["x"], ["r"]), node("Conv", ["r", "W"], ["y"], "c", pads=[1, 1, 1, 1], group=2)]
    return build(nodes, [value("x", [1, 16, 5, 5])], [value("y", [1, 16, 5, 5])], weights), normal([1, 16, 5, 5], 1)


def identity():
    """The weight in a Constant node, behind an Identity."""
    nodes = [
        constant("stored", weight((12, 16), 0)),
        node("Identity", ["stored"], ["W"]),
        node("Relu", ["x"], ["r"]),
        node("MatMul", ["r", "W"], ["y"], "fc"),
    ]
    return build(nodes, [value("x", [2, 12])], [value("y", [2, 16])], {}), normal([2, 12], 1)


def scene_of(model, x):
    inventory = find_sites(model, multiple=1)
    (site,) = inventory.sites
    captured = capture(model, inventory, {"x": x}, OPTIONS.runtime)
    return inventory, site, Scene.of(model, inventory.calls[site.id], [site.weight], captured)


def factors_of(found, site):
    """Return every scheme's factors, and the ranks in the middle of those that save."""
    tried = [(scheme, scheme.ranks(site.shape, 1, site.groups)) for scheme in SCHEMES]
    plain = decompose_plain(found, 1).factors
    return [(plain[site.id, scheme.name], ranks[len(ranks) // 2]) for scheme, ranks in tried if ranks]


@pytest.mark.parametrize("make", [matmul, gemm, conv, grouped, identity])
def test_the_first_copy_is_the_node_itself(make):
    model, x = make()
    _, _, scene = scene_of(model, x)
    got = run(dense_model(scene), {DATA: scene.input})[FIRST]
    np.testing.assert_allclose(got, run(model, {"x": x})["y"], rtol=1e-5, atol=1e-6)
    assert scene.copies > 1
    np.testing.assert_array_equal(scene.input, np.maximum(x, 0))


@pytest.mark.parametrize("make", [matmul, gemm, conv, grouped, identity])
def test_the_first_copy_of_a_chain_is_the_rewritten_model(make):
    model, x = make()
    found, site, scene = scene_of(model, x)
    made = factors_of(found, site)
    assert made
    for factors, ranks in made:
        micro = chain_model(scene, [factors.chain(ranks)], Form(factors.scheme))
        outputs = run(micro, {DATA: scene.input})
        plan = plan_of({site.id: (factors.scheme, ranks)}, found)
        whole = rewrite(model, found, plan, {(site.id, factors.scheme): factors})
        np.testing.assert_allclose(outputs[FIRST], run(whole, {"x": x})["y"], rtol=1e-5, atol=1e-6)
        assert len(outputs) == scene.copies
        assert len(micro.graph.node) == scene.copies * len(factors.chain(ranks).stages)
        stored = settled_chain(factors.chain(ranks), site.identity)
        without = chain_model(scene, [stored], Form(factors.scheme))  # as it is written where an identity is not stored
        np.testing.assert_allclose(run(without, {DATA: scene.input})[FIRST], outputs[FIRST], rtol=1e-4, atol=1e-5)
        spared = sum(s.weight.size for s in factors.chain(ranks).stages) - sum(s.weight.size for s in stored.stages)
        assert spared or not form_of(factors.scheme, ranks, site).interpolative
        sizes = [sum(math.prod(t.dims) for t in made.graph.initializer if re.search(r"\.lowrank\d$", t.name))
                 for made in (micro, without)]  # fmt: skip
        assert sizes[0] - sizes[1] == scene.copies * spared


@pytest.mark.parametrize("make", [matmul, conv])
def test_no_two_copies_share_a_weight(make):
    """Of equal weights onnxruntime keeps one, which then stays in the cache."""
    model, x = make()
    found, site, scene = scene_of(model, x)
    factors, ranks = factors_of(found, site)[0]
    for micro in (dense_model(scene), chain_model(scene, [factors.chain(ranks)], Form(factors.scheme))):
        tensors = [t for t in micro.graph.initializer if not t.name.startswith("shared.")]
        contents = {(tuple(t.dims), t.raw_data) for t in tensors}
        assert len(contents) == len(tensors) >= scene.copies > 1


def test_a_node_that_is_not_in_the_main_graph_is_refused():
    model, x = matmul()
    inventory = find_sites(model, multiple=1)
    (site,) = inventory.sites
    captured = capture(model, inventory, {"x": x}, OPTIONS.runtime)
    call = replace(inventory.calls[site.id][0], output="elsewhere")
    with pytest.raises(ModelError, match="no node of the main graph"):
        Scene.of(model, [call], [site.weight], captured)


def test_copies_come_to_the_size_of_the_model():
    assert copies_of(100, 1000) == 10
    assert copies_of(300, 1000) == 4
    assert copies_of(1, 10**9) == MOST_COPIES
    assert copies_of(2 * COLD, 10**9) == 1
    assert copies_of(COLD // 2, 10**12) == 2


def test_the_sample_of_median_size_is_typical():
    feeds = [{"x": np.zeros((1, n))} for n in (9, 3, 5, 4, 5)]
    assert typical(feeds) is feeds[2]
    assert typical(feeds[:1]) is feeds[0]


def test_subnormal_numbers_crawl():
    assert has_subnormals(np.float32([1.0, 1e-40]))
    assert not has_subnormals(np.float32([1.0, 0.0, 1e-37]))
    assert not has_subnormals(np.int64([0, 1]))
    assert not has_subnormals(np.float64([1e-40]))


def test_what_a_node_is_given_is_captured():
    model, x = conv()
    inventory = find_sites(model, multiple=1)
    captured = capture(model, inventory, {"x": x}, OPTIONS.runtime)
    np.testing.assert_array_equal(captured["r"], run(expose(model, ["r"]), {"x": x})["r"])
    assert captured["W"].shape == (10, 8, 3, 3)


def test_siblings_are_copied_together_and_get_one_first_stage():
    model, x = shared_inputs(16, [16, 24], rank=None, together=False), normal([3, 16], 1)
    inventory = find_sites(model, multiple=1)
    (shared,) = inventory.shared_inputs
    sites = {site.id: site for site in inventory.sites}
    captured = capture(model, inventory, {"x": x}, OPTIONS.runtime)
    calls = [inventory.calls[member][0] for member in shared.members]
    scene = Scene.of(model, calls, [sites[member].weight for member in shared.members], captured)
    assert scene.copies > 1
    outputs = run(dense_model(scene), {DATA: scene.input})
    assert len(outputs) == 2 * scene.copies
    pairs = factor_shared([inventory.weight(sites[member]) for member in shared.members], None, None, (16,))
    micro = chain_model(scene, [pair.chain((16,)) for pair in pairs], Form(SHARED))
    assert len(micro.graph.node) == 3 * scene.copies, "one first stage and two of their own"
    for name, array in run(micro, {DATA: scene.input}).items():
        if name.startswith("output0."):  # the weights of other copies are moved as a whole, their factors each
            np.testing.assert_allclose(array, outputs[name], rtol=1e-4, atol=1e-5)
    tensors = [t for t in micro.graph.initializer if not t.name.startswith("shared.")]
    assert len({(tuple(t.dims), t.raw_data) for t in tensors}) == len(tensors) == 3 * scene.copies


def depthwise():
    weights = {"W": weight((16, 1, 3, 3), 0), "b": normal([16], 2)}
    nodes = [node("Relu", ["x"], ["r"]), node("Conv", ["r", "W", "b"], ["y"], "c", pads=[1, 1, 1, 1], group=16)]
    return build(nodes, [value("x", [1, 16, 5, 5])], [value("y", [1, 16, 5, 5])], weights), normal([1, 16, 5, 5], 1)


@pytest.mark.parametrize("make", [matmul, gemm, conv, grouped, depthwise])
@pytest.mark.parametrize("whole", [True, False])
def test_in_integers_a_convolution_is_among_neighbours_and_a_product_by_itself(make, whole):
    """A convolution gives integers, and all copies read one rounded input; each product rounds an input of its own."""
    model, x = make()
    inventory = find_sites(model, multiple=1, rigid=True)
    (site,) = inventory.sites
    captured = capture(model, inventory, {"x": x}, OPTIONS.runtime)
    scene = Scene.of(model, inventory.calls[site.id], [site.weight], captured)
    (number,) = inventory.arithmetic(site)
    if whole:
        form, chain = Form(storage=number.name), inventory.whole(site)
    elif site.rigid:
        return
    else:
        factors, ranks = factors_of(inventory, site)[0]
        form, chain = Form(factors.scheme, storage=number.name), factors.chain(ranks)
    micro = chain_model(scene, [chain], form)
    kinds = [each.op_type for each in micro.graph.node]
    stages = scene.copies * len(chain.stages)
    feed = {each.name: scene.input for each in micro.graph.input}
    outputs = run(micro, feed)
    if number.activations == "static":
        assert list(feed) == [DATA]
        assert kinds.count("Conv") == stages
        assert kinds.count("QuantizeLinear") == 1 + stages
        assert outputs[FIRST].dtype == np.uint8
    else:
        assert len(feed) == scene.copies
        assert kinds.count("DynamicQuantizeLinear") == kinds.count("MatMulInteger") == stages
        exact = run(chain_model(scene, [chain], replace(form, storage="own")) if not whole else dense_model(scene),
                    {DATA: scene.input})  # fmt: skip
        assert np.abs(outputs[FIRST] - exact[FIRST]).max() < 0.03 * np.abs(exact[FIRST]).max()


@pytest.mark.parametrize(("rounds", "gives"), [(False, False), (True, False), (False, True), (True, True)])
def test_at_edges_a_convolution_rounds_what_it_reads_and_gives_numbers(rounds, gives):
    model, x = conv()
    inventory = find_sites(model, multiple=1, rigid=True)
    (site,) = inventory.sites
    captured = capture(model, inventory, {"x": x}, OPTIONS.runtime)
    scene = Scene.of(model, inventory.calls[site.id], [site.weight], captured, (rounds, gives))
    (number,) = inventory.arithmetic(site)
    micro = chain_model(scene, [inventory.whole(site)], Form(storage=number.name))
    kinds = [each.op_type for each in micro.graph.node]
    assert len(micro.graph.input) == (scene.copies if rounds else 1)
    assert kinds.count("QuantizeLinear") == scene.copies + len(micro.graph.input)
    outputs = run(micro, {each.name: scene.input for each in micro.graph.input})
    assert outputs[FIRST].dtype == (np.float32 if gives else np.uint8)
