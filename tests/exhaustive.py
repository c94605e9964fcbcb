"""Curvature without sampling: every direction of an output once, so that a prediction can be compared exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from builders import found_in, observed, options, samples_of
from scipy.special import log_softmax, softmax

from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.gradient import observed_ranks
from onnx_lowrank.graph.model_io import content_hash
from onnx_lowrank.options import Runtime
from onnx_lowrank.sensitivity.curves import joint_curves
from onnx_lowrank.sensitivity.substitution import Divergence, Substitutions, stored_weight
from onnx_lowrank.types import Array, Curve, Feed, Option, Probe
from onnx_lowrank.weights.inventory import Inventory

WIDE = 8
"""Elements of an output, so seeds a sample: as many as neighbours stay in one fold."""


@dataclass(frozen=True)
class Exhaustive:
    """Instead of sampled targets every direction once: `gradient(value, j)` of the j-th of WIDE at every sample."""

    tensor: str
    gradient: Callable[[Array, int, int], Array]
    signed: bool = False

    @property
    def identity(self) -> str:
        return f"every direction of {self.tensor}"

    @property
    def seeded(self) -> list[str]:
        return [self.tensor]

    def sampled(self, values: Mapping[str, Array], samples: int, numbers: Sequence[int]) -> dict[str, Array]:
        value = values[self.tensor]
        parts = np.split(value, len(numbers)) if len(numbers) > 1 else [value]
        made = [self.gradient(part, i % WIDE, i // WIDE) for part, i in zip(parts, numbers, strict=True)]
        return {self.tensor: np.concatenate(made).astype(value.dtype)}


def unit(value: Array, j: int, _sample: int) -> Array:
    """Return the seed whose second moment, over all j, is the Hessian of the mean squared error (variance 1)."""
    g = np.zeros(value.size)
    g[j] = np.sqrt(WIDE * 2 / value.size)
    return g.reshape(value.shape)


def class_seed(value: Array, j: int, _sample: int) -> Array:
    """Return (p − one-hot j) √(p_j · classes): all of the softmax's Fisher."""
    p = softmax(value.astype(np.float64), axis=-1)
    return (p - np.eye(WIDE)[[j]]) * np.sqrt(WIDE * p[0, j])


def collection(model: onnx.ModelProto, x: Array, objective: object, *, repeats: int, batch: int) -> CollectionSetup:
    """Return all samples scored, every sample (a row of x, with its batch axis) `repeats` times in a row."""
    feeds = [{"x": row[None]} for row in x for _ in range(repeats)]
    found = found_in(model)
    shapes = observed_ranks(model, feeds[0], runtime=Runtime(provider="cpu", threads=1))
    seen, count = observed(model, found, feeds), len(feeds)
    return CollectionSetup(
        model, content_hash(model), found, seen, samples_of(feeds), objective, shapes, options(), batch, batch > 1,
        score=count,
    )  # type: ignore[arg-type]  # fmt: skip


def scored(one: CollectionSetup) -> tuple[JointScores, tuple[Curve, ...]]:
    joint = joint_scores(one)
    assert not joint.unreached
    assert not joint.dead
    return joint, joint_curves(one.inventory, one.observed, joint).decomposed.curves


def reached(one: CollectionSetup, divergence: Callable[..., float]) -> tuple[Curve, ...]:
    """Return the curves with every option measured on the first fold, by the factors fitted without it."""
    joint, curves = scored(one)
    feeds = [one.feeds[i] for i in one.folds.scored[0]]
    picks = {curve.site: curve.options[1:] for curve in curves}
    return swept(one.model, one.inventory, curves, joint, picks, feeds, divergence)


def swept(
    model: onnx.ModelProto,
    found: Inventory,
    curves: Sequence[Curve],
    joint: JointScores,
    picks: Mapping[str, Sequence[Option]],
    feeds: Sequence[Feed],
    divergence: Divergence,
    *,
    batch: int = 1,
) -> tuple[Curve, ...]:
    """Return the curves with a probe of every pick: substituted alone, by factors fitted without the first fold.

    `feeds`: samples of the first fold; what is predicted is of all that are scored of it.
    """
    sites = {site.id: site for site in found.sites}
    there = Substitutions.of(model, found, list(sites.values()), feeds, divergence, options().runtime, batch=batch)

    def probe(site: str, option: Option) -> Probe:
        scores = joint.scored[site, option.scheme]
        column = scores.tails[: scores.first or None, scores.ranks.index(option.ranks)]
        loss = there.loss(sites[site], stored_weight(found, sites[site], scores.held, option))
        return Probe(option.error, loss, 0.5 * float(np.mean(column**2)), option.form)

    return tuple(replace(c, probes=tuple(probe(c.site, o) for o in picks.get(c.site, ()))) for c in curves)


def squared(reference: Mapping[str, Array], outputs: Mapping[str, Array], samples: int) -> float:
    return samples * float(np.mean((outputs["y"].astype(float) - reference["y"]) ** 2))


def kl(reference: Mapping[str, Array], outputs: Mapping[str, Array], samples: int) -> float:
    p, q = (log_softmax(o["y"].astype(float), axis=-1) for o in (reference, outputs))
    return float((np.exp(p) * (p - q)).sum())
