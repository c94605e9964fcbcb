"""Transposed convolutions: which are refused, what a chain looks like, and the whole way through optimize."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import ANY, build, factored, found_in, normal, ops, options, quantised, run, the_site, value, weight
from builders import node as make

from onnx_lowrank.goals import Compact, Gate
from onnx_lowrank.ops import call_of, write_chain
from onnx_lowrank.pipeline import optimize
from onnx_lowrank.types import Stage, Why


def one(shape: tuple[int, ...], **attributes: object) -> onnx.ModelProto:
    """x (1, in, 3 …) -> one ConvTranspose with a kernel stored as `shape`, (in, out / group, …)."""
    nodes = [make("ConvTranspose", ["x", "W"], ["y"], "up", **attributes)]
    x = [1, shape[0], *[3] * (len(shape) - 2)]
    return build(nodes, [value("x", x)], [value("y", [ANY] * len(shape))], {"W": weight(shape, 1)})


REFUSED = {
    "depthwise": (one((8, 1, 3, 3), group=8), Why.DEPTHWISE, "8 groups of one channel"),
    "one channel to several": (one((8, 4, 3, 3), group=8), Why.DEPTHWISE, "8 groups of one channel"),
    "several channels to one": (one((8, 1, 3, 3), group=2), Why.DEPTHWISE, "2 groups of one channel"),
    "strided 1×1": (
        one((8, 8, 1, 1), strides=[2, 2]), Why.OPERATOR, "1×1 ConvTranspose with fewer or more outputs than inputs",
    ),
    "padded 1×1": (
        one((8, 8, 1), pads=[1, 0]), Why.OPERATOR, "1×1 ConvTranspose with fewer or more outputs than inputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_kernel_that_is_left_alone_has_its_reason(name: str):
    model, why, detail = REFUSED[name]
    found = found_in(model)
    assert found.sites == ()
    assert [(s.why, s.detail) for s in found.skips] == [(why, detail)]


@pytest.mark.parametrize(
    ("scheme", "kinds"),
    [("kernel-first", ["ConvTranspose", "Conv"]), ("kernel-last", ["Conv", "ConvTranspose"])],
)
def test_only_the_stage_with_the_kernel_is_transposed(scheme: str, kinds: list[str]):
    model = one((6, 8, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    _, site = the_site(model)
    assert site.shape == (8, 6, 3, 3)
    changed = factored(model, {"y": (scheme, 4)})
    assert ops(changed) == kinds
    kernel = next(n for n in changed.graph.node if n.op_type == "ConvTranspose")
    attributes = {a.name: list(a.ints) for a in kernel.attribute if a.name != "group"}
    given = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
    assert attributes == given
    onnx.checker.check_model(changed, full_check=True)


def test_a_stage_that_owns_one_axis_leaves_the_other_as_it_is():
    """What a separable scheme asks for."""
    node = one((6, 8, 3, 3), strides=[2, 3], pads=[1, 0, 0, 1], dilations=[1, 2], output_padding=[1, 2]).graph.node[0]
    stage = Stage(weight((4, 6, 3, 1), 1), (0,))
    written = write_chain(call_of(node, 1, 17), [(stage, "P")], lambda hint: hint)
    got = {a.name: onnx.helper.get_attribute_value(a) for a in written.nodes[0].attribute}
    assert got == {
        "kernel_shape": [3, 1], "group": 1, "strides": [2, 1], "dilations": [1, 1], "output_padding": [1, 0],
        "pads": [1, 0, 0, 0],
    }  # fmt: skip


def test_a_shape_cannot_be_dealt_to_stages():
    node = one((6, 8, 3, 3), output_shape=[5, 5]).graph.node[0]
    stage = Stage(weight((4, 6, 3, 1), 1), (0,))
    with pytest.raises(ValueError, match="output_shape cannot be divided among stages"):
        write_chain(call_of(node, 1, 17), [(stage, "P")], lambda hint: hint)


def decoder(rank: int) -> onnx.ModelProto:
    """(n, 4, 6, 6) -> Conv, Relu, ConvTranspose to (n, 6, 12, 12) with a kernel of that rank, Tanh."""
    nodes = [
        make("Conv", ["x", "E"], ["e"], "down", pads=[1, 1, 1, 1]),
        make("Relu", ["e"], ["r"]),
        make("ConvTranspose", ["r", "D", "b"], ["d"], "up", strides=[2, 2], pads=[1, 1, 1, 1]),
        make("Tanh", ["d"], ["y"]),
    ]
    D = np.ascontiguousarray(weight((8, 12, 4, 4), 2, rank=rank).swapaxes(0, 1))
    weights = {"E": weight((12, 4, 3, 3), 1), "D": D, "b": normal([8], 3)}
    return build(nodes, [value("x", ["n", 4, 6, 6])], [value("y", ["n", 8, 12, 12])], weights)


@pytest.mark.parametrize("sensitivity", ["joint", "inputs"])
def test_optimize_finds_the_rank_of_a_decoder(sensitivity: str):
    model, x = decoder(3), normal([48, 4, 6, 6], 1)
    goal = Compact(gate=Gate(max_drop=1e-4, observed=True))
    result = optimize(model, {"x": x}, goal, options(metric="relative-l2", sensitivity=sensitivity))
    assert result, result.reason
    ranks = {c.weight: (c.option.scheme, c.option.ranks) for c in result.plan.factored}
    assert ranks["D"] == ("kernel-first", (3,))
    np.testing.assert_allclose(run(result.model, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize(("scheme", "rank"), [("kernel-first", 8), ("kernel-last", 6)])
def test_integers_have_their_scales_where_the_stage_has_its_channels(axis: int | None, scheme: str, rank: int):
    """At full rank what remains is the rounding to 8 bits: a few hundredths."""
    model = quantised(one((6, 8, 3, 3), strides=[2, 2]), {"W": axis})
    changed = factored(model, {"y": (scheme, rank)})
    x = normal([1, 6, 3, 3], 2)
    expected, got = run(model, {"x": x})["y"], run(changed, {"x": x})["y"]
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_groups_that_share_scales_of_channels_are_left_alone(axis: int):
    found = found_in(quantised(one((6, 4, 3, 3), group=2), {"W": axis}))
    assert found.sites == ()
    assert "W" in {skip.weight for skip in found.skips if skip.why is Why.QUANTISED}


@pytest.mark.parametrize(
    ("scheme", "shapes"),
    [("kernel-first", [(12, 3, 3, 3), (8, 3, 1, 1)]), ("kernel-last", [(6, 6, 1, 1), (6, 4, 3, 3)])],
)
def test_every_group_has_factors_of_its_own(scheme: str, shapes: list[tuple[int, ...]]):
    model = one((12, 4, 3, 3), group=2, strides=[2, 2])
    _, site = the_site(model)
    assert (site.shape, site.groups) == ((8, 6, 3, 3), 2)
    changed = factored(model, {"y": (scheme, 3)})
    assert [tuple(t.dims) for t in changed.graph.initializer] == shapes
    groups = [a.i for n in changed.graph.node for a in n.attribute if a.name == "group"]
    assert groups == [2, 2]
