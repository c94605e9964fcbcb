"""Factors of a weight: stages, applied one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from onnx_lowrank.types.arrays import Array

Ranks: TypeAlias = tuple[int, ...]
"""The inner widths of a chain; one number for a pair of factors."""
Layout: TypeAlias = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
"""A chain without its numbers: (weight shape, owned spatial axes) a stage."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One factor: weight (out, in, *spatial) and the spatial axes whose stride, pad and dilation it carries.

    With `groups` it is block-diagonal: (out, in of one group, *spatial). passed: rows of the output that are
    the stage's inputs, in their order: an identity block that is not stored; `weight` holds the other rows alone. A
    stage lets all of its inputs pass through, or none.
    """

    weight: Array
    owns: tuple[int, ...] = ()
    groups: int = 1
    passed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.weight.shape[0] % self.groups:
            raise ValueError(f"{self.weight.shape[0]} outputs cannot be divided into {self.groups} groups")
        if self.weight.ndim < 2:
            raise ValueError(f"a stage needs (out, in, *spatial), got shape {self.weight.shape}")
        for axis, size in enumerate(self.weight.shape[2:]):
            if size > 1 and axis not in self.owns:
                raise ValueError(f"kernel {size} on axis {axis}, which the stage does not own")
        if self.passed:
            self._check_passed()
        self.weight.flags.writeable = False

    def _check_passed(self) -> None:
        if self.groups > 1 or self.owns:
            raise ValueError("rows pass through a stage of one group that owns no axes")
        if len(self.passed) != self.weight.shape[1]:
            raise ValueError(f"{len(self.passed)} rows for {self.weight.shape[1]} inputs that pass through")
        if len(set(self.passed)) < len(self.passed) or not all(0 <= row < self.rows for row in self.passed):
            raise ValueError(f"rows {self.passed} of {self.rows}")

    @property
    def rows(self) -> int:
        """How many outputs there are, those that pass through included."""
        return int(self.weight.shape[0]) + len(self.passed)

    @property
    def full(self) -> Array:
        """The weight with the rows that pass through: (rows, in, *spatial)."""
        if not self.passed:
            return self.weight
        whole = np.zeros((self.rows, *self.weight.shape[1:]), self.weight.dtype)
        whole[list(self.passed), range(len(self.passed))] = 1
        whole[np.setdiff1d(np.arange(self.rows), self.passed)] = self.weight
        return whole


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Stages applied first to last; each owns its axes alone, and neighbours' widths agree."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        for first, second in zip(self.stages, self.stages[1:], strict=False):
            if first.rows != second.weight.shape[1] * second.groups:
                raise ValueError(f"widths differ: {first.weight.shape} then {second.weight.shape}")
        owned = [axis for stage in self.stages for axis in stage.owns]
        if len(owned) != len(set(owned)):
            raise ValueError("an axis is owned by two stages")

    @property
    def transposed(self) -> Chain:
        """The chain of the transposed weight, of matrices. Raises ValueError where rows pass through a stage."""
        if any(stage.passed for stage in self.stages):
            raise ValueError("a stage that rows pass through has no transpose of its kind")
        return Chain(tuple(Stage(stage.weight.T, groups=stage.groups) for stage in reversed(self.stages)))

    @property
    def layout(self) -> Layout:
        """Shape and owned axes of every stage."""
        return tuple((stage.weight.shape, stage.owns) for stage in self.stages)
