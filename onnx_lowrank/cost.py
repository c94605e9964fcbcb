"""What a form of a weight costs: stored elements, bytes, multiply-accumulates a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx_lowrank.types import Cost, Layout, NumberFormat, Positions, Site


def own_layout(site: Site) -> Layout:
    """Return the layout of the weight as it is: one stage that owns every axis."""
    return ((site.shape, tuple(range(len(site.shape) - 2))),)


def layout_parameters(layout: Layout) -> int:
    """Return the stored elements of a chain; rows that pass through are not stored."""
    return sum(math.prod(shape) for shape, _ in layout)


def layout_macs(layout: Layout, positions: Positions) -> float:
    """Return the multiply-accumulates of a chain for one sample.

    A stage works at the output extent of the axes that it or a stage before it owns, at the input extent of the rest; a
    transposed convolution at the input extent of its own. A lookup, the first stage of a table's chain, costs nothing.
    """
    done: set[int] = set()
    total = 0.0
    for shape, owns in layout[1:] if positions.at == "nowhere" else layout:
        works = done | set(owns) if positions.at == "after" else done
        extent = [
            positions.after[axis] if axis in works else positions.before[axis] for axis in range(len(positions.before))
        ]
        total += positions.calls * math.prod(extent) * math.prod(shape)
        done = done | set(owns)
    return total


def unchanged_cost(site: Site, positions: Sequence[Positions]) -> Cost:
    """Return the cost of a weight as it is, its bytes those of its own numbers; `positions`: one entry a call."""
    return _cost(site, own_layout(site), positions, site.dense_itemsize or site.itemsize)


def chain_cost(site: Site, layout: Layout, positions: Sequence[Positions]) -> Cost:
    """Return the cost of a site stored as a chain; `positions` has one entry for each node that shares the weight."""
    return _cost(site, layout, positions, site.itemsize)


def _cost(site: Site, layout: Layout, positions: Sequence[Positions], itemsize: int) -> Cost:
    parameters = layout_parameters(layout)
    macs = math.fsum(layout_macs(layout, where) for where in positions)
    return Cost(parameters=parameters, bytes=parameters * itemsize + scale_bytes(site, layout), macs=macs)


def format_bytes(layout: Layout, *numbers: NumberFormat, looked_up: bool = False) -> int:
    """Return the bytes of a chain in a number format, or in one for each stage.

    looked_up: of a table of which rows are looked up. Raises ValueError for another number of formats.
    """
    each = numbers if len(numbers) > 1 else numbers * len(layout)
    return sum(
        number.bytes(shape, looked_up=looked_up, rows=looked_up and place == 0)
        for place, ((shape, _), number) in enumerate(zip(layout, each, strict=True))
    )


def scale_bytes(site: Site, layout: Layout) -> int:
    """Return what the scales of quantised factors take: each stage has its own."""
    if not site.scale_bytes:
        return 0
    return site.scale_bytes * sum(1 if site.scale_axis is None else shape[site.scale_axis] for shape, _ in layout)
