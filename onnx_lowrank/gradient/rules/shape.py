"""Operators that move elements without changing them."""

from __future__ import annotations

from onnx_lowrank.gradient.step import Gradients, Step
from onnx_lowrank.gradient.tensor_ops import reduce_sum, reshape, reshape_like, transpose, zeros_like
from onnx_lowrank.gradient.values import NoRule, Value


def reshaped(step: Step) -> Gradients:
    """Reshape, Flatten, Squeeze, Unsqueeze: back to the shape of the input."""
    return [reshape_like(step.g, step.x())]


def transposed(step: Step) -> Gradients:
    """The inverse permutation; reversing all axes undoes itself."""
    g, perm = step.g, step.integers("perm")
    if perm is None:
        return [step.emit.op("Transpose", g, dims=step.x().dims)]
    inverse = sorted(range(len(perm)), key=lambda axis: perm[axis])
    return [transpose(g, inverse).like(step.x())]


def concat(step: Step) -> Gradients:
    """Each part's slice of g."""
    parts = [step.x(i) for i in range(len(step.node.input))]
    axis = step.integer("axis", 0)
    if len(parts) == 1:
        return [step.g]
    sizes = _sizes(step, parts, axis)
    pieces = step.emit.ops("Split", [step.g, sizes], len(parts), axis=axis)
    return [piece.like(part) for piece, part in zip(pieces, parts, strict=True)]


def _sizes(step: Step, parts: list[Value], axis: int) -> Value:
    known = [part.dims[axis] if part.dims is not None else None for part in parts]
    if all(isinstance(size, int) for size in known):
        return step.emit.ints([size for size in known if isinstance(size, int)])
    return step.emit.concat([step.emit.size(part, axis) for part in parts])


def split(step: Step) -> Gradients:
    """The parts of g together again, zeros for a part that nothing depends on."""
    parts = [
        grad if grad is not None else zeros_like(step.y(i)) for i, grad in enumerate(step.grads) if step.node.output[i]
    ]
    if len(parts) == 1:
        return [parts[0]]
    return [step.emit.op("Concat", *parts, dims=step.x().dims, axis=step.integer("axis", 0))]


def tile(step: Step) -> Gradients:
    """The sum over the copies."""
    x, g, emit = step.x(), step.g, step.emit
    shape, repeats = emit.shape(x), step.x(1)
    pairs = emit.op("Concat", reshape(repeats, [-1, 1]), reshape(shape, [-1, 1]), axis=1)
    apart = reshape(g, reshape(pairs, [-1]))
    return [reduce_sum(apart, emit.ints(range(0, 2 * x.rank, 2)), keepdims=False).like(x)]


def depth_to_space(step: Step) -> Gradients:
    """The blocks taken apart again, in the order that `mode` names."""
    x, g, emit, block = step.x(), step.g, step.emit, step.integer("blocksize", 1)
    if x.rank != 4:
        raise NoRule("an input that is not NCHW")
    mode = step.text("mode", "DCR")
    high, wide, b = emit.size(x, 2), emit.size(x, 3), emit.ints([block])
    six = reshape(g, emit.concat([emit.ints([0, -1]), high, b, wide, b]))
    perm = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    return [reshape_like(emit.op("Transpose", six, perm=perm), x)]


def space_to_depth(step: Step) -> Gradients:
    """DepthToSpace in the mode that undoes it."""
    block = step.integer("blocksize", 1)
    return [step.emit.op("DepthToSpace", step.g, dims=step.x().dims, blocksize=block, mode="DCR")]
