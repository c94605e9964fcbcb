"""Ridge least squares towards an existing factor, the ridge chosen on held-out rows (docs/method.md, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class RidgeSums:
    """G: (rank, rank) and D: (out, rank) Σ α² v vᵀ and Σ (y − α L v) α vᵀ, float64. Additive."""

    G: Array
    D: Array

    def __add__(self, other: RidgeSums) -> RidgeSums:
        return RidgeSums(self.G + other.G, self.D + other.D)

    @property
    def finite(self) -> bool:
        """Whether they can be solved for."""
        return bool(np.isfinite(self.G).all() and np.isfinite(self.D).all())

    def steps(self, ridges: Sequence[float]) -> list[Array]:
        """Return Δ (out, rank) for every ridge; zero where nothing was seen."""
        energy = float(np.trace(self.G)) / len(self.G)
        if energy <= 0:
            return [np.zeros_like(self.D) for _ in ridges]
        values, vectors = linalg.eigen(self.G)
        rotated = self.D @ vectors
        return [(rotated / (values + ridge * energy)) @ vectors.T for ridge in ridges]

    def gain(self, step: Array) -> float:
        """Return by how much L + Δ lowers Σ‖y − L α v‖² on these samples."""
        return float(2 * np.vdot(step, self.D) - np.vdot(step @ self.G, step))


def refitted_factor(last: Array, halves: Sequence[RidgeSums], ridges: Sequence[float]) -> Array | None:
    """Return the refitted factor (out, rank), None where the old one should stay."""
    first_half, second_half = halves
    both = first_half + second_half
    if not both.finite:
        return None
    gains = [
        second_half.gain(on_first) + first_half.gain(on_second)
        for on_first, on_second in zip(first_half.steps(ridges), second_half.steps(ridges), strict=True)
    ]
    best = int(np.argmax(gains))
    return last + both.steps([ridges[best]])[0] if gains[best] > 0 else None
