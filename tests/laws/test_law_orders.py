"""Law: a model computes the same after orders of channels have been put into its constants, which happens where it can.

Networks are drawn: a start, nodes that keep channels apart, a Gather with a permutation, more such nodes, an end. The
order is free on the side of the Gather that is closed by a weight, and is seen where that is the model's own input, or
a node that depends on the order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from builders import build, constant, node, normal, value
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.graph.traversal import fed_inputs
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.absorb_orders import absorb_orders
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array

CHANNELS = 6
ROWS, IMAGES = (2, 3, CHANNELS), (2, CHANNELS, 4, 4)
"""Shapes of what flows: channels on the last axis, or on the first after the samples."""


@dataclass
class Net:
    """A network that is being written, from tensor to tensor."""

    opset: int
    stored_in_nodes: bool
    current: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(node(op, inputs, [output], output, **attributes))
        return output

    def then(self, op: str, *others: str, **attributes: Any) -> str:
        self.current = self.add(op, [self.current, *others], **attributes)
        return self.current

    def number(self, array: Array) -> str:
        name = f"c{len(self.weights)}_{len(self.nodes)}"
        if self.stored_in_nodes:
            self.nodes.append(constant(name, array))
        else:
            self.weights[name] = array
        return name

    def random(self, *shape: int) -> str:
        return self.number(normal(shape, len(self.nodes) + 31 * len(self.weights)))

    def positive(self, *shape: int) -> str:
        return self.number(np.abs(normal(shape, len(self.nodes) + 37)) + np.float32(0.5))

    def whole(self, *numbers: int) -> str:
        return self.number(np.array(numbers, np.int64))


Block = Callable[[Net], object]


def gelu(net: Net) -> None:
    x = net.current
    net.then("Div", net.number(np.float32(1.4142135)))
    net.then("Erf")
    net.then("Add", net.number(np.ones(1, np.float32)))
    net.current = net.add("Mul", [x, net.current])
    net.then("Mul", net.number(np.float32(0.5)))


def silu(net: Net) -> None:
    net.current = net.add("Mul", [net.current, net.add("Sigmoid", [net.current])])


def residual(net: Net) -> None:
    x = net.current
    silu(net)
    net.current = net.add("Add", [net.current, x])


def layer_norm(net: Net) -> None:
    if net.opset >= 17:
        net.then("LayerNormalization", net.random(CHANNELS), net.random(CHANNELS), axis=-1)
        return
    x = net.current
    over = {"axes": [-1], "keepdims": 1}
    net.current = net.add("Sub", [x, net.add("ReduceMean", [x], **over)])
    centred = net.current
    square = net.add("Mul", [centred, centred])
    deviation = net.add("Sqrt", [net.add("Add", [net.add("ReduceMean", [square], **over), net.positive(1)])])
    net.current = net.add("Div", [centred, deviation])
    net.then("Mul", net.random(CHANNELS))


def prelu(*after: int) -> Block:
    return lambda net: net.then("PRelu", net.random(CHANNELS, *after))


def bias(*before: int, after: tuple[int, ...] = ()) -> Block:
    return lambda net: net.then("Add", net.random(*before, CHANNELS, *after))


def choice(net: Net) -> None:
    keep = net.number(np.arange(CHANNELS) % 3 > 0)
    net.current = net.add("Where", [keep, net.current, net.random(1)])


def channel_mix(net: Net) -> None:
    """Products along other axes than the channels'."""
    net.then("Transpose", perm=[0, 2, 1])
    net.then("MatMul", net.random(ROWS[1], ROWS[1]))
    net.then("Transpose", perm=[0, 2, 1])


def table_of_one(net: Net) -> None:
    """A constant that nodes make: it follows all the same."""
    made = net.add("Mul", [net.random(CHANNELS), net.random(1)])
    net.current = net.add("Sub", [made, net.current])


def batch_norm(net: Net) -> None:
    net.then("BatchNormalization", *(net.random(CHANNELS) for _ in range(3)), net.positive(CHANNELS))


