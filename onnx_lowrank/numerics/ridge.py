"""Ridge least squares towards an existing factor, the ridge chosen on held-out rows (docs/method.md, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.numerics.gram import add_gram, mirror
from onnx_lowrank.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """own: (rank, rank) Σ v vᵀ, its upper triangle; crossed: (out, rank) Σ y vᵀ; float64. They grow in place."""

    own: Array
    crossed: Array

    @staticmethod
    def none(last: Array) -> Products:
        """Return those of no samples, for a last factor (out, rank)."""
        return Products(np.zeros((last.shape[1],) * 2), np.zeros(last.shape))

    def add(self, y: Array, v: Array) -> None:
        """Add (positions, out) outputs and (positions, rank) channels; NaN where they differ in positions."""
        if len(v) != len(y):
            self.own.fill(np.nan)
            return
        add_gram(self.own, v, 1)
        with np.errstate(all="ignore"):  # what is not finite is seen in the sums
            np.add(self.crossed, y.T @ v, out=self.crossed)


@dataclass(frozen=True, slots=True, eq=False)
class RidgeSums:
    """G: (rank, rank) and D: (out, rank) Σ α² v vᵀ and Σ (y − α L v) α vᵀ, float64. Additive."""

    G: Array
    D: Array

    @staticmethod
    def towards(last: Array, products: Products) -> RidgeSums:
        """Return the sums for a last factor L (out, rank)."""
        own = products.own.copy()
        mirror(own)
        with np.errstate(all="ignore"):  # what is not finite is seen in the sums
            return RidgeSums(own, products.crossed - last @ own)

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

    def step(self, ridge: float) -> Array:
        """Return Δ (out, rank) for one ridge above 0, without a decomposition."""
        energy = float(np.trace(self.G)) / len(self.G)
        if energy <= 0:
            return np.zeros_like(self.D)
        return linalg.solve_definite(self.G + ridge * energy * np.eye(len(self.G)), self.D.T).T

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
    return last + both.step(ridges[best]) if gains[best] > 0 else None
