"""Interpolative factors: the same product without the numbers that are free (docs/method.md, section 7).

U V = (U G)(G⁻¹ V) for every invertible G. With G⁻¹ = U_J, J r of the rows of U, the last stage is P [I; C] and the one
before computes the chosen outputs themselves; with G = V_J, J r of the columns, the first is [I D] P and adds the other
inputs to the chosen ones. An identity is not stored, so every rank below min(m, n) saves: r(m + n − r) < mn.

It is a property of how factors are stored, whatever scheme made them: of any chain whose first stage narrows or whose
last one widens, without axes of its own (a pointwise stage). Every inner width has one such freedom, so of a pair one
side is interpolative, of three stages both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from onnx_lowrank.numerics.interpolative import Rows, free_rows
from onnx_lowrank.schemes.scheme import pointwise
from onnx_lowrank.types import Array, Chain, Layout, SideName, Stage

Choosing: TypeAlias = Callable[[Array], Rows | None]
"""Returns which rows of a factor (m, r) are chosen, and the others' coefficients; None where that cannot be."""


WORTH = 1 / 32
"""An identity of fewer numbers than this share of the two stages that it is between is stored: nodes cost time."""


def possible_sides(layout: Layout, groups: int) -> tuple[SideName, ...]:
    """Return the sides on which a chain has a pointwise stage with an identity in it, outputs first.

    groups: of the weight; a chain whose stages are grouped otherwise has no such side.
    """
    (first, first_owns), (last, last_owns) = layout[0], layout[-1]
    sides: list[SideName] = []
    alike = len(layout) > 1 and first[0] == layout[1][0][1] * groups
    if alike and not last_owns and last[0] > groups * last[1] and _worth(layout[-2][0], last, last[1]):
        sides.append("out")
    if alike and not first_owns and first[1] > first[0] // groups and _worth(first, layout[1][0], first[0] // groups):
        sides.append("in")
    return tuple(sides)


def _worth(before: tuple[int, ...], after: tuple[int, ...], rank: int) -> bool:
    """Return whether an identity of every group between two stages is worth its nodes."""
    groups = before[0] // rank
    return groups * rank**2 >= WORTH * (math.prod(before) + math.prod(after))


def stored_sides(layout: Layout, groups: int, able: Sequence[SideName]) -> tuple[SideName, ...]:
    """Return the sides that cost one identity each less: of a pair one, the outputs where both would do.

    able: the sides on which the operators can do it.
    """
    sides = tuple(side for side in possible_sides(layout, groups) if side in able)
    return sides if len(layout) > 2 else sides[:1]


def interpolative_layout(layout: Layout, groups: int, sides: Sequence[SideName]) -> Layout:
    """Return the layout without the identity blocks of `sides`."""
    stages = list(layout)
    if "in" in sides:
        (rows, columns, *ones), owns = stages[0]
        stages[0] = ((rows, columns - rows // groups, *ones), owns)
    if "out" in sides:
        (rows, columns, *ones), owns = stages[-1]
        stages[-1] = ((rows - groups * columns, columns, *ones), owns)
    return tuple(stages)


def interpolated(chain: Chain, side: SideName, choose: Choosing = free_rows) -> Chain | None:
    """Return the chain, float64, with an identity on one side; None where `choose` finds no rows for it.

    Raises ValueError where the stage on that side is not pointwise, or is no wider than its neighbour.
    """
    end, near = (-1, -2) if side == "out" else (0, 1)
    groups = chain.stages[end].groups
    if side not in possible_sides(chain.layout, groups):
        raise ValueError(f"{chain.layout}: no identity on the side {side!r}")
    sides = [_group(chain, group, side, choose) for group in range(groups)]
    if any(part is None for part in sides):
        return None
    parts = [part for part in sides if part is not None]
    stage, neighbour = chain.stages[end], chain.stages[near]
    width = (stage.rows if side == "out" else stage.columns) // groups
    chosen = tuple(int(row) + group * width for group, (rows, _) in enumerate(parts) for row in rows.chosen)
    spatial = stage.weight.ndim - 2
    weights = [rows.coefficients if side == "out" else rows.coefficients.T for rows, _ in parts]
    passed, added = (chosen, ()) if side == "out" else ((), chosen)
    stages = list(chain.stages)
    stages[end] = Stage(pointwise(np.concatenate(weights), spatial), groups=groups, passed=passed, added=added)
    moved = np.concatenate([other for _, other in parts])
    stages[near] = Stage(moved, neighbour.owns, neighbour.groups, neighbour.passed, neighbour.added)
    return Chain(tuple(stages))


def _group(chain: Chain, group: int, side: SideName, choose: Choosing) -> tuple[Rows, Array] | None:
    """Return the rows chosen of one group, and the block of the neighbouring stage that goes with them."""
    end, near = (-1, -2) if side == "out" else (0, 1)
    tall, other = (_block(chain.stages[place], group) for place in (end, near))
    tall = tall.reshape(tall.shape[:2])
    if side == "in":
        tall = tall.T
    rows = choose(tall)
    if rows is None:
        return None
    mixed = tall[rows.chosen]  # U_J, or V_Jᵀ
    if side == "out":
        return rows, np.tensordot(mixed, other, axes=1)
    return rows, np.moveaxis(np.tensordot(other, mixed.T, axes=(1, 0)), -1, 1)


def _block(stage: Stage, group: int) -> Array:
    return np.asarray(np.split(stage.weight, stage.groups)[group], np.float64)


def sides_of(chain: Chain, able: Sequence[SideName]) -> tuple[SideName, ...]:
    """Return `stored_sides` of a chain; none where its stages are grouped differently."""
    groups = {stage.groups for stage in chain.stages}
    return stored_sides(chain.layout, groups.pop(), able) if len(groups) == 1 else ()