def depthwise(net: Net) -> None:
    net.then("Conv", net.random(CHANNELS, 1, 3, 3), net.random(CHANNELS), group=CHANNELS, pads=[1, 1, 1, 1])


def depthwise_transposed(net: Net) -> None:
    net.then("ConvTranspose", net.random(CHANNELS, 1, 1, 1), net.random(CHANNELS), group=CHANNELS)


def gated(net: Net) -> None:
    gate = net.add("HardSigmoid", [net.add("GlobalAveragePool", [net.current])])
    net.current = net.add("Mul", [net.current, gate])


def mixed(net: Net) -> None:
    """A residual branch through two weights."""
    x = net.current
    net.then("Conv", net.random(3, CHANNELS, 1, 1))
    net.then("Relu")
    net.then("Conv", net.random(CHANNELS, 3, 1, 1), net.random(CHANNELS))
    net.current = net.add("Add", [x, net.current])


def padded(net: Net) -> None:
    net.then("Pad", net.whole(0, 0, 1, 0, 0, 0, 0, 1), mode="reflect")
    net.then("AveragePool", kernel_shape=[2, 2])


def unfolded_bias(net: Net) -> None:
    """As chains write a bias: a vector that a Reshape turns to the channels' axis."""
    net.then("Add", net.add("Reshape", [net.random(CHANNELS), net.whole(1, -1, 1, 1)]))


