"""One forward pass over the samples -> Moments of every site, streamed in groups of sites that fit in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from onnx_lowrank.collection.positions import ObservedPositions
from onnx_lowrank.graph.editing import expose
from onnx_lowrank.ops import Call
from onnx_lowrank.options import Options
from onnx_lowrank.runtime.batching import batches, join
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Feed, Moments, Site
from onnx_lowrank.weights.inventory import Inventory

ACTIVATION_BYTES = 256 * 2**20
"""Activations held at once; more sites than fit are collected in further passes."""
PATCH_BYTES = 24 * 2**20
"""Float32 patches kept for one k×k convolution."""
PATCH_MOST = 2048


class SiteMoments(NamedTuple):
    """What was collected at a site, of samples to fit on and of others to score on; None: none of them is finite."""

    site: Site
    fit: Moments | None
    score: Moments | None


def stream_moments(
    model: onnx.ModelProto,
    inventory: Inventory,
    observed: ObservedPositions,
    fit: Sequence[Feed],
    score: Sequence[Feed],
    options: Options,
    *,
    batch: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Iterator[SiteMoments]:
    """Yield every site with its Moments over `fit` and over `score` (nothing more is kept, so memory stays bounded).

    Deterministic for `options.seed`. Samples that are not finite at a site are left out there.
    """
    for group in site_groups(inventory.sites, observed, batch):
        fitted, scored = (
            _collect_group(model, inventory, group, feeds, options, batch, progress) for feeds in (fit, score)
        )
        for site in group:
            yield SiteMoments(site, fitted.pop(site.id, None), scored.pop(site.id, None))


def passes(inventory: Inventory, observed: ObservedPositions, batch: int) -> int:
    """Return how often the samples are run."""
    return sum(1 for _ in site_groups(inventory.sites, observed, batch))


def site_groups(sites: Sequence[Site], observed: ObservedPositions, batch: int) -> Iterator[list[Site]]:
    """Yield neighbouring sites whose activations for one batch fit together."""
    group: list[Site] = []
    held = 0
    for site in sites:
        need = observed.bytes[site.id] * batch
        if group and held + need > ACTIVATION_BYTES:
            yield group
            group, held = [], 0
        group.append(site)
        held += need
    if group:
        yield group


def _collect_group(
    model: onnx.ModelProto,
    inventory: Inventory,
    group: Sequence[Site],
    feeds: Sequence[Feed],
    options: Options,
    batch: int,
    progress: Callable[[int], None] | None,
) -> dict[str, Moments]:
    names = [name for site in group for name in _tensors(inventory, site)]
    inputs = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    runner = Runner(
        expose(model, [name for name in names if name not in inputs]),
        runtime=options.runtime,
        outputs=[name for name in dict.fromkeys(names) if name not in inputs],
    )
    moments: dict[str, Moments] = {}

    def take(sites: Sequence[Site], run: Sequence[Feed], seed: Sequence[int]) -> list[Site]:
        """Add what a batch gives. Return the sites at which it is not finite."""
        feed, odd = join(run), []
        values = {**feed, **runner.run(feed)}
        for site in sites:
            new = _moments(inventory, site, values, np.random.default_rng([*seed, _stable(site.id)]), len(run))
            if new is None:
                odd.append(site)
            else:
                moments[site.id] = moments[site.id] + new if site.id in moments else new
        return odd

    for number, run in enumerate(batches(feeds, batch)):
        odd = take(group, run, [options.seed, number])
        for index, sample in enumerate(run if odd and len(run) > 1 else ()):
            take(odd, [sample], [options.seed, number, index])  # only the samples that are not finite are left out
        if progress:
            progress(len(run))
    return moments


def _stable(text: str) -> int:
    """A number of a name that is the same in every process (Python's hash is not)."""
    return int.from_bytes(text.encode()[-8:].rjust(8, b"\0"), "big")


def _tensors(inventory: Inventory, site: Site) -> list[str]:
    """Inputs, and for a k×k kernel or a table outputs and their biases too: W A Wᵀ of a matrix needs no output."""
    calls = inventory.calls[site.id]
    names = [call.data for call in calls]
    for call in calls:
        if math.prod(site.shape[2:]) > 1 or call.observable == "outputs":
            names += [name for name in (call.output, call.input(2)) if name]
    return names


def _moments(
    inventory: Inventory,
    site: Site,
    values: Mapping[str, Array],
    rng: np.random.Generator,
    samples: int,
) -> Moments | None:
    """Return what one batch gives at a site, None where that is not finite."""
    total: Moments | None = None
    for call in inventory.calls[site.id]:
        seen = _at_call(call, site, values, rng, samples)
        if seen is None:
            return None
        total = seen if total is None else total + seen
    if total is None:
        raise KeyError(site.id)
    return total


def _at_call(
    call: Call, site: Site, values: Mapping[str, Array], rng: np.random.Generator, samples: int
) -> Moments | None:
    """Return what one batch gives at one call of a site, None where that is not finite."""
    kernel, x = site.shape[2:], values[call.data]
    if call.observable == "outputs":
        looked_up = _looked_up(call, site, x, values[call.output], samples)
        return looked_up if _finite(looked_up.C) else None
    vectors = np.asarray(call.vectors(x, kernel), np.float64)
    with np.errstate(all="ignore"):
        A = vectors.T @ vectors  # of a tied output layer that is H
    if not _finite(A):
        return None
    if call.transposed:
        return Moments(A=np.zeros(site.shape[1]), C=np.zeros_like(A), H=A, samples=samples)
    inputs = Moments(A=A, positions=len(vectors), samples=samples)
    if math.prod(kernel) == 1:
        return inputs
    both = _with_kernel(call, site, inputs, x, values[call.output], values.get(call.input(2)), rng)
    return both if _finite(both.C) else None


def _finite(moment: Array | None) -> bool:
    return moment is None or bool(np.isfinite(moment).all())


def _looked_up(call: Call, site: Site, x: Array, y: Array, samples: int) -> Moments:
    """Return how often every row was looked up, and the second moment of what came out."""
    rows = call.vectors(x, ()) % site.shape[1]
    results = np.asarray(call.results(y), np.float64)
    with np.errstate(all="ignore"):
        C = results.T @ results
    counts = np.bincount(rows, minlength=site.shape[1]).astype(np.float64)
    return Moments(A=counts, C=C, positions=len(results), samples=samples)


def _with_kernel(
    call: Call,
    site: Site,
    inputs: Moments,
    x: Array,
    y: Array,
    bias: Array | None,
    rng: np.random.Generator,
) -> Moments:
    results = np.asarray(call.results(y), np.float64)
    with np.errstate(all="ignore"):
        if bias is not None:
            results = results - np.asarray(bias, np.float64)
        C = results.T @ results
    count = len(results)
    room = max(min(PATCH_BYTES // (4 * math.prod(site.shape[1:])), PATCH_MOST), 16)
    keys = rng.random(count)
    picks = np.sort(np.argsort(keys, kind="stable")[:room])
    patches = call.patches(x, site.shape[2:], picks, count)
    return Moments(
        A=inputs.A,
        C=C,
        patches=None if patches is None else patches.astype(np.float32),
        keys=None if patches is None else keys[picks],
        positions=count,
        samples=inputs.samples,
        room=room,
    )
