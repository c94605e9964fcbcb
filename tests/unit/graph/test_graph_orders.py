"""Which orders are free, what follows them, and every reason why one is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from builders import ANY, build, constant, node, normal, value
from onnx import TensorProto, helper

from onnx_lowrank.graph.orders import OrderFlow, Region, Seen
from onnx_lowrank.graph.orders.region import Change, Edit, Step
from onnx_lowrank.graph.orders.shapes import aligned, tensor_dims
from onnx_lowrank.types import Array

C = 4
W, V = normal((C, C), 1), normal((C, 3), 2)


def rows(between: Sequence[onnx.NodeProto], end: str = "t", *, opset: int = 17, **weights: Array) -> onnx.ModelProto:
    """x (n, 2, C) -> MatMul -> h, nodes, from `end` -> MatMul -> y."""
    nodes = [node("MatMul", ["x", "W"], ["h"]), *between, node("MatMul", [end, "V"], ["y"])]
    outputs = [value("y", [ANY, ANY, 3])]
    return build(nodes, [value("x", ["n", 2, C])], outputs, {"W": W, "V": V, **weights}, opset=opset)


def images(between: Sequence[onnx.NodeProto], end: str = "t", *, opset: int = 17, **weights: Array) -> onnx.ModelProto:
    """x (n, 2, 5, 5) -> Conv -> h (C channels), nodes, from `end` -> Conv -> y."""
    nodes = [node("Conv", ["x", "W"], ["h"]), *between, node("Conv", [end, "V"], ["y"])]
    stored = {"W": normal((C, 2, 1, 1), 1), "V": normal((3, C, 1, 1), 2), **weights}
    return build(nodes, [value("x", ["n", 2, 5, 5])], [value("y", [ANY] * 4)], stored, opset=opset)


def after(model: onnx.ModelProto, axis: int = -1, tensor: str = "h") -> Region | Seen:
    return OrderFlow(model).after(tensor, axis, C)


def region(model: onnx.ModelProto, axis: int = -1, tensor: str = "h") -> Region:
    found = after(model, axis, tensor)
    assert isinstance(found, Region), found
    return found


def why(model: onnx.ModelProto, axis: int = -1, tensor: str = "h") -> str:
    found = after(model, axis, tensor)
    assert isinstance(found, Seen)
    assert not found
    return found.why


def op(kind: str, inputs: str, output: str = "t", **attributes: Any) -> onnx.NodeProto:
    return node(kind, inputs.split(), [output], **attributes)


def test_an_order_ends_in_the_weight_that_sums_over_it():
    found = region(rows([op("Relu", "h")]))
    assert found.axes == {"h": -1, "t": -1}
    assert found.edits == {Edit("y", 1, -2)}
    assert found.changes == (Change("V", (Step(-2),)),)


@pytest.mark.parametrize("axis", [1, -3])
def test_an_axis_may_be_of_either_count(axis: int):
    found = region(images([op("Relu", "h")]), axis)
    assert found.axes == {"h": -3, "t": -3}
    assert found.edits == {Edit("y", 1, -3)}


def test_an_order_begins_in_the_weight_and_bias_that_make_the_channels():
    model = images([op("Conv", "h U b", "t"), op("Relu", "t", "r")], "r", U=normal((C, C, 1, 1), 3), b=normal((C,), 4))
    found = OrderFlow(model).before("r", 1, C, "y")
    assert found
    assert found.edits == {Edit("t", 1, -4), Edit("t", 2, -1)}


def test_before_asks_all_other_readers():
    model = rows([op("Relu", "h"), op("CumSum", "t two", "s"), op("Add", "s t", "z")], two=np.int64(2))
    assert "CumSum" in OrderFlow(model).before("t", -1, C, "y").why
    free = rows([op("Relu", "h"), op("MatMul", "t U", "u"), op("Tanh", "u", "z")], U=normal((C, 3), 3))
    found = OrderFlow(free).before("t", -1, C, "y")
    assert found
    assert found.edits == {Edit("h", 1, -1), Edit("u", 1, -2)}


def test_both_operands_of_a_branch_follow():
    found = region(rows([op("Sigmoid", "h", "s"), op("Mul", "h s")]))
    assert found.tensors == {"h", "s", "t"}


def test_operands_with_one_number_for_all_channels_stay():
    model = rows([op("Mul", "h c", "a"), op("Add", "a d")], c=np.float32(2), d=normal((2, 1), 1))
    assert region(model).edits == {Edit("y", 1, -2)}


def test_a_residual_branch_follows_to_its_own_weight():
    between = [op("MatMul", "x U", "u"), op("Add", "h u")]
    assert region(rows(between, U=W)).edits == {Edit("u", 1, -1), Edit("y", 1, -2)}


PASSING = {
    "PRelu": (images([op("PRelu", "h c")], c=normal((C, 1, 1), 1)), {Edit("t", 1, -3)}),
    "BatchNormalization": (
        images([op("BatchNormalization", "h c c c c")], c=np.ones(C, np.float32)),
        {Edit("t", slot, -1) for slot in (1, 2, 3, 4)},
    ),
    "InstanceNormalization": (
        images([op("InstanceNormalization", "h c d")], c=normal((C,), 1), d=normal((C,), 2)),
        {Edit("t", 1, -1), Edit("t", 2, -1)},
    ),
    "depthwise": (
        images([op("Conv", "h c d", group=C)], c=normal((C, 1, 1, 1), 1), d=normal((C,), 2)),
        {Edit("t", 1, -4), Edit("t", 2, -1)},
    ),
    "MaxPool": (images([op("MaxPool", "h", kernel_shape=[2, 2])]), set()),
    "Pad": (images([op("Pad", "h p")], p=np.array([0, 0, 1, 0, 0, 0, 0, 0])), set()),
    "Pad by computed numbers": (
        images(
            [
                *(constant("p2", np.zeros((2, 4), np.int64)), op("Reshape", "p2 flat", "p1")),
                *(op("Cast", "p1", "p", to=TensorProto.INT64), op("Pad", "h p")),
            ],
            flat=np.array([-1]),
        ),
        set(),
    ),
    "Resize by scales": (images([node("Resize", ["h", "", "s"], ["t"])], s=np.array([1, 1, 2, 2], np.float32)), set()),
    "Resize by sizes": (images([node("Resize", ["h", "", "", "z"], ["t"])], z=np.array([1, C, 7, 7])), set()),
    "Upsample": (images([op("Upsample", "h s")], s=np.array([1, 1, 2, 2], np.float32), opset=9), set()),
    "Slice": (images([op("Slice", "h a b c")], a=np.array([1]), b=np.array([4]), c=np.array([-1])), set()),
    "Concat along another axis": (images([op("Concat", "h h", axis=2)]), set()),
    "Softmax": (images([op("Softmax", "h", axis=1)]), set()),
    "Dropout": (images([op("Dropout", "h")]), set()),
    "quantised": (
        images(
            [op("QuantizeLinear", "h s z", "q"), op("DequantizeLinear", "q s z")], s=np.float32(0.1), z=np.int8(0)
        ),
        set(),
    ),
    "quantised by channel": (
        images(
            [op("QuantizeLinear", "h s z", "q"), op("DequantizeLinear", "q s z")],
            s=np.ones(C, np.float32),
            z=np.zeros(C, np.int8),
        ),
        {Edit(name, slot, -1) for name in "qt" for slot in (1, 2)},
    ),
    "axes that come and go": (
        images([op("Unsqueeze", "h a", "u"), op("Squeeze", "u a")], a=np.array([2])),
        set(),
    ),
    "a shape is read": (images([op("Shape", "h", "s"), op("Expand", "one s", "e"), op("Relu", "h")], one=np.float32(1)),
                        set()),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_passes(name: str):
    model, edits = PASSING[name]
    onnx.checker.check_model(model, full_check=True)
    found = region(model, 1)
    assert found.edits == edits | {Edit("y", 1, -3)}
    assert found.axes["t"] == -3


def test_where_axes_move():
    between = [op("Transpose", "h", "a", perm=[0, 2, 3, 1]), op("ReduceMean", "a", "b", axes=[1, 2], keepdims=0)]
    model = images([*between, op("Gemm", "b U", "g"), op("Relu", "h")], U=normal((C, 2), 3))
    found = region(model, 1)
    assert found.axes == {"h": -3, "a": -1, "b": -1, "t": -3}
    assert found.edits == {Edit("g", 1, -2), Edit("y", 1, -3)}


def test_what_is_reduced_over_the_channels_is_the_same():
    model = rows([op("ReduceMean", "h", "m", axes=[-1]), op("Sub", "h m")])
    assert region(model).tensors == {"h", "t"}


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm(trans: int):
    weight, axis = (V, -2) if not trans else (V.T.copy(), -1)
    nodes = [op("Gemm", "x W b", "h"), op("Relu", "h", "t"), op("Gemm", "t V", "y", transB=trans)]
    stored = {"W": W, "b": normal((C,), 3), "V": weight}
    model = build(nodes, [value("x", ["n", C])], [value("y", [ANY, 3])], stored)
    assert region(model).edits == {Edit("y", 1, axis)}
    backward = OrderFlow(model).before("t", -1, C, "y")
    assert backward
    assert backward.edits == {Edit("h", 1, -1), Edit("h", 2, -1)}


def test_a_weight_on_the_left():
    nodes = [op("MatMul", "W x", "h"), op("Relu", "h", "t"), op("MatMul", "V t", "y")]
    stored = {"W": W, "V": V.T.copy()}
    model = build(nodes, [value("x", ["n", C, 2])], [value("y", [ANY, 3, 2])], stored)
    assert region(model, 1).edits == {Edit("y", 0, -1)}
    assert OrderFlow(model).before("t", 1, C, "y").edits == {Edit("h", 0, -2)}


def test_channels_of_a_lookup():
    nodes = [op("Gather", "E x", "h"), op("MatMul", "h V", "y")]
    stored = {"E": normal((9, C), 1), "V": V}
    model = build(nodes, [value("x", ["n", 2], TensorProto.INT64)], [value("y", [ANY, 2, 3])], stored)
    assert OrderFlow(model).before("h", -1, C, "y").edits == {Edit("h", 0, -1)}


def body(reads: str) -> onnx.GraphProto:
    return helper.make_graph([node("Neg", [reads], ["n"])], "body", [], [value("n", [ANY, ANY, ANY])])


def branching() -> onnx.NodeProto:
    return node("If", ["yes"], ["i"], then_branch=body("h"), else_branch=body("x"))


def with_output(model: onnx.ModelProto, name: str, axes: int) -> onnx.ModelProto:
    model.graph.output.append(value(name, [ANY] * axes))
    return model


def with_input(model: onnx.ModelProto, name: str, shape: Sequence[int]) -> onnx.ModelProto:
    model.graph.input.append(value(name, shape))
    return model


def with_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """Relu is a local function of the file, whatever it does."""
    function = helper.make_function("", "Relu", ["a"], ["b"], [op("Neg", "a", "b")], [helper.make_opsetid("", 17)])
    model.functions.append(function)
    return model


BIAS = op("Add", "h c")
LARGE = normal((1100, 2, C), 3)
SEEN = {
    "output": (with_output(rows([op("Relu", "h")]), "t", 3), "'t' is an output of the graph"),
    "unknown operator": (rows([op("CumSum", "h two")], two=np.int64(2)), "CumSum may see the order of 'h'"),
    "body": (rows([branching(), op("Relu", "h")], yes=np.bool_(True)), "'h' is read in a body"),
    "local function": (with_function(rows([op("Relu", "h")])), "Relu may see"),
    "constant that can be replaced": (
        with_input(rows([BIAS], c=normal((C,), 1)), "c", [C]), "'c' is an input or an output of the graph"
    ),
    "constant that is returned": (
        with_output(rows([BIAS], c=normal((C,), 1)), "c", 1), "'c' is an input or an output of the graph"
    ),
    "operand from the input": (rows([op("Add", "h x")]), "'x' is an input of the graph"),
    "operand of unknown size": (
        with_input(rows([BIAS]), "c", [ANY]), "'c' has unknown elements for 4 channels"
    ),
    "operand of unknown shape": (
        rows([node("Odd", ["x"], ["c"], domain="odd"), BIAS]), "the shape of 'c' is not known"
    ),
    "GroupNormalization": (
        images([op("GroupNormalization", "h c c", num_groups=2)], c=np.ones(C, np.float32), opset=21),
        "GroupNormalization may see",
    ),
    "batches in training": (
        images([op("BatchNormalization", "h c c c c", training_mode=1)], c=np.ones(C, np.float32)), "in training"
    ),
    "dropout in training": (rows([op("Dropout", "h r yes")], r=np.float32(0.5), yes=np.bool_(True)), "in training"),
    "mask": (
        rows([node("Dropout", ["h"], ["t", "m"]), op("Not", "m", "n")]), "a second output of Dropout is read"
    ),
    "groups": (images([op("Conv", "h c", group=2)], c=normal((C, 2, 1, 1), 1)), "Conv in groups of channels"),
    "several outputs a channel": (
        images([op("Conv", "h c", "u", group=C), op("Conv", "u d")], c=normal((2 * C, 1, 1, 1), 1),
               d=normal((C, 2 * C, 1, 1), 1)),
        "Conv in groups of channels",
    ),
    "computed kernel": (
        with_input(images([op("Conv", "h k")]), "k", [C, C, 1, 1]), "'k' is an input of the graph"
    ),
    "padded channels": (
        images([op("Pad", "h p"), op("Conv", "t d", "u")], "h", p=np.array([0, 1, 0, 0, 0, 0, 0, 0]),
               d=normal((C, C + 1, 1, 1), 1)),
        "Pad along the axis",
    ),
    "computed pads": (with_input(images([op("Pad", "h p")]), "p", [8]), "input 1 of Pad is computed"),
    "resized channels": (
        images([node("Resize", ["h", "", "s"], ["t"])], s=np.array([1, 2, 1, 1], np.float32)),
        "Resize may change the axis",
    ),
    "cropped": (
        images([node("Resize", ["h", "", "", "z"], ["t"], keep_aspect_ratio_policy="not_larger")],
               z=np.array([1, C, 7, 7]), opset=18),
        "aspect ratio",
    ),
    "reshape": (rows([op("Reshape", "h s")], s=np.array([0, C, 2])), "Reshape may divide or join the axis"),
    "concat": (
        rows([op("Concat", "h h", axis=2), op("MatMul", "t U", "z")], "h", U=normal((2 * C, 3), 1)),
        "Concat along the axis",
    ),
    "slice": (
        rows([op("Slice", "h a b c")], "h", a=np.array([1]), b=np.array([2]), c=np.array([2])), "Slice along the axis"
    ),
    "computed indices": (
        rows([op("Shape", "x", "i"), op("Gather", "h i", axis=2)], "h"), "Gather picks computed channels"
    ),
    "weight that others read": (
        rows([op("MatMul", "h U", "t"), op("MatMul", "x U", "z")], U=normal((C, 2000), 1), V=normal((2000, 3), 1)),
        "'U' is large, and others read it as it is",
    ),
    "large operand that others read": (
        rows([op("Add", "h L"), op("Neg", "L", "n")], L=LARGE), "'L' is large, and others read it as it is"
    ),
    "constant through a node": (
        rows([op("Flatten", "a", "c", axis=0), op("Add", "h c")], a=normal((2, 2), 1)),
        "a constant goes through Flatten",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_is_seen(name: str):
    model, reason = SEEN[name]
    assert reason in why(model, 1 if model.graph.node[0].op_type == "Conv" else -1)


def test_one_tensor_cannot_be_in_the_order_on_two_axes():
    nodes = [
        op("MatMul", "x W", "h"),
        op("Transpose", "h", "r", perm=[1, 0]),
        op("Add", "h r", "t"),
        op("MatMul", "t V", "y"),
    ]
    model = build(nodes, [value("x", [C, C])], [value("y", [C, 3])], {"W": W, "V": V})
    assert "has the order on two axes" in why(model)


def test_before_ir_4_a_constant_must_be_listed_and_cannot_be_replaced():
    nodes = [op("MatMul", "x W", "h"), op("Relu", "h", "t"), op("MatMul", "t V", "y")]
    model = build(nodes, [value("x", ["n", C])], [value("y", [ANY, 3])], {"W": W, "V": V}, opset=8, ir=3)
    assert region(model).edits == {Edit("y", 1, -2)}


@pytest.mark.parametrize(("tensor", "axis", "size"), [("h", 1, C), ("h", 3, C), ("h", -1, C + 1), ("nowhere", 1, C)])
def test_channels_that_are_not_there(tensor: str, axis: int, size: int):
    found = OrderFlow(rows([op("Relu", "h")])).after(tensor, axis, size)
    assert isinstance(found, Seen)


def test_small_constants_that_others_read_are_copied():
    found = region(rows([BIAS, op("Neg", "c", "n")], c=normal((C,), 1)))
    assert Change("c", (Step(-1),), (("t", 1),)) in found.changes


def test_a_constant_that_all_its_readers_want_rearranged_is_not_copied():
    found = region(rows([op("Add", "h c", "a"), op("Mul", "a c")], c=normal((C,), 1)))
    assert Change("c", (Step(-1),)) in found.changes


def test_a_constant_that_a_body_reads_is_copied():
    inner = helper.make_graph([node("Neg", ["c"], ["n"])], "body", [], [value("n", [C])])
    choice = node("If", ["yes"], ["i"], then_branch=inner, else_branch=inner)
    found = region(rows([BIAS, choice], c=normal((C,), 1), yes=np.bool_(True)))
    assert Change("c", (Step(-1),), (("t", 1),)) in found.changes


def test_weights_on_an_integer_grid():
    """Scales by output follow the outputs; for inputs they stay."""
    grid = {"Q": np.ones((C, C), np.int8), "s": np.ones(C, np.float32), "z": np.zeros(C, np.int8)}
    between = [op("DequantizeLinear", "Q s z", "U", axis=1), op("MatMul", "h U", "u"), op("Relu", "u")]
    model = rows(between, **grid)
    assert region(model).changes == (Change("Q", (Step(-2),)),)
    found = OrderFlow(model).before("t", -1, C, "y")
    assert found
    assert set(found.changes) == {Change(name, (Step(-1),)) for name in "Qsz"}


def test_weights_behind_casts_and_transposes():
    between = [op("Cast", "A", "a", to=TensorProto.FLOAT), op("Transpose", "a", "U"), op("MatMul", "h U", "t")]
    found = region(rows(between, A=normal((C, C), 1).astype(np.float16)))
    assert found.changes == (Change("A", (Step(-1),)),)


def test_regions_that_cannot_have_an_order_each():
    model = rows([op("MatMul", "x U", "u"), op("Add", "h u", "a"), op("MatMul", "a Z", "b"), op("Relu", "b")], U=W, Z=W)
    flow = OrderFlow(model)
    first, same, later = (flow.after(name, -1, C) for name in ("h", "u", "b"))
    assert first
    assert same
    assert later
    assert first.conflicts(same)
    assert not first.conflicts(later)


def test_a_later_order_has_its_numbers_replaced():
    found = region(rows([op("Gather", "h i", axis=2)], i=np.array([2, 0, 1, 3])))
    assert found.tensors == {"h"}
    assert found.changes == (Change("i", (Step(numbers=True),)),)


def test_an_earlier_order_is_put_in_another_order():
    found = OrderFlow(rows([op("Gather", "h i", axis=2)], i=np.array([2, 0, 1, 3]))).before("t", -1, C, "y")
    assert found
    assert found.changes == (Change("i", (Step(-1),)),)


@pytest.mark.parametrize(
    ("before", "then", "axes"),
    [
        ((None, 4, 1, 1), (None, 4), {-4: -2, -3: -1}),
        ((4,), (1, 4, 1, 1), {-1: -3}),
        ((2, 4), (4, 2), {}),
        ((None, 4, None), (None, 4, None), {}),
        (None, (4,), {}),
    ],
)
def test_aligned(before: tuple[int | None, ...] | None, then: tuple[int, ...], axes: dict[int, int]):
    assert aligned(before, then) == axes


def test_dims_need_no_weights_and_know_the_rank_of_a_computed_reshape():
    large = normal((C, 2000), 1)
    between = [op("MatMul", "h L", "l"), op("Shape", "l", "s"), op("Slice", "s o two", "r"), op("Reshape", "l r", "t")]
    model = rows(between, L=large, o=np.array([0]), two=np.array([2]), V=normal((2000, 3), 1))
    dims = tensor_dims(model)
    assert dims["l"] == (None, 2, 2000)
    assert len(dims["t"]) == 2
    assert dims["L"] == (C, 2000)


def test_a_shape_has_an_order_of_its_own():
    nodes = [op("Shape", "x", "s"), op("Cast", "s", "f", to=TensorProto.FLOAT), op("MatMul", "f V", "y")]
    model = build(nodes, [value("x", ["n", 2, 3, 5])], [value("y", [3])], {"V": V})
    found = OrderFlow(model).before("f", -1, C, "y")
    assert isinstance(found, Seen)
    assert "order of its own" in found.why


def test_a_constant_that_a_body_returns_is_copied():
    inner = helper.make_graph([], "body", [], [value("c", [C])])
    choice = node("If", ["yes"], ["i"], then_branch=inner, else_branch=inner)
    found = region(rows([BIAS, choice], c=normal((C,), 1), yes=np.bool_(True)))
    assert Change("c", (Step(-1),), (("t", 1),)) in found.changes