BLOCKS: Mapping[str, list[Block]] = {
    "rows": [
        *(gelu, silu, residual, layer_norm, choice, channel_mix, table_of_one, prelu(), bias(), bias(1), bias(3)),
        *(lambda net: net.then("Softmax", axis=-1), lambda net: net.then("Clip", net.number(np.float32(-1)))),
    ],
    "images": [
        *(gelu, silu, residual, batch_norm, depthwise, depthwise_transposed, gated, mixed, padded, unfolded_bias),
        *(prelu(1, 1), bias(after=(1, 1)), bias(1, after=(4, 4)), bias(1, after=(1, 1))),
        lambda net: net.then("InstanceNormalization", net.random(CHANNELS), net.random(CHANNELS)),
        lambda net: net.then("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ],
}


def gemm_of_pooled(net: Net) -> None:
    net.then("GlobalMaxPool")
    net.then("Flatten")
    net.then("Gemm", net.random(3, CHANNELS), net.random(3), transB=1, beta=0.5)


def channels_last(net: Net) -> None:
    net.then("Transpose", perm=[0, 2, 3, 1])
    net.then("MatMul", net.random(CHANNELS, 2))


CLOSED_ENDS: Mapping[str, list[Block]] = {
    "rows": [
        lambda net: net.then("MatMul", net.random(CHANNELS, 4)),
        lambda net: net.then("MatMul", net.random(CHANNELS)),
        lambda net: net.then("MatMul", net.random(2, CHANNELS, 4)),
    ],
    "images": [
        *(gemm_of_pooled, channels_last),
        lambda net: net.then("Conv", net.random(4, CHANNELS, 3, 3), net.random(4)),
        lambda net: net.then("ConvTranspose", net.random(CHANNELS, 4, 3, 3), net.random(4)),
    ],
}
CLOSED_STARTS: Mapping[str, list[Block]] = {
    "rows": [
        lambda net: net.then("MatMul", net.random(CHANNELS, CHANNELS)),
        lambda net: net.then("MatMul", net.random(2, CHANNELS, CHANNELS)),
    ],
    "images": [
        lambda net: net.then("Conv", net.random(CHANNELS, CHANNELS, 1, 1), net.random(CHANNELS)),
        lambda net: net.then("ConvTranspose", net.random(CHANNELS, CHANNELS, 1, 1), net.random(CHANNELS)),
    ],
}


def finished(net: Net, shape: tuple[int, ...], *returned: str) -> onnx.ModelProto:
    """Return the network's tanh as y, and some tensors besides, with shapes as inference finds them."""
    net.nodes.append(node("Tanh", [net.current], ["y"]))
    outputs = [value(name, []) for name in ("y", *returned)]
    for output in outputs:
        output.type.tensor_type.ClearField("shape")
    model = build(net.nodes, [value("x", ["n", *shape[1:]])], outputs, net.weights, opset=net.opset)
    return onnx.shape_inference.infer_shapes(model)


@dataclass(frozen=True)
class Drawn:
    model: onnx.ModelProto
    x: Array
    order: str
    free: bool


@st.composite
def networks(draw: st.DrawFn, family: str) -> Drawn:
    shape, axis = {"rows": (ROWS, draw(st.sampled_from([2, -1]))), "images": (IMAGES, 1)}[family]
    net = Net(draw(st.integers(11, 21)), draw(st.booleans()))
    blocks = st.lists(st.sampled_from(BLOCKS[family]), max_size=3)
    closed_start, closed_end, returned = draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from("  di"))
    if closed_start:
        draw(st.sampled_from(CLOSED_STARTS[family]))(net)
    else:
        net.then("Identity")
    for block in draw(blocks):
        block(net)
    data = net.current
    permutation = draw(st.permutations(range(CHANNELS)))
    order = net.then("Gather", net.whole(*permutation), axis=axis)
    for block in draw(blocks):
        block(net)
    if closed_end:
        draw(st.sampled_from(CLOSED_ENDS[family]))(net)
    else:
        net.then("CumSum", net.whole(axis))
    extra = {"d": [data], "i": [order]}.get(returned, [])
    free = (closed_end and order not in extra) or (closed_start and not extra)
    return Drawn(finished(net, shape, *extra), normal(shape, draw(st.integers(0, 9))), order, free)


def computed(model: onnx.ModelProto, x: Array) -> dict[str, Array]:
    """Return the outputs, nodes as they are: onnxruntime 1.31 fuses a Transpose and a MatMul by a vector wrongly."""
    return Runner(model, runtime=Runtime(provider="cpu", threads=1), optimize=False).run({"x": x})


@pytest.mark.parametrize("family", sorted(BLOCKS))
def test_a_model_computes_the_same_without_its_orders(family: str):
    @given(networks(family))
    def law(drawn: Drawn):
        before = drawn.model.SerializeToString()
        model, absorbed = absorb_orders(drawn.model, [drawn.order])
        assert drawn.model.SerializeToString() == before
        assert absorbed == ({drawn.order} if drawn.free else frozenset())
        assert [n for n in model.graph.node if drawn.order in n.output] == [] or not drawn.free
        onnx.checker.check_model(model, full_check=True)
        assert list(model.graph.output) == list(drawn.model.graph.output)
        assert fed_inputs(model) == fed_inputs(drawn.model)
        got, expected = computed(model, drawn.x), computed(drawn.model, drawn.x)
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-5)

    law()


@pytest.mark.parametrize("family", sorted(BLOCKS))
def test_orders_one_after_the_other(family: str):
    """Each sees what the one before left: two permutations in a row, with nodes in between, go one into the other."""

    @given(st.data())
    def law(data: st.DataObject):
        shape, axis = {"rows": (ROWS, 2), "images": (IMAGES, 1)}[family]
        net = Net(data.draw(st.integers(11, 21)), data.draw(st.booleans()))
        data.draw(st.sampled_from(CLOSED_STARTS[family]))(net)
        orders = []
        for _ in range(3):
            orders.append(net.then("Gather", net.whole(*data.draw(st.permutations(range(CHANNELS)))), axis=axis))
            for block in data.draw(st.lists(st.sampled_from(BLOCKS[family]), max_size=2)):
                block(net)
        data.draw(st.sampled_from(CLOSED_ENDS[family]))(net)
        given_model = finished(net, shape)
        model, absorbed = absorb_orders(given_model, data.draw(st.permutations(orders)))
        assert absorbed == set(orders)
        assert not any(n.op_type == "Gather" for n in model.graph.node)
        onnx.checker.check_model(model, full_check=True)
        x = normal(shape, 5)
        got, expected = computed(model, x), computed(given_model, x)
        np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-5, atol=1e-5)

    law()
