"""Operators that move elements without changing them."""

from __future__ import annotations

from onnx_lowrank.gradient.emitter import NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.tensor_ops import reduce_sum, reshape, reshape_like, transpose, zeros_like


def reshaped(context: RuleContext) -> Gradients:
    """Reshape, Flatten, Squeeze, Unsqueeze: back to the shape of the input."""
    return [reshape_like(context.g, context.x())]


def transposed(context: RuleContext) -> Gradients:
    """The inverse permutation; reversing all axes undoes itself."""
    g, perm = context.g, context.integers("perm")
    if perm is None:
        return [context.emit.op("Transpose", g, dims=context.x().dims)]
    inverse = sorted(range(len(perm)), key=lambda axis: perm[axis])
    return [transpose(g, inverse).like(context.x())]


def concat(context: RuleContext) -> Gradients:
    """Each part's slice of g."""
    parts = [context.x(i) for i in range(len(context.node.input))]
    axis = context.integer("axis", 0)
    if len(parts) == 1:
        return [context.g]
    sizes = _sizes(context, parts, axis)
    pieces = context.emit.ops("Split", [context.g, sizes], len(parts), axis=axis)
    return [piece.like(part) for piece, part in zip(pieces, parts, strict=True)]


def _sizes(context: RuleContext, parts: list[Value], axis: int) -> Value:
    known = [part.dims[axis] if part.dims is not None else None for part in parts]
    if all(isinstance(size, int) for size in known):
        return context.emit.ints([size for size in known if isinstance(size, int)])
    return context.emit.concat([context.emit.size(part, axis) for part in parts])


def split(context: RuleContext) -> Gradients:
    """The parts of g together again, zeros for a part that nothing depends on."""
    parts = [
        grad if grad is not None else zeros_like(context.y(i))
        for i, grad in enumerate(context.grads)
        if context.node.output[i]
    ]
    if len(parts) == 1:
        return [parts[0]]
    return [context.emit.op("Concat", *parts, dims=context.x().dims, axis=context.integer("axis", 0))]


def tile(context: RuleContext) -> Gradients:
    """The sum over the copies."""
    x, g, emit = context.x(), context.g, context.emit
    shape, repeats = emit.shape(x), context.x(1)
    pairs = emit.op("Concat", reshape(repeats, [-1, 1]), reshape(shape, [-1, 1]), axis=1)
    apart = reshape(g, reshape(pairs, [-1]))
    return [reduce_sum(apart, emit.ints(range(0, 2 * x.rank, 2)), keepdims=False).like(x)]


def depth_to_space(context: RuleContext) -> Gradients:
    """The blocks taken apart again, in the order that `mode` names."""
    x, g, emit, block = context.x(), context.g, context.emit, context.integer("blocksize", 1)
    if x.rank != 4:
        raise NoRule("an input that is not NCHW")
    mode = context.text("mode", "DCR")
    high, wide, b = emit.size(x, 2), emit.size(x, 3), emit.ints([block])
    six = reshape(g, emit.concat([emit.ints([0, -1]), high, b, wide, b]))
    perm = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    return [reshape_like(emit.op("Transpose", six, perm=perm), x)]


def space_to_depth(context: RuleContext) -> Gradients:
    """DepthToSpace in the mode that undoes it."""
    block = context.integer("blocksize", 1)
    return [context.emit.op("DepthToSpace", context.g, dims=context.x().dims, blocksize=block, mode="DCR")]
