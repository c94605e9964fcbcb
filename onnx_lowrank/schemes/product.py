"""The weight that a chain represents."""

from __future__ import annotations

import math

import numpy as np

from onnx_lowrank.types import Array, Chain, Stage


def product(chain: Chain) -> Array:
    """Return the product of all stages, (out, in, *spatial), float64.

    Stages that are all grouped alike give the grouped weight (out, in of one group, *spatial); a grouped one and then
    one that is not, the whole weight. Raises ValueError where they are grouped differently in another way.
    """
    groups = {stage.groups for stage in chain.stages}
    if len(groups) > 1 and [stage.groups for stage in chain.stages[1:]] == [1]:
        return _merged(*chain.stages)
    if len(groups) > 1:
        raise ValueError(f"stages of {sorted(groups)} groups have no product in one of these forms")
    (count,) = groups
    parts = [np.split(stage.full.astype(np.float64), count) for stage in chain.stages]
    return np.concatenate([_of_group([stages[group] for stages in parts]) for group in range(count)])


def _merged(first: Stage, last: Stage) -> Array:
    """Return the product of a grouped stage and one that takes all of its groups: groups share the inputs out."""
    firsts = np.split(first.full.astype(np.float64), first.groups)
    lasts = np.split(last.full.astype(np.float64), first.groups, axis=1)
    return np.concatenate(
        [composed(last_block, first_block) for first_block, last_block in zip(firsts, lasts, strict=True)], axis=1
    )


def _of_group(weights: list[Array]) -> Array:
    total = weights[0]
    for weight in weights[1:]:
        total = composed(weight, total)
    return total


def composed(last: Array, first: Array) -> Array:
    """Return (out, in, *k) of last (out, r, *k₂) after first (r, in, *k₁); every axis has a kernel in one of them."""
    rank = len(first)
    if math.prod(last.shape[2:]) == 1:
        return np.tensordot(last.reshape(len(last), rank), first, axes=1)
    if math.prod(first.shape[2:]) == 1:
        return np.moveaxis(np.tensordot(last, first.reshape(rank, -1), axes=(1, 0)), -1, 1)
    return np.asarray(np.einsum("or...,ri...->oi...", last, first, optimize=True))
