"""What the knapsack chooses from: groups of options, some of which are tied to those of other groups. Pure arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Tie:
    """rows: (m, groups), each one option of every one of the `groups`: all of a row are taken, or none of it.

    A group is in one tie at most, and has at least one option in none of its rows.
    """

    groups: tuple[int, ...]
    rows: Array

    def summed(self, values: Sequence[Array]) -> Array:
        """Return (m,) what every row sums to; values: (options,) of all groups there are."""
        return np.asarray(sum(values[g][self.rows[:, i]] for i, g in enumerate(self.groups)))


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """losses, costs: arrays (options,) a group. free: how many of them, the first ones, are in no row of `ties`.

    The free ones are undominated and sorted by rising cost.
    """

    losses: Sequence[Array]
    costs: Sequence[Array]
    free: Sequence[int]
    ties: Sequence[Tie] = ()

    def least(self, worth: Sequence[Array]) -> list[int]:
        """Return the picks of least summed `worth`, (options,) a group."""
        picks = [int(np.argmin(values[:count])) for values, count in zip(worth, self.free, strict=True)]
        for tie in self.ties:
            together = tie.summed(worth)
            best = int(np.argmin(together))
            if together[best] < sum(float(worth[g][picks[g]]) for g in tie.groups):
                for group, option in zip(tie.groups, tie.rows[best], strict=True):
                    picks[group] = int(option)
        return picks
