"""The loss of an arbitrary change δ of a site's weight: predicted from what was collected, or measured.

A sample's loss changes by ⟨Γ_s, δ⟩, and the mean loss by ½ E_s ⟨Γ_s, δ⟩² (docs/method.md, 3.1). What is collected on a
side says Σ_t z eᵀ of every scored sample, with which ⟨Γ_s, δ⟩ = Σ_t eᵀ M z is known where δ = M W on the outputs (z the
output, e its gradient), or δ = W M on the inputs (z the input, e what the weight passes on of the gradient): every
truncation that projects a side is such a change, and so is any change of a square weight that is invertible.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal

import numpy as np
import onnx

from onnx_lowrank.collection.collected import Collected
from onnx_lowrank.collection.sample_cache import CachedSample
from onnx_lowrank.numerics.kronecker_metric import SideMoments, rises
from onnx_lowrank.options import Runtime
from onnx_lowrank.sensitivity.substitution import Divergence, Substitutions, arriving
from onnx_lowrank.types import Array, Feed, SideName, Site
from onnx_lowrank.weights.inventory import Inventory

OUTSIDE = 1e-4
"""A change is taken as a projection's where less than this share of its norm is not: factors are float32."""
SIDES: tuple[SideName, ...] = ("out", "in")


@dataclass(frozen=True, slots=True)
class Predicted:
    """loss: of a sample, in the objective's unit. deviation: its standard error over samples, None where unknown.

    source: "samples" where single samples' gradients gave it, "moments" for ½ tr(B δ A δᵀ), which neglects how
    positions are correlated.
    """

    loss: float
    deviation: float | None
    source: Literal["samples", "moments"]


def loss_of_change(
    collected: Collected,
    inventory: Inventory,
    site: Site,
    delta: Array,
    *,
    samples: Collection[int] | None = None,
) -> Predicted:
    """Return the loss of adding `delta` (out, in, *spatial) to a site's weight, to second order.

    From the scored samples in the cache (`samples`: from those alone) where a collected side knows the change; else
    from the moments of all samples, of that side or of both. Raises ValueError where neither says anything of it.
    """
    weight = np.asarray(inventory.stored(site), np.float64)
    known = [(side, M) for side in SIDES if (M := _projection(weight, delta, side, site.groups)) is not None]
    cached = [number for part in collected.key.scored for number in part if number in collected.cache]
    chosen = [number for number in cached if samples is None or number in samples]
    for side, M in known:
        if any(wanted.site == site.id and wanted.side == side for wanted in collected.key.sides) and chosen:
            tail = np.array([_change(collected, site, side, M, number) for number in chosen])
            (loss,), (deviation,) = rises(tail[:, None])
            return Predicted(float(loss), float(deviation), "samples")
    for side, M in known:
        if (moments := _moments(collected, site, side)) is not None:
            return Predicted(_on_side(moments, M), None, "moments")
    inner, outer = _moments(collected, site, "in"), _moments(collected, site, "out")
    if inner is None or outer is None:
        raise ValueError(
            f"{site.id}: what was collected says nothing of a change that is no projection of one of its sides"
            f" ({', '.join(wanted.side for wanted in collected.key.sides if wanted.site == site.id) or 'none'})"
        )
    return Predicted(_on_both(inner, outer, delta, site.groups), None, "moments")


def measured_loss_of_change(
    model: onnx.ModelProto,
    inventory: Inventory,
    site: Site,
    weight: Array,
    feeds: Sequence[Feed],
    divergence: Divergence,
    runtime: Runtime,
    *,
    batch: int = 1,
) -> float:
    """Return the mean divergence of a sample with another weight (out, in, *spatial) at a site."""
    substitutions = Substitutions.of(model, inventory, [site], feeds, divergence, runtime, batch=batch)
    return substitutions.loss(site, arriving(inventory, site, weight))


def _projection(weight: Array, delta: Array, side: SideName, groups: int) -> Array | None:
    """Return (groups, d, d) M with δ = M W on the outputs, δ = W M on the inputs; None where there is none."""
    parts = []
    for W, change in zip(_rows(weight, side, groups), _rows(delta, side, groups), strict=True):
        M = np.linalg.lstsq(W, change, rcond=None)[0]
        if np.linalg.norm(W @ M - change) > OUTSIDE * np.linalg.norm(change):
            return None
        parts.append(M.T if side == "out" else M)
    return np.stack(parts)


def _rows(weight: Array, side: SideName, groups: int) -> Iterator[Array]:
    """Yield every group's weight as (rest, d), d the width of the side."""
    for part in np.split(np.asarray(weight, np.float64), groups):
        yield part.reshape(len(part), -1).T if side == "out" else np.moveaxis(part, 1, -1).reshape(-1, part.shape[1])


def _change(collected: Collected, site: Site, side: SideName, M: Array, number: int) -> float:
    """Return ⟨Γ_s, δ⟩ of one cached sample."""
    weight, sample = collected.cache.get(number)
    return _inner(sample[site.id, side], M) / float(np.sqrt(weight))


def _inner(sample: CachedSample, M: Array) -> float:
    """Return Σ_t eᵀ M z of what was cached: Σ z eᵀ, or z and e (positions, groups · d)."""
    if len(sample) == 1:
        product = sample[0].astype(np.float64).reshape(M.shape)
        return float(np.einsum("gij,gji->", M, product))
    z, e = (rows.astype(np.float64).reshape(len(rows), len(M), -1) for rows in sample)
    return float(np.einsum("tgi,gij,tgj->", e, M, z, optimize=True))


def _moments(collected: Collected, site: Site, side: SideName) -> SideMoments | None:
    """Return the moments of a side over all folds, None where nothing was collected there (or it was used up)."""
    parts = [part[site.id, side] for part in collected.moments if (site.id, side) in part]
    return reduce(add, parts) if parts else None


def _ways(moments: SideMoments) -> list[SideMoments]:
    """Return the moments of both ways to read a weight, which add up."""
    return [moments] if moments.transposed is None else [moments, moments.transposed]


def _second(moments: SideMoments) -> tuple[Array, Array]:
    """Return Z a sample and E a position, (groups, d, d) both."""
    Z, E = moments.Z / max(moments.samples, 1), moments.E / max(moments.positions, 1)
    return (Z, E) if Z.ndim == 3 else (Z[None], E[None])


def _on_side(moments: SideMoments, M: Array) -> float:
    """Return ½ tr(E M Z Mᵀ), which is ½ tr(B δ A δᵀ)."""
    pairs = map(_second, _ways(moments))
    return sum(0.5 * float(np.einsum("gab,gbc,gcd,gad->", E, M, Z, M, optimize=True)) for Z, E in pairs)


def _on_both(inner: SideMoments, outer: SideMoments, delta: Array, groups: int) -> float:
    """Return ½ Σ tr(B δ A δᵀ) over the taps of a kernel."""
    change = np.asarray(delta, np.float64)
    change = change.reshape(groups, len(change) // groups, change.shape[1], -1)
    pairs = zip(_ways(inner), _ways(outer), strict=True)
    metrics = [(_second(way)[0], _second(other)[1]) for way, other in pairs]
    return sum(0.5 * float(np.einsum("gab,gbik,gij,gajk->", B, change, A, change, optimize=True)) for A, B in metrics)
