"""What an order of channels concerns: tensors, inputs of nodes, and the constants behind those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Edit:
    """An input of a node (by the first output of the node) whose constant has to follow the order.

    axis: along which the channels lie, counted from the end. numbers: the constant holds numbers of channels instead,
    as the indices of a Gather do; the axis means nothing then.
    """

    node: str
    slot: int
    axis: int = -1
    numbers: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to a constant: rearranged along an axis (from the end), or its numbers of channels replaced."""

    axis: int = -1
    numbers: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A stored constant (an initializer's or a Constant node's name) and the steps that rearrange it.

    readers: (first output of a node, slot) that are to read a rearranged copy, as others read the constant, too; empty
    where the constant itself is rearranged.
    """

    constant: str
    steps: tuple[Step, ...]
    readers: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """All that has to follow when the channels of a tensor get another order; nothing else sees which one it is.

    axes: tensor -> the axis of its channels, from the end. edits: inputs with a constant behind them. changes: what
    that takes, constant by constant.
    """

    axes: Mapping[str, int]
    edits: frozenset[Edit]
    changes: tuple[Change, ...]

    @property
    def tensors(self) -> frozenset[str]:
        """Tensors whose channels change places."""
        return frozenset(self.axes)

    def conflicts(self, other: Region) -> bool:
        """Return whether both cannot have an order of their own."""
        mine, theirs = ({change.constant for change in region.changes} for region in (self, other))
        return not (
            self.tensors.isdisjoint(other.tensors)
            and self.edits.isdisjoint(other.edits)
            and not any(self._steps(name) & other._steps(name) for name in mine & theirs)
        )

    def _steps(self, constant: str) -> set[Step]:
        """Return what is done to a constant in place; copies are nobody else's."""
        here = [change for change in self.changes if change.constant == constant and not change.readers]
        return {step for change in here for step in change.steps}


@dataclass(frozen=True, slots=True)
class Seen:
    """Why the order of a tensor's channels cannot be changed. False, so that a region can be asked for by `if`."""

    why: str

    def __bool__(self) -> Literal[False]:
        return False


class SeenError(Exception):
    """Raised inside this folder with what becomes a `Seen`."""
