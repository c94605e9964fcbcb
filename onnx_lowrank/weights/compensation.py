"""Weights and factors rounded with the errors made up for, in the metric of their inputs and of the loss's gradients.

Of a chain every stage is rounded in the metric in which it stands: A carried through the stages before it, as those are
rounded, B through those behind it. What a stage is off is first made up for by the next one, by least squares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.numerics.error_compensation import Eliminated, compensated
from onnx_lowrank.types import Array, Chain, Site, Stage
from onnx_lowrank.weights.integer_grid import RANGE, Grid
from onnx_lowrank.weights.storage import Storage

RIDGE = 1e-4
"""The share of the mean diagonal that is added where a factor is fitted to a rounded one."""


@dataclass(frozen=True, slots=True, eq=False)
class SideGrams:
    """What a weight's inputs and the gradients at its outputs are: sums over positions, a group each.

    A: (groups, in, in) of x xᵀ, channels alone of a convolution; of a table that is looked up (rows,) how often. B:
    (groups, out of a group, the same) of g gᵀ.
    """

    A: Array
    B: Array


@dataclass(frozen=True, slots=True, eq=False)
class Compensation:
    """grams: by site id, of those weights that are rounded so; others are rounded to the nearest.

    memory: bytes of rounded chains that are kept, as plans share most of theirs.
    """

    grams: Mapping[str, SideGrams]
    memory: int
    _sides: dict[tuple[str, int, str], Eliminated | None] = field(default_factory=dict)
    _known: dict[tuple[str, bytes], Chain] = field(default_factory=dict)

    def knows(self, site: Site, storages: Sequence[Storage]) -> bool:
        """Return whether a weight is rounded so: some stage in few bits, with known moments."""
        return site.id in self.grams and any(s.grid is not None and s.grid.compensated for s in storages)

    def rounded(self, site: Site, storages: Sequence[Storage], chain: Chain, *, shared: bool = False) -> Chain:
        """Return a settled chain with the numbers that are stored, float64; rounded again to its grid they stay.

        storages: of each stage; those of eight bits and more are rounded to the nearest. shared: the first stage serves
        other weights as well, so it is rounded by the inputs alone.
        """
        alike = all(stage.groups == site.groups for stage in chain.stages)
        plain = site.groups == 1 or not any(stage.identity for stage in chain.stages)
        if not alike or not plain:
            pairs = zip(chain.stages, storages, strict=True)
            return Chain(tuple(replace(s, weight=how.rounded(s.weight).astype(np.float64)) for s, how in pairs))
        digest = hashlib.blake2b(repr((storages, shared)).encode(), digest_size=16)
        for stage in chain.stages:
            digest.update(np.ascontiguousarray(stage.weight, np.float32).tobytes())
            digest.update(repr((stage.weight.shape, stage.identity)).encode())
        key = site.id, digest.digest()
        if key not in self._known:
            with linalg.one_thread():
                self._known[key] = self._rounded(site, storages, chain, shared=shared)
            self._forget()
        return self._known[key]

    def _rounded(self, site: Site, storages: Sequence[Storage], chain: Chain, *, shared: bool) -> Chain:
        grams = self.grams[site.id]
        parts = [np.split(np.asarray(stage.weight, np.float64), site.groups) for stage in chain.stages]
        made = []
        for group, weights in enumerate(zip(*parts, strict=True)):
            stages = [replace(s, weight=w, groups=1) for s, w in zip(chain.stages, weights, strict=True)]
            A = grams.A if grams.A.ndim == 1 else grams.A[group]
            made.append(self._group(stages, A, grams.B[group], storages, (site.id, group), shared=shared))
        whole = [np.concatenate(each) for each in zip(*made, strict=True)]
        return Chain(tuple(replace(stage, weight=w) for stage, w in zip(chain.stages, whole, strict=True)))

    def _group(
        self,
        stages: list[Stage],
        A: Array,
        B: Array,
        storages: Sequence[Storage],
        key: tuple[str, int],
        *,
        shared: bool,
    ) -> list[Array]:
        """Return the rounded weights of one group's stages."""
        last, made = len(stages) - 1, list[Array]()
        for index, stage in enumerate(stages):
            metric = B
            for later in reversed(stages[index + 1 :]):
                metric = _through(metric, np.swapaxes(later.full, 0, 1))
            grid = storages[index].grid
            if grid is None or not grid.compensated:
                made.append(np.asarray(storages[index].rounded(stage.weight), np.float64))
            else:
                whole = index == 0 and not stage.added
                inputs = self._side((*key, "in"), A) if whole else _inputs(stage, A)
                if shared and index == 0:
                    outputs = None
                else:
                    whole = index == last and not stage.passed
                    outputs = self._side((*key, "out"), B) if whole else _outputs(stage, metric)
                made.append(_stage(stage, grid, inputs, outputs))
            seen = replace(stage, weight=made[-1])
            if index < last and grid is not None:
                stages[index + 1] = _fitted(stages[index + 1], stage, seen, A)
            A = _through(A, seen.full) if index < last else A
        return made

    def _side(self, key: tuple[str, int, str], moment: Array) -> Eliminated | None:
        """Return a weight's own side, prepared once: most chains read and give what the weight does."""
        if key not in self._sides:
            self._sides[key] = Eliminated.of(moment if moment.ndim > 1 else None)
        return self._sides[key]

    def _forget(self) -> None:
        """Drop the oldest chains beyond the memory allowed."""
        sizes = {key: sum(s.weight.nbytes for s in chain.stages) for key, chain in self._known.items()}
        held = sum(sizes.values())
        while held > self.memory and len(self._known) > 1:
            oldest = next(iter(self._known))
            held -= sizes[oldest]
            del self._known[oldest]


