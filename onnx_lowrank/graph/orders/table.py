"""Operators whose rule is known, by domain and type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import onnx

from onnx_lowrank.graph.orders import axes, elementwise, products
from onnx_lowrank.graph.orders.touch import Effects, Touch

Rule: TypeAlias = Callable[[Touch], Effects]
POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
OWN: Mapping[str, Rule] = {
    **dict.fromkeys(elementwise.ELEMENTWISE, elementwise.elementwise),
    **dict.fromkeys(elementwise.ALIKE, elementwise.alike),
    **dict.fromkeys(POOLS, elementwise.pooling),
    **dict.fromkeys((f"Reduce{name}" for name in REDUCTIONS), axes.reduction),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), elementwise.channel_normalization),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), elementwise.on_a_grid),
    **dict.fromkeys(("Shape", "Size"), elementwise.shape_of),
    **dict.fromkeys(("Reshape", "Flatten"), axes.reshape),
    **dict.fromkeys(("Resize", "Upsample"), axes.resize),
    "Dropout": elementwise.dropout,
    "MatMul": products.matmul,
    "Gemm": products.gemm,
    "Conv": products.conv,
    "ConvTranspose": products.conv_transpose,
    "Transpose": axes.transpose,
    "Squeeze": axes.squeeze,
    "Unsqueeze": axes.unsqueeze,
    "Gather": axes.gather,
    "Concat": axes.concat,
    "Slice": axes.slicing,
    "Pad": axes.pad,
}
"""ONNX's own."""
CONTRIBUTED: Mapping[str, Rule] = dict.fromkeys(("BiasGelu", "FastGelu", "Gelu", "QuickGelu"), elementwise.elementwise)
"""onnxruntime's, of the domain com.microsoft."""


def rule_of(node: onnx.NodeProto) -> Rule | None:
    """Return the rule of a node's operator, None where none is known."""
    by_domain = {"": OWN, "ai.onnx": OWN, "com.microsoft": CONTRIBUTED}
    return by_domain.get(node.domain, {}).get(node.op_type)
