"""calibration: one pass that streams, groups under a memory bound, and refuses what is not finite."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import (
    build,
    convnet,
    feeds_of,
    found_in,
    linear,
    mlp,
    node,
    normal,
    observed,
    options,
    run,
    value,
    weight,
)

from onnx_lowrank.collection import input_moments as collect
from onnx_lowrank.collection import overridable, passes, stream_moments
from onnx_lowrank.graph.editing import expose
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner


def test_exposing_adds_outputs_to_a_copy():
    model = mlp([4, 6, 2], [None, None], 1)
    before = model.SerializeToString()
    runner = Runner(expose(model, ["r0", "h0", "r0", "y"]), runtime=Runtime(provider="cpu"))
    assert runner.names == ("y", "r0", "h0")
    assert model.SerializeToString() == before


@pytest.mark.parametrize("make", [lambda: mlp([4, 6, 2], [None, None], 1), lambda: convnet([3, 5], [None], 2, 1)])
@pytest.mark.parametrize("ir", [3, 8])
def test_an_overridable_weight_may_be_left_out_or_given(make, ir: int):
    model = make()
    if ir == 3:
        model.ir_version = 3
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
        )
    site = found_in(model).sites[0]
    x = normal([2, *[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]], 1)
    runner = Runner(overridable(model, [site.weight]), runtime=Runtime(provider="cpu"))
    np.testing.assert_allclose(runner.run({"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-6, atol=1e-7)
    zero = runner.run({"x": x, site.weight: np.zeros(site.shape, np.float32)})["y"]
    assert not np.allclose(zero, run(model, {"x": x})["y"])


def test_observed_places_are_means_over_samples_of_any_length():
    nodes = [node("MatMul", ["x", "W"], ["h"], "op"), node("ReduceSum", ["h"], ["y"], keepdims=0)]
    model = build(nodes, [value("x", [1, "t", 6])], [value("y", [])], {"W": weight((6, 5), 1)})
    feeds = [{"x": normal([1, length, 6], length)} for length in (2, 4, 9)]
    seen = observed(model, found_in(model), feeds)
    assert seen.positions["h"][0].calls == 5.0
    assert seen.macs == 5.0 * 30
    assert seen.bytes["h"] == 4 * 9 * (6 + 5)


def test_sites_are_grouped_under_the_memory_bound(monkeypatch: pytest.MonkeyPatch):
    model = mlp([8, 8, 8, 8], [None] * 3, 1)
    found, feeds = found_in(model), feeds_of(normal([5, 8], 1))
    seen = observed(model, found, feeds)
    together = [(s.id, a.A) for s, a, _ in stream_moments(model, found, seen, feeds, feeds[:2], options(), batch=2)]
    assert passes(found, seen, 2) == 1
    monkeypatch.setattr(collect, "ACTIVATION_BYTES", 1)
    assert passes(found, seen, 2) == 3
    done: list[int] = []
    apart = [
        (s.id, a.A)
        for s, a, _ in stream_moments(model, found, seen, feeds, feeds[:2], options(), batch=2, progress=done.append)
    ]
    assert sum(done) == 3 * (5 + 2), "progress counts what `passes` announced"
    assert [name for name, _ in apart] == [name for name, _ in together]
    for (_, one), (_, other) in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_patches_are_bounded(monkeypatch: pytest.MonkeyPatch):
    model = convnet([3, 8], [None], 4, 5)
    found, feeds = found_in(model), feeds_of(normal([4, 3, 8, 8], 1))
    monkeypatch.setattr(collect, "PATCH_MOST", 50)
    (moments, _) = next(
        (a, b) for s, a, b in stream_moments(model, found, observed(model, found, feeds), feeds, feeds, options())
        if s.op == "Conv"
    )  # fmt: skip
    assert (len(moments.patches), moments.positions, moments.room) == (50, 4 * 64, 50)
    assert len(np.unique(moments.keys)) == 50


def logarithm() -> onnx.ModelProto:
    nodes = [node("Log", ["x"], ["l"]), node("MatMul", ["l", "W"], ["y"], "fc")]
    return build(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], {"W": weight((4, 4), 1)})


@pytest.mark.parametrize("batch", [1, 4])
def test_samples_that_are_not_finite_at_a_site_are_left_out_there(batch: int):
    model, x = logarithm(), np.abs(normal([8, 4], 1)) + 0.1
    found, sound = found_in(model), feeds_of(x)
    x = x.copy()
    x[[2, 5]] = -1
    seen = observed(model, found, sound)
    ((_, fit, score),) = stream_moments(model, found, seen, feeds_of(x), sound[:1], options(), batch=batch)
    whole = [feed for i, feed in enumerate(sound) if i not in (2, 5)]
    ((_, expected, _),) = stream_moments(model, found, seen, whole, sound[:1], options(), batch=1)
    assert (fit.samples, score.samples) == (6, 1)
    np.testing.assert_allclose(fit.A, expected.A, rtol=1e-12, atol=0)


def test_a_site_that_no_sample_is_finite_at_has_no_moments():
    model = logarithm()
    found, feeds = found_in(model), feeds_of(-np.ones((2, 4), np.float32))
    (row,) = stream_moments(model, found, observed(model, found, feeds), feeds, feeds, options())
    assert row[1:] == (None, None)


def test_a_model_whose_only_site_reads_the_input():
    model = linear(weight((4, 3), 1))
    found, feeds = found_in(model), feeds_of(normal([3, 4], 1))
    (row,) = stream_moments(model, found, observed(model, found, feeds), feeds, feeds, options())
    assert row[1].positions == 3
