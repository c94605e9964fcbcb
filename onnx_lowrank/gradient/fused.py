"""What onnxruntime's optimizer writes (com.microsoft), taken apart into standard operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np
from onnx import NodeProto

from onnx_lowrank.gradient.forward import Forward
from onnx_lowrank.gradient.fused_linear import fused_conv, fused_gemm
from onnx_lowrank.gradient.step import Step
from onnx_lowrank.gradient.tensor_ops import reshape, unsqueeze
from onnx_lowrank.gradient.values import INT64, Emitter, NoRule, Value

Expansion = Callable[[Step], "list[Value | None]"]
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
    values = expansion(Step(forward, emit, node))
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


def gelu(step: Step) -> list[Value | None]:
    """x Φ(x)."""
    return [_gelu(step.x())]


def _gelu(x: Value) -> Value:
    return x * 0.5 * ((x * math.sqrt(0.5)).apply("Erf") + 1.0)


def bias_gelu(step: Step) -> list[Value | None]:
    """Gelu of x + bias."""
    return [_gelu(step.x(0) + step.x(1))]


def fast_gelu(step: Step) -> list[Value | None]:
    """The tanh approximation of Gelu, with an optional bias."""
    x = step.x(0) + step.x(1) if step.has(1) else step.x(0)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    return [0.5 * x * (1.0 + inner.apply("Tanh"))]


def quick_gelu(step: Step) -> list[Value | None]:
    """x σ(αx)."""
    x = step.x()
    return [x * (x * step.number("alpha", 1.702)).apply("Sigmoid")]


def skip_layer_normalization(step: Step) -> list[Value | None]:
    """LayerNormalization of input + skip (+ bias); the sum is the fourth output."""
    total = step.x(0) + step.x(1)
    if step.has(4):
        total = total + step.x(4)
    scale, bias = step.x(2), step.x(3) if step.has(3) else None
    normal = _layer_normalization(total, scale, bias, step.number("epsilon", 1e-12))
    return [normal, None, None, total]


def skip_simplified_layer_normalization(step: Step) -> list[Value | None]:
    """RMS normalisation of input + skip (+ bias); the sum is the fourth output."""
    total = step.x(0) + step.x(1)
    if step.has(3):
        total = total + step.x(3)
    return [_rms(total, step.x(2), step.number("epsilon", 1e-5)), None, None, total]


def simplified_layer_normalization(step: Step) -> list[Value | None]:
    """RMS normalisation over the last axis."""
    if step.integer("axis", -1) != -1:
        raise NoRule("normalises other axes than the last")
    return [_rms(step.x(0), step.x(1), step.number("epsilon", 1e-5))]


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


def embed_layer_normalization(step: Step) -> list[Value | None]:
    """Word + position (+ segment) embeddings, normalised; the sum is the third output."""
    emit, ids = step.emit, step.x(0)
    total = emit.op("Gather", step.x(2), ids, axis=0)
    if step.has(8):
        total = total + emit.op("Gather", step.x(3), step.x(8), axis=0)
    else:
        length = emit.op("Squeeze", emit.size(ids, 1), emit.ints([0]))
        zero, one = emit.scalar(0, INT64), emit.scalar(1, INT64)
        total = total + emit.op("Gather", step.x(3), emit.op("Range", zero, length, one), axis=0)
    if step.has(1):
        total = total + emit.op("Gather", step.x(4), step.x(1), axis=0)
    normal = _layer_normalization(total, step.x(5), step.x(6), step.number("epsilon", 1e-12))
    return [normal, None, total]


def attention(step: Step) -> list[Value | None]:
    """Self-attention with packed weights: input · W + b, split into heads, softmax(QKᵀ·scale + masks) V."""
    if step.has(4) or step.has(6) or step.integer("do_rotary", 0):
        raise NoRule("past keys or rotary embeddings")
    emit, x, weight = step.emit, step.x(0), step.x(1)
    heads = step.integer("num_heads", 0)
    sizes = step.integers("qkv_hidden_sizes")
    if not sizes:
        if weight.dims is None or not isinstance(weight.dims[1], int):
            raise NoRule("the width of its weights is unknown")
        sizes = [weight.dims[1] // 3] * 3
    packed = emit.op("MatMul", x, weight)
    if step.has(2):
        packed = packed + step.x(2)
    parts = emit.ops("Split", [packed, emit.ints(sizes)], 3, axis=-1)
    q, k, v = (_heads(part, heads, size) for part, size in zip(parts, sizes, strict=True))
    scale = step.number("scale", 0.0) or 1 / math.sqrt(sizes[0] // heads)
    scores = emit.op("MatMul", q * scale, emit.op("Transpose", k, perm=[0, 1, 3, 2]))
    for mask in _masks(step, x):
        scores = scores + mask
    mixed = emit.op("MatMul", emit.op("Softmax", scores, axis=-1), v)
    joined = emit.op("Transpose", mixed, perm=[0, 2, 1, 3])
    return [reshape(joined, [0, 0, sizes[2]])]


def _heads(x: Value, heads: int, width: int) -> Value:
    return x.emit.op("Transpose", reshape(x, [0, 0, heads, width // heads]), perm=[0, 2, 1, 3])


def _masks(step: Step, x: Value) -> list[Value]:
    """What is added to the scores: the key mask, the causal mask, a given bias."""
    emit, masks = step.emit, []
    low = step.number("mask_filter_value", -10000.0)
    length = emit.size(x, 1)
    if step.has(3):
        masks.append(_key_mask(step, length, x.elem, low))
    if step.integer("unidirectional", 0):
        square = emit.op("Expand", emit.constant(np.ones((1, 1), np.int64)), emit.concat([length, length]))
        seen = emit.op("Trilu", square, upper=0)
        masks.append((1.0 - seen.cast(x.elem)) * low)
    if step.has(5):
        masks.append(step.x(5))
    return masks


def _key_mask(step: Step, length: Value, elem: int, low: float) -> Value:
    emit, mask = step.emit, step.x(3)
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
        (MICROSOFT, "Gelu"): gelu,
        (MICROSOFT, "BiasGelu"): bias_gelu,
        (MICROSOFT, "FastGelu"): fast_gelu,
        (MICROSOFT, "QuickGelu"): quick_gelu,
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