def _inputs(stage: Stage, A: Array) -> Eliminated | None:
    """Return the metric of what a stage stores along its inputs."""
    if stage.added:
        rest = np.setdiff1d(np.arange(stage.columns), stage.added)
        A = A[rest] if A.ndim == 1 else A[np.ix_(rest, rest)]
    return Eliminated.of(A if A.ndim > 1 else None)


def _outputs(stage: Stage, B: Array) -> Eliminated | None:
    """Return the metric of what a stage stores along its outputs."""
    if stage.passed:
        rest = np.setdiff1d(np.arange(stage.rows), stage.passed)
        B = B[np.ix_(rest, rest)]
    return Eliminated.of(B)


def _stage(stage: Stage, grid: Grid, inputs: Eliminated | None, outputs: Eliminated | None) -> Array:
    """Return a stage's numbers rounded."""
    weight = np.asarray(stage.weight, np.float64)
    flat = weight.reshape(*weight.shape[:2], -1)
    if grid.axis == 0:  # of a table that is looked up: blocks are along the outputs
        flat, inputs, outputs = np.swapaxes(flat, 0, 1), outputs, inputs
    one, taps = replace(grid, axis=0, block=0), flat.shape[2]
    whole = flat.shape[1] <= grid.block
    largest = float(np.abs(flat).max(initial=0.0)) / grid.high

    def scales(numbers: Array) -> Array:
        rows = np.moveaxis(numbers.reshape(len(numbers), -1, taps), 0, 1) if whole else numbers.T
        found = np.asarray(one.quantised(rows).scale, np.float64)
        if grid.digits:  # what the largest scale of all leaves no room for
            found = np.where(np.abs(found) < 2 * RANGE * largest, np.abs(found).max(), found)
        return np.repeat(found, taps) if whole else found

    made = compensated(flat, inputs, outputs, scales, grid.low, grid.high, grid.block)
    return (np.swapaxes(made, 0, 1) if grid.axis == 0 else made).reshape(weight.shape)


def _through(moment: Array, weight: Array) -> Array:
    """Return the second moment behind a weight (out, in, *spatial) of what has the moment before it.

    With a kernel half-way between neighbours that are equal and such that are independent: both are not collected.
    """
    taps = np.moveaxis(weight.reshape(*weight.shape[:2], -1), 2, 0)
    if moment.ndim == 1:
        return np.asarray((taps[0] * moment) @ taps[0].T)
    whole = taps.sum(0)
    equal = whole @ moment @ whole.T
    return np.asarray(equal if len(taps) == 1 else (equal + sum(tap @ moment @ tap.T for tap in taps)) / 2)


def _fitted(stage: Stage, before: Stage, rounded: Stage, A: Array) -> Stage:
    """Return a stage fitted to the rounded one before it: of least change of the product, in the inputs' metric.

    Only without kernels, where the product is one matrix.
    """
    if before.weight[0, 0].size > 1 or stage.weight[0, 0].size > 1 or stage.added:
        return stage
    given, made = (each.full.reshape(each.rows, -1) for each in (before, rounded))
    seen = made * A if A.ndim == 1 else made @ A
    moment = seen @ made.T
    moment = moment + RIDGE * max(float(moment.trace()) / len(moment), np.finfo(np.float64).tiny) * np.eye(len(moment))
    onto = linalg.solve_definite(moment, seen @ given.T).T
    flat = stage.weight.reshape(len(stage.weight), -1) @ onto  # of the rounded outputs to what the exact ones give
    return replace(stage, weight=flat.reshape(stage.weight.shape)) if np.isfinite(flat).all() else stage
