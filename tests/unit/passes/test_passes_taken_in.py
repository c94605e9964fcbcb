"""What stands around a convolution in integers goes into it, or stays where it is no part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from builders import build, constant, found_in, node, normal, run, value, weight

from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes import SCHEMES
from onnx_lowrank.types import Array, Choice, Cost, Form, Option, Plan
from onnx_lowrank.weights.inventory import RangeSamples

CPU = Runtime(provider="cpu", threads=1)
X = normal([2, 4, 6, 6], 1)
W = weight((5, 4, 3, 3), 2)
FIVE = normal([5], 3)


def checked(
    nodes: Sequence[onnx.NodeProto], tensors: dict[str, Array], *, outputs: Sequence[str] = ("y",)
) -> list[str]:
    """Return the operators of the model with its weights in integers, which computes what it did."""
    names = {name for each in nodes for name in each.input}
    kept = {name: array for name, array in ({"W": W} | tensors).items() if name in names}
    model = build(nodes, [value("x", ["n", 4, 6, 6])], [value(o, ["n", "c", "h", "w"]) for o in outputs], kept)
    found = replace(found_in(model), ranged=RangeSamples([{"x": X}], CPU))
    choices = [Choice(s.id, s.weight, Option(Form(storage="int8-static"), Cost())) for s in found.sites]
    made = rewrite(model, found, Plan(tuple(choices)), {})
    onnx.checker.check_model(made, full_check=True)
    got, expected = run(made, {"x": X}), run(model, {"x": X})
    for name in outputs:
        assert np.abs(got[name] - expected[name]).max() < 0.03 * np.abs(expected[name]).max()
    read = {name for each in made.graph.node for name in each.input}
    assert {tensor.name for tensor in made.graph.initializer} <= read
    return [each.op_type for each in made.graph.node if "uantize" not in each.op_type]


NORMALISED = {"g": FIVE, "h": normal([5], 4), "m": normal([5], 5), "v": np.abs(normal([5], 6)) + 0.1}


@pytest.mark.parametrize("bias", [False, True])
def test_a_normalisation_behind_it_is_in_its_scales_and_its_bias(bias: bool):
    """Factors of both signs, and one that is zero."""
    tensors = NORMALISED | {"b": normal([5], 7), "g": np.array([0.5, -2.0, 0.0, 1.0, 3.0], np.float32)}
    nodes = [
        node("Conv", ["x", "W", *(["b"] if bias else [])], ["c"], "conv"),
        node("BatchNormalization", ["c", "g", "h", "m", "v"], ["n"], epsilon=1e-3),
        node("Relu", ["n"], ["y"]),
    ]
    assert checked(nodes, tensors) == ["Conv", "Relu"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(5, 1, 1), (1, 5, 1, 1), (1,), ()])
@pytest.mark.parametrize("first", [True, False])
def test_a_sum_or_product_with_constants_of_channels(op: str, shape: tuple[int, ...], first: bool):
    number = normal([int(np.prod(shape))], 4).reshape(shape) + np.float32(0.7)
    inputs = ["c", "k"] if first else ["k", "c"]
    nodes = [node("Conv", ["x", "W"], ["c"]), node(op, inputs, ["y"])]
    kept = op in ("Sub", "Div") and not first
    if kept and op == "Div":
        nodes = [node("Conv", ["x", "W"], ["c"]), node("Exp", ["c"], ["e"]), node(op, ["k", "e"], ["y"])]
    found = checked(nodes, {"k": number.astype(np.float32)})
    assert (op in found) is kept


def test_one_after_the_other():
    tensors = NORMALISED | {"k": normal([5, 1, 1], 4), "f": np.array(-0.5, np.float32)}
    nodes = [
        node("Conv", ["x", "W"], ["c"]), node("Add", ["c", "k"], ["d"]),
        node("BatchNormalization", ["d", "g", "h", "m", "v"], ["n"]), node("Mul", ["f", "n"], ["y"]),
    ]  # fmt: skip
    assert checked(nodes, tensors) == ["Conv"]


@pytest.mark.parametrize(
    ("nodes", "tensors", "stays"),
    [
        ([node("Add", ["c", "k"], ["y"])], {"k": normal([1, 1, 4, 4], 4)}, "Add"),
        ([node("Add", ["c", "k"], ["y"])], {"k": normal([4], 4)}, "Add"),
        ([node("ReduceMean", ["x"], ["k"], axes=[0, 1, 2, 3]), node("Mul", ["c", "k"], ["y"])], {}, "Mul"),
        ([node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"], ["y"])], {}, "Mul"),
        ([node("Div", ["c", "k"], ["y"])], {"k": np.array([1, 2, 3, 4, np.inf], np.float32).reshape(5, 1, 1)}, "Conv"),
    ],
)
def test_what_is_no_part_of_it_stays(nodes: list[onnx.NodeProto], tensors: dict[str, Array], stays: str):
    assert stays in checked([node("Conv", ["x", "W"], ["c"]), *nodes], tensors)


def test_what_others_read_as_it_was_stays():
    """The output of the convolution itself, and a weight of two convolutions."""
    add = node("Add", ["c", "k"], ["y"])
    assert "Add" in checked([node("Conv", ["x", "W"], ["c"]), add], {"k": normal([5, 1, 1], 4)}, outputs=("c", "y"))
    nodes = [node("Conv", ["x", "W"], ["c"]), node("Conv", ["x", "W"], ["z"]), add]
    assert "Add" in checked(nodes, {"k": normal([5, 1, 1], 4)}, outputs=("z", "y"))


def padded(pads: Sequence[int], more: Sequence[str] = (), **attributes: Any) -> list[onnx.NodeProto]:
    return [
        constant("pads", np.array(pads, np.int64)),
        node("Pad", ["x", "pads", *more], ["p"], "pad", **attributes),
        node("Conv", ["p", "W"], ["y"], "conv", pads=[1, 0, 0, 1], strides=[2, 1]),
    ]


ZERO, ONE = {"zero": np.array(0.0, np.float32)}, {"one": np.array(1.0, np.float32)}


@pytest.mark.parametrize(
    ("pads", "more", "attributes", "taken"),
    [
        ([0, 0, 1, 2, 0, 0, 0, 3], (), {}, True),
        ([0, 0, 1, 2, 0, 0, 0, 3], ("zero",), {"mode": "constant"}, True),
        ([0, 0, 1, 2, 0, 0, 0, 3], ("one",), {}, False),
        ([0, 0, 1, 2, 0, 0, 0, 3], (), {"mode": "reflect"}, False),
        ([0, 0, -1, 2, 0, 0, 0, 3], (), {}, False),
        ([1, 0, 0, 0, 0, 0, 0, 0], (), {}, False),
    ],
)
def test_zeros_before_it_are_in_its_pads(pads: list[int], more: tuple[str, ...], attributes: Any, taken: bool):
    found = checked(padded(pads, more, **attributes), ZERO | ONE)
    assert ("Pad" not in found) is taken
    assert ("Constant" not in found) is taken


def test_pads_that_nodes_make_of_constants_go_with_them():
    """As torch exports them; what others read of these nodes stays."""
    first = [
        constant("half", np.array([0, 0, 1, 2], np.int64)), constant("zeros", np.array([0, 0, 0, 0], np.int64)),
        node("Concat", ["half", "zeros"], ["pads"], axis=0), node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "W"], ["y"]),
    ]  # fmt: skip
    assert checked(first, {}) == ["Conv"]
    with_pad = [*first, node("Pad", ["x", "pads"], ["z"], mode="edge")]
    assert checked(with_pad, {}, outputs=("y", "z")) == ["Constant", "Constant", "Concat", "Conv", "Pad"]


def test_pads_of_a_first_factor_are_the_whole_ones():
    """A chain whose first stage has no kernel on one axis is padded there by zeros all the same."""
    tensors = {"V": weight((8, 4, 3, 3), 2)}
    nodes = padded([0, 0, 1, 1, 0, 0, 1, 1])
    nodes[-1] = node("Conv", ["p", "V"], ["y"], "conv")
    model = build(nodes, [value("x", ["n", 4, 6, 6])], [value("y", ["n", 8, "h", "w"])], tensors)
    found = replace(found_in(model), ranged=RangeSamples([{"x": X}], CPU))
    (site,) = found.sites
    for scheme in SCHEMES:
        for ranks in scheme.ranks(site.shape, 1, site.groups)[-1:]:
            factors = {(site.id, scheme.name): scheme.factor(found.weight(site), None, None, ranks, site.groups)}
            option = Option(Form(scheme.name, ranks), Cost())
            plan = Plan((Choice(site.id, site.weight, option),))
            exact = run(rewrite(model, found, plan, factors), {"x": X})["y"]
            integers = replace(option, form=replace(option.form, storage="int8-static"))
            made = rewrite(model, found, Plan((Choice(site.id, site.weight, integers),)), factors)
            assert "Pad" not in {n.op_type for n in made.graph.node}
            assert np.abs(run(made, {"x": X})["y"] - exact).max() < 0.05 * np.abs(exact).max()
