"""Small compositions of ONNX operators that the rules share, written for shapes known only at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import helper

from onnx_lowrank.gradient.emitter import BOOL, INT64, Dims, Value, broadcast


def reshape(x: Value, shape: Value | Sequence[int], dims: Dims | None = None) -> Value:
    """Return x in another shape (0 copies an extent, -1 is what is left)."""
    target = shape if isinstance(shape, Value) else x.emit.ints(shape)
    return x.emit.op("Reshape", x, target, dims=dims)


def reshape_like(x: Value, other: Value) -> Value:
    """Return x in the shape of `other`; no Shape node where at most one extent is unknown."""
    dims = other.dims
    if dims is not None and x.dims == dims and None not in dims:
        return x
    if dims is not None and sum(not isinstance(size, int) for size in dims) == 1 and 0 not in dims:
        return reshape(x, [size if isinstance(size, int) else -1 for size in dims], dims)
    return reshape(x, x.emit.shape(other), dims)


def unsqueeze(x: Value, axes: Sequence[int]) -> Value:
    """Return x with axes of extent 1 at these places of the result (none negative)."""
    if not axes:
        return x
    dims: list[int | str | None] | None = None if x.dims is None else list(x.dims)
    if dims is not None:
        for axis in sorted(axes):
            dims.insert(axis, 1)
    return x.emit.op("Unsqueeze", x, x.emit.ints(axes), dims=None if dims is None else tuple(dims))


def transpose(x: Value, perm: Sequence[int]) -> Value:
    """Return x with its axes in another order; x itself where the order stays."""
    if list(perm) == list(range(len(perm))):
        return x
    dims = None if x.dims is None else tuple(x.dims[axis] for axis in perm)
    return x.emit.op("Transpose", x, dims=dims, perm=list(perm))


def swap_last(x: Value) -> Value:
    """Return the matrices in x transposed."""
    return transpose(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])


def matmul(a: Value, b: Value) -> Value:
    """Return a @ b for ranks of 2 or more."""
    dims = None
    if a.dims is not None and b.dims is not None:
        batch = broadcast(a.dims[:-2], b.dims[:-2])
        dims = None if batch is None else (*batch, a.dims[-2], b.dims[-1])
    return a.emit.op("MatMul", a, b, dims=dims)


def expand_like(x: Value, other: Value) -> Value:
    """Return x broadcast to the shape of `other`."""
    if x.dims is not None and x.dims == other.dims and None not in x.dims:
        return x
    return x.emit.op("Expand", x, x.emit.shape(other), dims=other.dims)


def reduced(x: Value, axes: Sequence[int], *, keepdims: bool) -> Dims | None:
    """Return what is known of the shape of x after a reduction over `axes`."""
    if x.dims is None:
        return None
    gone = {axis % len(x.dims) for axis in axes}
    return tuple(1 if i in gone else size for i, size in enumerate(x.dims) if keepdims or i not in gone)


def reduce_sum(x: Value, axes: Sequence[int] | Value, *, keepdims: bool) -> Value:
    """Return the sum over axes; nothing is reduced where `axes` is empty."""
    dims = None if isinstance(axes, Value) else reduced(x, axes, keepdims=keepdims)
    vector = axes if isinstance(axes, Value) else x.emit.ints(axes)
    return x.emit.op("ReduceSum", x, vector, dims=dims, keepdims=int(keepdims), noop_with_empty_axes=1)


def reduce_mean(x: Value, axes: Sequence[int]) -> Value:
    """Return the mean over axes, which stay with extent 1."""
    dims = reduced(x, axes, keepdims=True)
    if x.emit.opset >= 18:
        return x.emit.op("ReduceMean", x, x.emit.ints(axes), dims=dims, keepdims=1)
    return x.emit.op("ReduceMean", x, dims=dims, axes=list(axes), keepdims=1)


def count(x: Value, y: Value) -> Value:
    """Return how many elements of x make one of y, in the element type of x."""
    ratio = x.emit.op("Size", x, elem=INT64, dims=()) / x.emit.op("Size", y, elem=INT64, dims=())
    return ratio.cast(x.elem)


def zeros(shape: Value, elem: int, dims: Dims | None = None) -> Value:
    """Return zeros of a shape given as an int64 vector."""
    zero = helper.make_tensor("value", elem, (1,), [0])
    return shape.emit.op("ConstantOfShape", shape, elem=elem, dims=dims, value=zero)


def zeros_like(x: Value) -> Value:
    """Return zeros of the shape and type of x."""
    return zeros(x.emit.shape(x), x.elem, x.dims)


def where(condition: Value, yes: Value, no: Value) -> Value:
    """Return `yes` where the condition holds and `no` elsewhere; the shape of `yes` is the full one."""
    return condition.emit.op("Where", condition, yes, no, elem=yes.elem, dims=yes.dims)


def unbroadcast(g: Value, x: Value) -> Value:
    """Return g summed over the axes along which x was broadcast to the shape of g: the adjoint of broadcasting."""
    if g.dims is not None and x.dims is not None:
        if g.dims == x.dims and None not in g.dims:
            return g
        axes = _broadcast_axes(g.dims, x.dims)
        if axes is not None:
            summed = reduce_sum(g, axes, keepdims=True) if axes else g
            return summed if len(g.dims) == len(x.dims) else _drop_leading(summed, x)
    axes_now = _axes_at_run_time(g, x)
    summed = reduce_sum(g, axes_now, keepdims=True)
    return reshape(summed, x.emit.shape(x), x.dims)


def _drop_leading(summed: Value, x: Value) -> Value:
    extra = list(range(summed.rank - x.rank))
    return x.emit.op("Squeeze", summed, x.emit.ints(extra), dims=x.dims)


def _broadcast_axes(full: Dims, small: Dims) -> list[int] | None:
    """The axes to sum over, None where that shows only at run time."""
    extra = len(full) - len(small)
    axes = list(range(extra))
    for axis, (have, want) in enumerate(zip(full[extra:], small, strict=True), start=extra):
        if want == 1 and have != 1:
            axes.append(axis)
        elif not (isinstance(want, int) or have == 1 or (have == want and want is not None)):
            return None
    return axes


def _axes_at_run_time(g: Value, x: Value) -> Value:
    emit = g.emit
    full, small = emit.shape(g), emit.shape(x)
    if g.dims is not None and x.dims is not None:
        extra = len(g.dims) - len(x.dims)
        padded = emit.concat([emit.ints([1] * extra), small]) if extra else small
    else:
        missing = emit.op("Shape", full) - emit.op("Shape", small)
        one = helper.make_tensor("value", INT64, (1,), [1])
        padded = emit.concat([emit.op("ConstantOfShape", missing, elem=INT64, value=one), small])
    differs = emit.op("Not", emit.op("Equal", padded, full, elem=BOOL))
    return reshape(emit.op("NonZero", differs, elem=INT64), [-1])


def total(values: Sequence[Value]) -> Value:
    """Return the sum of tensors of one shape."""
    if len(values) == 1:
        return values[0]
    dims = next((value.dims for value in values if value.dims is not None), None)
    op_type = "Add" if len(values) == 2 else "Sum"
    return values[0].emit.op(op_type, *values, dims=dims)


def scatter_add(g: Value, positions: Value, x: Value, axis: int) -> Value:
    """Return zeros in the shape of x except along `axis`, with the slices of g added at `positions` (a vector).

    g has the shape of x except along `axis`, where it has one slice for each position.
    """
    emit = g.emit
    rank = g.rank
    ones = [1] * rank
    ones[axis] = -1
    index = emit.op("Expand", reshape(positions, ones), emit.shape(g), elem=INT64)
    whole = [emit.size(x, i) if i == axis else emit.size(g, i) for i in range(rank)]
    dims = None if x.dims is None or g.dims is None else (*g.dims[:axis], x.dims[axis], *g.dims[axis + 1 :])
    base = zeros(emit.concat(whole), g.elem, dims)
    return emit.op("ScatterElements", base, index, g, dims=dims, axis=axis, reduction="add")


def arange(size: Value) -> Value:
    """Return 0, 1, … below a size that is an int64 vector of one."""
    emit = size.emit
    zero, one = emit.scalar(0, INT64), emit.scalar(1, INT64)
    stop = emit.op("Squeeze", size, emit.ints([0]))
    return emit.op("Range", zero, stop, one)


def pad_axes(g: Value, room: Mapping[int, tuple[Value, Value]], x: Value) -> Value:
    """Return g in the shape of x: zeros before and after along some axes (counts are int64 vectors of one)."""
    none = g.emit.ints([0])
    before = [room[axis][0] if axis in room else none for axis in range(g.rank)]
    after = [room[axis][1] if axis in room else none for axis in range(g.rank)]
    return g.emit.op("Pad", g, g.emit.concat(before + after), dims=x.dims)
