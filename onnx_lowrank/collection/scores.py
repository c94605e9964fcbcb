"""What the joint collection found: every site by every scheme, scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_lowrank.schemes import Factors
from onnx_lowrank.types import Array, Ranks, Site


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


@dataclass(slots=True, eq=False)
class Joint:
    """What collection found: (site id, scheme) -> Scored; site id -> why no gradient gets there; sites of no effect.

    overflowing: site id -> what is not finite there; such sites stay as they are.
    broken: the samples that were left out somewhere, not being finite; uneven: at some sites others than at others.
    """

    scored: dict[tuple[str, str], Scores] = field(default_factory=dict)
    unreached: dict[str, str] = field(default_factory=dict)
    dead: list[Site] = field(default_factory=list)
    overflowing: dict[str, str] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    uneven: bool = False


def never_rising(values: Array, ranks: Sequence[Ranks]) -> Array:
    """Return (options,) the least values that never rise with any of the ranks and are not below the given ones."""
    table = np.array(ranks)
    above = (table[None] >= table[:, None]).all(-1)  # [i, j]: option j has no smaller rank than option i
    return np.asarray(np.where(above, values[None], -np.inf).max(1))
