"""What onnxruntime's optimizer writes (com.microsoft), taken apart into standard operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np
from onnx import NodeProto

from onnx_lowrank.gradient.emitter import INT64, Emitter, NoRule, Value
from onnx_lowrank.gradient.forward import Forward
from onnx_lowrank.gradient.fused_linear import fused_conv, fused_gemm
from onnx_lowrank.gradient.rule_context import RuleContext
from onnx_lowrank.gradient.tensor_ops import reshape, unsqueeze

Expansion = Callable[[RuleContext], "list[Value | None]"]
"""Returns one value an output of the node, computed by standard operators; NoRule where it cannot."""

MICROSOFT = "com.microsoft"


def fused_nodes(node: NodeProto, forward: Forward, used: AbstractSet[str]) -> list[NodeProto] | None:
    """Return the nodes that compute what a fused node does under the same output names, None where it is not known.

    `used` are the tensors that something reads: other outputs are not computed.

    Raises NoRule for an attribute or input that is not handled.
    """
    expansion = EXPANSIONS.get((node.domain, node.op_type))
    if expansion is None:
        return None
    emit = Emitter(forward.names, forward.opset, f"{node.op_type}/")
    values = expansion(RuleContext(forward, emit, node))
    for index, name in enumerate(node.output):
        value = values[index] if index < len(values) else None
        if value is not None and name:
            emit.nodes.append(_named(value, name))
        elif name in used:
            raise NoRule(f"its output {index} is used")
    forward.weights.update(emit.constants)
    return emit.nodes


def _named(value: Value, name: str) -> NodeProto:
    return NodeProto(op_type="Identity", name=value.emit.fresh("Identity"), input=[value.name], output=[name])


def skip_layer_normalization(context: RuleContext) -> list[Value | None]:
    """LayerNormalization of input + skip (+ bias); the sum is the fourth output."""
    total = context.x(0) + context.x(1)
    if context.has(4):
        total = total + context.x(4)
    scale, bias = context.x(2), context.x(3) if context.has(3) else None
    normal = _layer_normalization(total, scale, bias, context.number("epsilon", 1e-12))
    return [normal, None, None, total]


def skip_simplified_layer_normalization(context: RuleContext) -> list[Value | None]:
    """RMS normalisation of input + skip (+ bias); the sum is the fourth output."""
    total = context.x(0) + context.x(1)
    if context.has(3):
        total = total + context.x(3)
    return [_rms(total, context.x(2), context.number("epsilon", 1e-5)), None, None, total]


def simplified_layer_normalization(context: RuleContext) -> list[Value | None]:
    """RMS normalisation over the last axis."""
    if context.integer("axis", -1) != -1:
        raise NoRule("normalises other axes than the last")
    return [_rms(context.x(0), context.x(1), context.number("epsilon", 1e-5))]


def _layer_normalization(x: Value, scale: Value, bias: Value | None, epsilon: float) -> Value:
    return x.emit.op("LayerNormalization", x, scale, bias, dims=x.dims, axis=-1, epsilon=epsilon)


def _rms(x: Value, scale: Value, epsilon: float) -> Value:
    squares = x * x
    axes = x.emit.ints([-1])
    if x.emit.opset >= 18:
        mean = x.emit.op("ReduceMean", squares, axes, keepdims=1)
    else:
        mean = x.emit.op("ReduceMean", squares, axes=[-1], keepdims=1)
    return x / (mean + epsilon).apply("Sqrt") * scale


def embed_layer_normalization(context: RuleContext) -> list[Value | None]:
    """Word + position (+ segment) embeddings, normalised; the sum is the third output."""
    emit, ids = context.emit, context.x(0)
    total = emit.op("Gather", context.x(2), ids, axis=0)
    if context.has(8):
        total = total + emit.op("Gather", context.x(3), context.x(8), axis=0)
    else:
        length = emit.op("Squeeze", emit.size(ids, 1), emit.ints([0]))
        zero, one = emit.scalar(0, INT64), emit.scalar(1, INT64)
        total = total + emit.op("Gather", context.x(3), emit.op("Range", zero, length, one), axis=0)
    if context.has(1):
        total = total + emit.op("Gather", context.x(4), context.x(1), axis=0)
    normal = _layer_normalization(total, context.x(5), context.x(6), context.number("epsilon", 1e-12))
    return [normal, None, total]


def attention(context: RuleContext) -> list[Value | None]:
    """Self-attention with packed weights: input · W + b, split into heads, softmax(QKᵀ·scale + masks) V."""
    if context.has(4) or context.has(6) or context.integer("do_rotary", 0):
        raise NoRule("past keys or rotary embeddings")
    emit, x, weight = context.emit, context.x(0), context.x(1)
    heads = context.integer("num_heads", 0)
    sizes = context.integers("qkv_hidden_sizes")
    if not sizes:
        if weight.dims is None or not isinstance(weight.dims[1], int):
            raise NoRule("the width of its weights is unknown")
        sizes = [weight.dims[1] // 3] * 3
    packed = emit.op("MatMul", x, weight)
    if context.has(2):
        packed = packed + context.x(2)
    parts = emit.ops("Split", [packed, emit.ints(sizes)], 3, axis=-1)
    q, k, v = (_heads(part, heads, size) for part, size in zip(parts, sizes, strict=True))
    scale = context.number("scale", 0.0) or 1 / math.sqrt(sizes[0] // heads)
    scores = emit.op("MatMul", q * scale, emit.op("Transpose", k, perm=[0, 1, 3, 2]))
    for mask in _masks(context, x):
        scores = scores + mask
    mixed = emit.op("MatMul", emit.op("Softmax", scores, axis=-1), v)
    joined = emit.op("Transpose", mixed, perm=[0, 2, 1, 3])
    return [reshape(joined, [0, 0, sizes[2]])]


def _heads(x: Value, heads: int, width: int) -> Value:
    return x.emit.op("Transpose", reshape(x, [0, 0, heads, width // heads]), perm=[0, 2, 1, 3])


def _masks(context: RuleContext, x: Value) -> list[Value]:
    """What is added to the scores: the key mask, the causal mask, a given bias."""
    emit, masks = context.emit, []
    low = context.number("mask_filter_value", -10000.0)
    length = emit.size(x, 1)
    if context.has(3):
        masks.append(_key_mask(context, length, x.elem, low))
    if context.integer("unidirectional", 0):
        square = emit.op("Expand", emit.constant(np.ones((1, 1), np.int64)), emit.concat([length, length]))
        seen = emit.op("Trilu", square, upper=0)
        masks.append((1.0 - seen.cast(x.elem)) * low)
    if context.has(5):
        masks.append(context.x(5))
    return masks


def _key_mask(context: RuleContext, length: Value, elem: int, low: float) -> Value:
    emit, mask = context.emit, context.x(3)
    if mask.rank == 1:
        zero, one = emit.scalar(0, INT64), emit.scalar(1, INT64)
        positions = emit.op("Range", zero, emit.op("Squeeze", length, emit.ints([0])), one)
        mask = emit.op("Less", positions, unsqueeze(mask.cast(INT64), [1]), elem=INT64).like(mask)
        return unsqueeze_at((1.0 - emit.op("Cast", mask, elem=elem, to=elem)) * low, [1, 2])
    if mask.rank not in (2, 3):
        raise NoRule("a mask of this rank")
    return unsqueeze_at((1.0 - mask.cast(elem)) * low, [1, 2] if mask.rank == 2 else [1])


def unsqueeze_at(x: Value, axes: list[int]) -> Value:
    """Return x with axes of extent 1 at these places, whatever is known of its rank."""
    return x.emit.op("Unsqueeze", x, x.emit.ints(axes))


EXPANSIONS: Mapping[tuple[str, str], Expansion] = MappingProxyType(
    {
        (MICROSOFT, "SkipLayerNormalization"): skip_layer_normalization,
        (MICROSOFT, "SkipSimplifiedLayerNormalization"): skip_simplified_layer_normalization,
        (MICROSOFT, "EmbedLayerNormalization"): embed_layer_normalization,
        (MICROSOFT, "Attention"): attention,
        (MICROSOFT, "FusedConv"): fused_conv,
        (MICROSOFT, "FusedGemm"): fused_gemm,
        ("", "SimplifiedLayerNormalization"): simplified_layer_normalization,
        (MICROSOFT, "SimplifiedLayerNormalization"): simplified_layer_normalization,
    }
)
