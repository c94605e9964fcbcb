"""Nodes that work channel by channel, or on all channels alike: whatever order goes in comes out.

A rule takes a `Touch` and returns what else has to follow; it raises SeenError where the order would be seen. It says
the same whether the order comes in or out.
"""

from __future__ import annotations

from onnx_lowrank.graph.orders.region import SeenError
from onnx_lowrank.graph.orders.touch import NOTHING, Effects, Touch

ELEMENTWISE = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu", "Erf"),
    *("Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish"),
    *("Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus"),
    *("Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Cast"),
    *("Add", "And", "BitShift", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean"),
    *("Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
    *("LayerNormalization", "RMSNormalization"),
)
"""Operands are broadcast from the right. What is normalised over the channels does not depend on their order, and
scale and bias lie as other operands do."""
ALIKE = ("CastLike", "LpNormalization", "MeanVarianceNormalization", "Softmax", "LogSoftmax")
"""Of the first input alone, along the channels or beside them: neither sees an order."""


def elementwise(touch: Touch) -> Effects:
    """Output and operands lie in the same order, but those that have one number for all channels."""
    effects = touch.output(touch.axis)
    for slot in range(len(touch.node.input)):
        effects += touch.operand(slot, touch.axis)
    return effects


def alike(touch: Touch) -> Effects:
    """The output lies in the order of the first input; the others are about all channels."""
    touch.only_data()
    return touch.output(touch.axis) + touch.operand(0, touch.axis)


def dropout(touch: Touch) -> Effects:
    """As `alike`, but in training: which numbers are dropped depends on their places."""
    if touch.name(2):
        raise SeenError("Dropout may be in training")
    return alike(touch)


def channel_normalization(touch: Touch) -> Effects:
    """Scale, bias (and statistics, of BatchNormalization) are vectors, an element a channel, on axis 1."""
    if touch.attributes.get("training_mode", 0) or not touch.attributes.get("spatial", 1):
        raise SeenError(f"{touch.node.op_type} is in training, or normalises every position")
    effects = alike(touch)
    if touch.axis == 1 - touch.rank(touch.slot):
        for slot in range(1, len(touch.node.input)):
            effects += touch.operand(slot, -1)
    return effects


def pooling(touch: Touch) -> Effects:
    """Channels are pooled each for itself."""
    rank = touch.rank(touch.slot)
    if touch.axis not in (-rank, 1 - rank):
        raise SeenError(f"{touch.node.op_type} pools along the axis")
    return alike(touch)


def on_a_grid(touch: Touch) -> Effects:
    """QuantizeLinear and back: one scale for all, or a scale a channel."""
    effects = alike(touch)
    scale = touch.dims(1)
    if touch.attributes.get("block_size", 0) or len(scale) > 1:
        raise SeenError(f"{touch.node.op_type} has scales by block")
    axis = touch.from_end(int(touch.attributes.get("axis", 1)), touch.rank(touch.slot))
    if axis == touch.axis and scale not in ((), (1,)):
        effects += touch.operand(1, -1) + touch.operand(2, -1)
    return effects


def shape_of(touch: Touch) -> Effects:
    """The shape of a tensor is the same in any order."""
    if not touch.inside:
        raise SeenError("a shape has an order of its own")
    return NOTHING
