"""Which rule differentiates which operator: (domain, operator) -> rule. The only list to which a new rule is added."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from onnx import NodeProto

from onnx_lowrank.gradient.rule_context import Rule
from onnx_lowrank.gradient.rules import (
    activations,
    convolution,
    elementwise,
    gather,
    linear,
    normalisation,
    pooling,
    reductions,
    resize,
    shape,
    slicing,
)

_STANDARD: Mapping[str, Rule] = {
    # linear.py, convolution.py
    "MatMul": linear.matmul_rule,
    "Gemm": linear.gemm,
    "Einsum": linear.einsum,
    "Conv": convolution.conv,
    "ConvTranspose": convolution.conv_transpose,
    # elementwise.py
    "Add": elementwise.add,
    "Sum": elementwise.add,
    "Sub": elementwise.subtract,
    "Mul": elementwise.multiply,
    "Div": elementwise.divide,
    "Mean": elementwise.mean,
    "Pow": elementwise.power,
    "Mod": elementwise.modulo,
    "Min": elementwise.extreme,
    "Max": elementwise.extreme,
    "Clip": elementwise.clip,
    "Where": elementwise.choose,
    "Identity": elementwise.same,
    "Dropout": elementwise.dropout,
    "Cast": elementwise.cast,
    "CastLike": elementwise.cast,
    "CumSum": elementwise.cumulative_sum,
    "Expand": elementwise.grown,
    "Trilu": elementwise.triangle,
    **dict.fromkeys(elementwise.SLOPES, elementwise.unary),
    **dict.fromkeys(("Ceil", "Floor", "Round", "Sign", "Hardmax"), elementwise.nothing),
    # activations.py
    "Softmax": activations.softmax,
    "LogSoftmax": activations.log_softmax,
    "LeakyRelu": activations.leaky_relu,
    "PRelu": activations.prelu,
    "Elu": activations.elu,
    "Celu": activations.celu,
    "Selu": activations.selu,
    "ThresholdedRelu": activations.thresholded_relu,
    "HardSigmoid": activations.hard_sigmoid,
    "HardSwish": activations.hard_swish,
    "Gelu": activations.gelu,
    "Swish": activations.swish,
    "Mish": activations.mish,
    "Shrink": activations.shrink,
    # normalisation.py; GroupNormalization and MeanVarianceNormalization go through their function bodies
    "BatchNormalization": normalisation.batch_normalization,
    "LayerNormalization": normalisation.layer_normalization,
    "InstanceNormalization": normalisation.instance_normalization,
    "RMSNormalization": normalisation.rms_normalization,
    "LpNormalization": normalisation.lp_normalization,
    # reductions.py
    **dict.fromkeys(reductions.SLOPES, reductions.reduction),
    "TopK": reductions.top_k,
    # pooling.py
    "MaxPool": pooling.max_pool,
    "AveragePool": pooling.average_pool,
    "GlobalAveragePool": pooling.global_average_pool,
    "GlobalMaxPool": pooling.global_max_pool,
    # shape.py
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), shape.reshaped),
    "Transpose": shape.transposed,
    "Concat": shape.concat,
    "Split": shape.split,
    "Tile": shape.tile,
    "DepthToSpace": shape.depth_to_space,
    "SpaceToDepth": shape.space_to_depth,
    # slicing.py, gather.py, resize.py
    "Slice": slicing.slice_rule,
    "Pad": slicing.pad,
    "Gather": gather.gather,
    "GatherElements": gather.gather_elements,
    "GatherND": gather.gather_nd,
    "ScatterND": gather.scatter_nd,
    "ScatterElements": gather.scatter_elements,
    "Resize": resize.resize,
}

_MICROSOFT: Mapping[str, Rule] = {
    "FusedMatMul": linear.fused_matmul,
    "Gelu": activations.gelu,
    "BiasGelu": activations.bias_gelu,
    "FastGelu": activations.fast_gelu,
    "QuickGelu": activations.swish,
}

RULES: Mapping[tuple[str, str], Rule] = MappingProxyType(
    {
        **{("", name): rule for name, rule in _STANDARD.items()},
        **{("com.microsoft", name): rule for name, rule in _MICROSOFT.items()},
    }
)


def rule_of(node: NodeProto) -> Rule | None:
    """Return the rule of a node's operator; None where there is none."""
    return RULES.get((node.domain, node.op_type))
