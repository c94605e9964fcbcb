"""Factors of a weight: stages, applied one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from onnx_lowrank.types.arrays import Array

Ranks: TypeAlias = tuple[int, ...]
"""The inner widths of a chain; one number for a pair of factors."""
Layout: TypeAlias = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
"""A chain without its numbers: (weight shape, owned spatial axes) a stage."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One factor: weight (out, in, *spatial) and the spatial axes whose stride, pad and dilation it carries.

    With `groups` it is block-diagonal: (out, in of one group, *spatial).
    """

    weight: Array
    owns: tuple[int, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        if self.weight.shape[0] % self.groups:
            raise ValueError(f"{self.weight.shape[0]} outputs cannot be dealt to {self.groups} groups")
        if self.weight.ndim < 2:
            raise ValueError(f"a stage needs (out, in, *spatial), got shape {self.weight.shape}")
        for axis, size in enumerate(self.weight.shape[2:]):
            if size > 1 and axis not in self.owns:
                raise ValueError(f"kernel {size} on axis {axis}, which the stage does not own")
        self.weight.flags.writeable = False


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Stages applied first to last; each owns its axes alone, and neighbours' widths agree."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        for first, second in zip(self.stages, self.stages[1:], strict=False):
            if first.weight.shape[0] != second.weight.shape[1] * second.groups:
                raise ValueError(f"widths differ: {first.weight.shape} then {second.weight.shape}")
        owned = [axis for stage in self.stages for axis in stage.owns]
        if len(owned) != len(set(owned)):
            raise ValueError("an axis is owned by two stages")

    @property
    def transposed(self) -> Chain:
        """The chain of the transposed weight, of matrices."""
        return Chain(tuple(Stage(stage.weight.T, groups=stage.groups) for stage in reversed(self.stages)))

    @property
    def layout(self) -> Layout:
        """Shape and owned axes of every stage."""
        return tuple((stage.weight.shape, stage.owns) for stage in self.stages)
