"""Nodes that move axes, or work along some: an order passes beside those, and is seen along them."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_lowrank.graph.orders.elementwise import alike, elementwise
from onnx_lowrank.graph.orders.region import Edit, SeenError
from onnx_lowrank.graph.orders.shapes import aligned
from onnx_lowrank.graph.orders.touch import NOTHING, Effects, Touch, place


def transpose(touch: Touch) -> Effects:
    """Axes of the output, by those of the input."""
    default = tuple(reversed(range(touch.rank(touch.slot))))
    return _moved(touch, touch.attributes.get("perm", default), len(default))


def squeeze(touch: Touch) -> Effects:
    """Axes of size 1 go."""
    touch.only_data()
    dims = touch.dims(0)
    axes = touch.numbers(1, "axes")
    if axes is None:
        if None in dims:
            raise SeenError("Squeeze of unknown axes")
        axes = tuple(axis for axis, size in enumerate(dims) if size == 1)
    gone = {axis % len(dims) for axis in axes}
    return _moved(touch, [axis for axis in range(len(dims)) if axis not in gone], len(dims))


def unsqueeze(touch: Touch) -> Effects:
    """Axes of size 1 come."""
    touch.only_data()
    axes, rank = touch.numbers(1, "axes") or (), touch.rank(0)
    new = {axis % (rank + len(axes)) for axis in axes}
    old = iter(range(rank))
    return _moved(touch, [None if axis in new else next(old) for axis in range(rank + len(axes))], rank)


def reduction(touch: Touch) -> Effects:
    """Over the channels it ends the order, as a sum or an extreme of all does not depend on it."""
    touch.only_data()
    rank = touch.rank(0)
    axes = touch.numbers(1, "axes")
    if not axes and touch.attributes.get("noop_with_empty_axes", 0):
        return alike(touch)
    over = {axis % rank for axis in axes or range(rank)}
    if touch.inside and touch.axis + rank in over:
        return NOTHING
    keep = touch.attributes.get("keepdims", 1)
    sources = [None if axis in over else axis for axis in range(rank) if keep or axis not in over]
    return _moved(touch, sources, rank)


def reshape(touch: Touch) -> Effects:
    """Only where nothing but axes of size 1 comes or goes."""
    touch.only_data()
    axes = aligned(touch.dims(0), touch.dims(None))
    there = axes if touch.inside else {after: before for before, after in axes.items()}
    if touch.axis not in there:
        raise SeenError(f"{touch.node.op_type} may divide or join the axis")
    other = there[touch.axis]
    return touch.output(other if touch.inside else touch.axis) + touch.operand(0, touch.axis if touch.inside else other)


def gather(touch: Touch) -> Effects:
    """Its indices are numbers of channels where it picks these; of others it may pick what it likes."""
    touch.only_data()
    rank, indices = touch.rank(0), touch.rank(1)
    axis = int(touch.attributes.get("axis", 0)) % rank
    sources: list[int | None] = [*range(axis), *(None for _ in range(indices)), *range(axis + 1, rank)]
    if touch.inside and touch.axis + rank == axis:
        if touch.name(1) not in touch.constants:
            raise SeenError("Gather picks computed channels")
        return Effects(edits=(Edit(place(touch.node), 1, numbers=True),))
    if not touch.inside and indices == 1 and touch.axis + len(sources) == axis:
        if touch.name(1) not in touch.constants:
            raise SeenError("Gather puts channels in a computed order")
        return touch.operand(1, -1)
    return _moved(touch, sources, rank)


def concat(touch: Touch) -> Effects:
    """Along another axis all parts lie in the same order."""
    if touch.from_end(int(touch.attributes["axis"]), touch.rank(touch.slot)) == touch.axis:
        raise SeenError("Concat along the axis")
    return elementwise(touch)


def slicing(touch: Touch) -> Effects:
    """Slice of other axes."""
    axes = touch.numbers(3, "axes")
    if axes is None:
        raise SeenError("Slice of the first axes")
    return _beside(touch, axes)


def pad(touch: Touch) -> Effects:
    """Pad of other axes, or by nothing."""
    pads, rank = touch.numbers(1, "pads") or (), touch.rank(touch.slot)
    axes = touch.numbers(3, "axes") or tuple(range(rank))
    ends = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    return _beside(touch, [axis for axis, before, after in ends if before or after])


def resize(touch: Touch) -> Effects:
    """Resize and Upsample of other axes: those of scale 1, or of a size that stays."""
    crops = touch.attributes.get("coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
    if crops or touch.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise SeenError("Resize crops, or keeps an aspect ratio")
    rank = touch.rank(touch.slot)
    axes = touch.attributes.get("axes") or tuple(range(rank))
    if touch.axis + rank not in {axis % rank for axis in axes}:
        return alike(touch)
    if touch.name(3):  # sizes
        stays = touch.dims(None)[touch.axis] == touch.dims(0)[touch.axis] == touch.size
    else:
        scales = touch.attributes.get("scales") or touch.array(min(2, len(touch.node.input) - 1)).ravel()
        by_axis = {axis % rank: scale for axis, scale in zip(axes, scales, strict=True)}
        stays = by_axis[touch.axis + rank] == 1
    if not stays:
        raise SeenError(f"{touch.node.op_type} may change the axis")
    return alike(touch)


def _beside(touch: Touch, axes: Sequence[int]) -> Effects:
    """Return the effects of a node that works along axes of its input, and passes others on."""
    rank = touch.rank(touch.slot)
    if touch.axis + rank in {axis % rank for axis in axes}:
        raise SeenError(f"{touch.node.op_type} along the axis")
    return alike(touch)


def _moved(touch: Touch, sources: Sequence[int | None], rank: int) -> Effects:
    """Return the effects of a node whose output has, axis by axis, these axes of its input of `rank` axes."""
    touch.only_data()
    count = len(sources)
    if touch.inside:
        inner = touch.axis + rank
        if inner not in sources:
            raise SeenError(f"{touch.node.op_type} takes the axis away")
        return touch.operand(0, touch.axis) + touch.output(sources.index(inner) - count)
    source = sources[touch.axis + count]
    if source is None:
        raise SeenError(f"{touch.node.op_type} makes the axis")
    return touch.output(touch.axis) + touch.operand(0, source - rank)
