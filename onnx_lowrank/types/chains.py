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

    With `groups` it is block-diagonal: (out, in of one group, *spatial). Identity blocks are not stored; they are of
    one kind, and every group has one. passed: the rows of the output that are the stage's inputs, in their order:
    [I; C] up to the order of rows, of which `weight` holds the others, C. added: the inputs, one for each output in
    their order, that are added to it as they are: [I D] up to the order of columns, of which `weight` holds D.
    """

    weight: Array
    owns: tuple[int, ...] = ()
    groups: int = 1
    passed: tuple[int, ...] = ()
    added: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.weight.shape[0] % self.groups:
            raise ValueError(f"{self.weight.shape[0]} outputs cannot be divided into {self.groups} groups")
        if self.weight.ndim < 2:
            raise ValueError(f"a stage needs (out, in, *spatial), got shape {self.weight.shape}")
        for axis, size in enumerate(self.weight.shape[2:]):
            if size > 1 and axis not in self.owns:
                raise ValueError(f"kernel {size} on axis {axis}, which the stage does not own")
        if self.passed or self.added:
            self._check_identity()
        self.weight.flags.writeable = False

    def _check_identity(self) -> None:
        if self.owns or (self.passed and self.added):
            raise ValueError("an identity block is in a stage that owns no axes, and is of one kind")
        rows, columns = self.weight.shape[0], self.weight.shape[1] * self.groups
        kind, needed = ("rows", columns) if self.passed else ("columns", rows)
        given, width = self.identity, (self.rows if self.passed else self.columns) // self.groups
        if len(given) != needed:
            raise ValueError(f"{len(given)} {kind} for an identity of {needed}")
        own = [place // (needed // self.groups) for place in range(needed)]  # the group of every given number
        if len(set(given)) < needed or any(number // width != group for number, group in zip(given, own, strict=True)):
            raise ValueError(f"{kind} {given} of {width} in every group")

    @property
    def identity(self) -> tuple[int, ...]:
        """The rows that pass or the columns that are added; empty where the whole weight is stored."""
        return self.passed or self.added

    @property
    def rows(self) -> int:
        """How many outputs there are, those that pass through included."""
        return int(self.weight.shape[0]) + len(self.passed)

    @property
    def columns(self) -> int:
        """How many inputs there are in all groups, those that are added included."""
        return int(self.weight.shape[1]) * self.groups + len(self.added)

    @property
    def full(self) -> Array:
        """The weight with its identity block: (rows, columns of one group, *spatial)."""
        if not self.identity:
            return self.weight
        of_group = self.columns // self.groups
        whole = np.zeros((self.rows, of_group, *self.weight.shape[2:]), self.weight.dtype)
        if self.passed:
            whole[list(self.passed), np.arange(self.columns) % of_group] = 1
            whole[np.setdiff1d(np.arange(self.rows), self.passed)] = self.weight
            return whole
        whole[np.arange(self.rows), np.asarray(self.added) % of_group] = 1
        blocks = np.split(whole, self.groups)  # views
        rest = np.setdiff1d(np.arange(self.columns), self.added).reshape(self.groups, -1) % of_group
        for block, columns, stored in zip(blocks, rest, np.split(self.weight, self.groups), strict=True):
            block[:, columns] = stored
        return whole

    @property
    def transposed(self) -> Stage:
        """The stage of the transposed matrix, in one group: rows that pass become columns that are added."""
        return Stage(self.weight.T, groups=self.groups, passed=self.added, added=self.passed)


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Stages applied first to last; each owns its axes alone, and neighbours' widths agree."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        for first, second in zip(self.stages, self.stages[1:], strict=False):
            if first.rows != second.columns:
                raise ValueError(f"widths differ: {first.weight.shape} then {second.weight.shape}")
        owned = [axis for stage in self.stages for axis in stage.owns]
        if len(owned) != len(set(owned)):
            raise ValueError("an axis is owned by two stages")

    @property
    def transposed(self) -> Chain:
        """The chain of the transposed weight, of matrices."""
        return Chain(tuple(stage.transposed for stage in reversed(self.stages)))

    @property
    def layout(self) -> Layout:
        """Shape and owned axes of every stage."""
        return tuple((stage.weight.shape, stage.owns) for stage in self.stages)
