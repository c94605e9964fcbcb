"""What the joint collection says: every site by every scheme, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from onnx_lowrank.schemes import Factors
from onnx_lowrank.types import Array, Ranks, Site

ScoreKey: TypeAlias = tuple[str, str]
"""Site id and the scheme's name."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One site by one scheme. ranks: n options. tails, slopes: (samples, n) −⟨Γ_s, δ⟩, sampled and real targets.

    rise, deviation: (n,) ½ E tail² and its standard error. kron: (n,) the A ⊗ B score, held out. held: the factors
    fitted without the first fold, whose `first` samples come first in `tails`.
    """

    factors: Factors
    ranks: tuple[Ranks, ...]
    tails: Array
    slopes: Array | None
    rise: Array
    deviation: Array
    kron: Array
    held: Factors
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class JointScores:
    """Groups of sites, scored; values of different groups add up.

    unreached: site id -> why no gradient gets there. dead: sites of no effect. overflowing: site id -> what is not
    finite there; such sites stay as they are. broken_by_group: the samples that each group has left out, not being
    finite.
    """

    scored: Mapping[ScoreKey, Scores] = field(default_factory=dict)
    unreached: Mapping[str, str] = field(default_factory=dict)
    dead: tuple[Site, ...] = ()
    overflowing: Mapping[str, str] = field(default_factory=dict)
    broken_by_group: tuple[frozenset[int], ...] = ()

    def __add__(self, other: JointScores) -> JointScores:
        """Return the scores of both."""
        return JointScores(
            {**self.scored, **other.scored},
            {**self.unreached, **other.unreached},
            (*self.dead, *other.dead),
            {**self.overflowing, **other.overflowing},
            (*self.broken_by_group, *other.broken_by_group),
        )

    @property
    def broken(self) -> frozenset[int]:
        """The samples that were left out somewhere."""
        return frozenset().union(*self.broken_by_group)

    @property
    def uneven(self) -> bool:
        """Whether at some sites other samples were left out than at others."""
        return any(group != self.broken for group in self.broken_by_group)


def never_rising(values: Array, ranks: Sequence[Ranks]) -> Array:
    """Return (options,) the least values that never rise with any of the ranks and are not below the given ones."""
    table = np.array(ranks)
    above = (table[None] >= table[:, None]).all(-1)  # [i, j]: option j has no smaller rank than option i
    return np.asarray(np.where(above, values[None], -np.inf).max(1))
