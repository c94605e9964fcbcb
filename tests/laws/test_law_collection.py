"""Laws of what is collected: shards merge to the whole, keys tell collections apart, and changes have a loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import onnx
import pytest
from builders import build, node, normal, options, value, weight
from exhaustive import WIDE, Exhaustive, collection, squared, unit
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.collection.collect import collect
from onnx_lowrank.collection.collected import Collected
from onnx_lowrank.collection.fit import fit
from onnx_lowrank.collection.key import CollectionKey
from onnx_lowrank.collection.project import project
from onnx_lowrank.collection.sample_cache import SampleCache
from onnx_lowrank.collection.score import score
from onnx_lowrank.collection.scores import ScoreKey, Scores
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.options import Runtime
from onnx_lowrank.sensitivity.loss_of_change import loss_of_change, measured_loss_of_change
from onnx_lowrank.types import Array

COUNT = 12
HUGE = 1e30
"""Its square is no float32: such a sample is left out."""


def whole(shape: list[int], seed: int, most: int = 1) -> Array:
    """Return whole numbers as float32: their products and sums are exact, in whatever order."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float32)


def whole_seed(value: Array, j: int, _block: int) -> Array:
    return (np.arange(value.size).reshape(value.shape) + j) % 3 - 1


def kernels() -> onnx.ModelProto:
    """A kernel at two places, a grouped one, and taps enough for a chain that projects no side."""
    weights = {"W": whole([6, 6, 3, 3], 1), "V": whole([8, 3, 1, 1], 2), "U": whole([8, 8, 5, 5], 3)}
    nodes = [
        node("Conv", ["x", "W"], ["h"], "one", pads=[1, 1, 1, 1]),
        node("Conv", ["x", "W"], ["g"], "two", pads=[2, 2, 2, 2], dilations=[2, 2]),
        node("Add", ["h", "g"], ["s"]),
        node("Conv", ["s", "V"], ["v"], "three", group=2, strides=[2, 2]),
        node("Conv", ["v", "U"], ["y"], "four", pads=[2, 2, 2, 2]),
    ]
    return build(nodes, [value("x", ["n", 6, 4, 4])], [value("y", ["n", 8, 2, 2])], weights)


def shared() -> onnx.ModelProto:
    """Two weights of one input."""
    weights = {"A": whole([6, 8], 1), "B": whole([6, 5], 2)}
    nodes = [node("MatMul", ["x", name], [f"h{name}"], name) for name in weights]
    nodes.append(node("Concat", ["hA", "hB"], ["y"], axis=1))
    return build(nodes, [value("x", ["n", 6])], [value("y", ["n", 13])], weights)


def kernel_setup(batch: int, *, broken: bool = False) -> CollectionSetup:
    x = whole([COUNT, 6, 4, 4], 5)
    if broken:
        x[[2, 7]] = HUGE
    return collection(kernels(), x, Exhaustive("y", whole_seed), repeats=1, batch=batch)


def shared_setup(batch: int, *, broken: bool = False) -> CollectionSetup:
    x = whole([COUNT, 6], 5)
    if broken:
        x[[2, 7]] = HUGE
    return collection(shared(), x, Exhaustive("y", whole_seed), repeats=1, batch=batch)


SETUPS = {"kernels": kernel_setup, "shared input": shared_setup}


@contextmanager
def shards_of(setup: CollectionSetup, homes: list[int]) -> Iterator[tuple[Collected, list[Collected]]]:
    """Yield what all samples give at once, and what the samples of every home give, each with a source of its own."""
    with Workers(1) as workers, ExitStack() as stack:

        def collected(numbers: list[int]) -> Collected:
            source = setup.source(setup.inventory.sites)
            value = collect(setup, source, workers, folds=setup.folds.only(numbers))
            stack.callback(value.cache.close)
            return value

        parts = [[i for i, home in enumerate(homes) if home == k] for k in range(max(homes) + 1)]
        yield collected(list(range(COUNT))), [collected(part) for part in parts]


def same(one: Collected, other: Collected) -> None:
    assert one.key == other.key
    assert (one.broken, one.blamed) == (other.broken, other.blamed)
    for mine, theirs in zip(one.moments, other.moments, strict=True):
        assert mine.keys() == theirs.keys()
        for key, moments in mine.items():
            assert (moments.positions, moments.samples) == (theirs[key].positions, theirs[key].samples)
            np.testing.assert_array_equal(moments.Z, theirs[key].Z)
            np.testing.assert_array_equal(moments.E, theirs[key].E)
    assert one.cache.open
    assert other.cache.open
    for number in (number for part in one.key.scored for number in part):
        assert (number in one.cache) == (number in other.cache) == (number not in one.broken)
        if number in one.cache:
            (scale, mine), (other_scale, theirs) = one.cache.get(number), other.cache.get(number)
            assert scale == other_scale
            assert mine.keys() == theirs.keys() != set()
            for key, arrays in mine.items():
                for a, b in zip(arrays, theirs[key], strict=True):
                    np.testing.assert_array_equal(a, b)


HOMES = st.lists(st.integers(0, 2), min_size=COUNT, max_size=COUNT)


@pytest.mark.parametrize("name", SETUPS)
@given(homes=HOMES, batch=st.sampled_from([1, 3]), broken=st.booleans())
def test_shards_merge_to_what_is_collected_at_once(name: str, homes: list[int], batch: int, broken: bool):
    """Exactly: numbers are whole. Empty shards change nothing."""
    with shards_of(SETUPS[name](batch, broken=broken), homes) as (at_once, shards):
        assert at_once.key.chains or SETUPS[name](batch).inventory.shared_inputs
        same(reduce(add, shards), at_once)
        same(reduce(add, shards[::-1]), at_once)
        if len(shards) == 3:
            same(shards[0] + (shards[1] + shards[2]), at_once)


def scored(setup: CollectionSetup, collected: Collected, workers: Workers) -> dict[ScoreKey, Scores]:
    source = setup.source(setup.inventory.sites)
    group = setup.group(source.sites)
    fitted = fit(collected, group, workers)
    (projected,) = project(collected, [fitted], source, setup, workers)
    return score(projected, fitted, group, workers)


@pytest.mark.parametrize("name", SETUPS)
def test_merged_shards_are_scored_as_the_whole(name: str):
    setup = SETUPS[name](1)
    with shards_of(setup, [0, 1] * (COUNT // 2)) as (at_once, shards), Workers(1) as workers:
        expected, got = scored(setup, at_once, workers), scored(setup, reduce(add, shards), workers)
        assert got.keys() == expected.keys() != set()
        for key, scores in expected.items():
            np.testing.assert_array_equal(got[key].tails, scores.tails)
            np.testing.assert_array_equal(got[key].kron, scores.kron)
            assert scores.first == got[key].first > 0
        again = scored(setup, at_once, workers)  # nothing was used up
        assert again.keys() == expected.keys()


def test_a_shard_that_could_not_be_cached_is_run_again():
    setup = shared_setup(1)
    with shards_of(setup, [0, 1] * (COUNT // 2)) as (_, shards):
        merged = replace(shards[0], cache=SampleCache(0, 0)) + shards[1]
        assert not merged.cache.open
        assert not shards[1].cache.open


CHANGES = {
    "model": lambda s: replace(s, digest="another"),
    "objective": lambda s: replace(s, objective=Exhaustive("another", whole_seed)),
    "batch": lambda s: replace(s, batch=2),
    "separate": lambda s: replace(s, separate=True),
    "seed": lambda s: replace(s, options=options(seed=1)),
    "memory": lambda s: replace(s, options=options(memory=2**25)),
    "provider": lambda s: replace(s, options=options(runtime=Runtime(provider="cuda"))),
    "sides": lambda s: replace(s, observed=replace(s.observed, positions=busy(s))),
    "sites": lambda s: replace(s, inventory=replace(s.inventory, sites=s.inventory.sites[:1])),
}


def busy(setup: CollectionSetup) -> dict[str, tuple]:
    """Return so many positions that only some rows are summed."""
    return {site: tuple(replace(at, calls=1e6) for at in where) for site, where in setup.observed.positions.items()}


def key_of(setup: CollectionSetup, numbers: list[int] | None = None) -> CollectionKey:
    folds = setup.folds if numbers is None else setup.folds.only(numbers)
    return setup.key(setup.group(setup.inventory.sites), folds)


@pytest.mark.parametrize("field", CHANGES)
def test_keys_that_differ_in_more_than_samples_do_not_merge(field: str):
    setup = shared_setup(1)
    first, other = key_of(setup, [0, 1]), key_of(CHANGES[field](setup), [2, 3])
    assert getattr(first, field) != getattr(other, field)
    assert first.digest != other.digest
    with pytest.raises(ValueError, match=f"collections of different {field} do not merge"):
        first + other


def test_equal_setups_have_equal_keys_and_a_sample_counts_once():
    first, again = key_of(shared_setup(1)), key_of(shared_setup(1))
    assert first == again
    assert (first.text, first.digest) == (again.text, again.digest)
    with pytest.raises(ValueError, match="sample 0 is in both collections"):
        first + again
    setup = shared_setup(1)
    renamed = replace(setup, samples=replace(setup.samples, hashes=("other", *setup.samples.hashes[1:])))
    assert key_of(renamed) != first


def one_weight(op: str, size: tuple[int, ...], *, extent: int = 4, **attributes: object) -> onnx.ModelProto:
    """Return one node with a weight of canonical size, on images of that extent."""
    groups, around = int(attributes.get("group", 1)), [extent] * (len(size) - 2)
    W = weight(size, 1) if around else weight((size[1], size[0]), 1)
    ends = [value("x", ["n", size[1] * groups, *around])], [value("y", ["n", size[0], *around])]
    return build([node(op, ["x", "W"], ["y"], "op", **attributes)], *ends, {"W": W})


WEIGHTS = {
    "wide": one_weight("MatMul", (5, 8)),
    "tall": one_weight("MatMul", (8, 5)),
    "square": one_weight("MatMul", (8, 8)),
    "kernel": one_weight("Conv", (6, 8, 3, 3), pads=[1, 1, 1, 1]),
    "groups": one_weight("Conv", (8, 4, 3, 3), pads=[1, 1, 1, 1], group=2),
}
"""With fewer positions than channels and with more."""


@contextmanager
def collected_of(model: onnx.ModelProto, head: Exhaustive, repeats: int) -> Iterator[tuple[CollectionSetup, Collected]]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    setup = collection(model, normal([COUNT, *shape], 5), head, repeats=repeats, batch=1)
    with Workers(1) as workers:
        found = collect(setup, setup.source(setup.inventory.sites), workers)
        try:
            yield setup, found
        finally:
            found.cache.close()


def seeds(value: Array, j: int, block: int) -> Array:
    return normal(value.shape, 8 * block + j)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_loss_of_what_a_scheme_truncates_is_its_scored_rise(name: str):
    """On the first fold, by factors that were fitted without it."""
    with collected_of(WEIGHTS[name], Exhaustive("y", seeds), 1) as (setup, collected), Workers(1) as workers:
        (site,) = setup.inventory.sites
        first_fold = collected.key.scored[0]
        compared = 0
        for (_, scheme), scores in scored(setup, collected, workers).items():
            for index, ranks in enumerate(scores.ranks if len(scores.ranks[0]) == 1 else ()):
                delta = scores.held.dense(ranks) - setup.inventory.stored(site)
                tails = scores.tails[: scores.first, index]
                if scheme in ("separable", "channelwise"):
                    continue
                got = loss_of_change(collected, setup.inventory, site, delta, samples=first_fold)
                assert got.source == "samples"
                assert got.loss == pytest.approx(0.5 * float(np.mean(tails**2)), rel=2e-3)
                compared += 1
        assert compared


@pytest.mark.parametrize(
    "model",
    [
        one_weight("MatMul", (WIDE, WIDE)),
        one_weight("MatMul", (WIDE, 12)),
        one_weight("Conv", (WIDE, 4, 1, 1), extent=1, group=2),
        one_weight("Conv", (2, 4, 3, 3), extent=2, pads=[1, 1, 1, 1]),
    ],
    ids=["square", "wide", "groups", "kernel"],
)
def test_the_loss_of_a_change_is_the_measured_one_where_the_model_is_linear(model: onnx.ModelProto):
    """Every direction of the eight outputs once: nothing is sampled. The change mixes outputs."""
    with collected_of(model, Exhaustive("y", unit), WIDE) as (setup, collected):
        (site,) = setup.inventory.sites
        W = setup.inventory.stored(site)
        delta = change_of(W, site.groups)
        got = loss_of_change(collected, setup.inventory, site, delta)
        feeds = [setup.feeds[number] for part in collected.key.scored for number in part]
        measured = measured_loss_of_change(model, setup.inventory, site, W + delta, feeds, squared, options().runtime)
        assert got.source == "samples"
        assert measured > 1e-4
        assert got.loss == pytest.approx(measured, rel=2e-3)


def change_of(W: Array, groups: int) -> Array:
    """Return a change that mixes the outputs of every group; of a square matrix any is one."""
    parts = [np.tensordot(0.2 * normal([len(part)] * 2, 9 + i), part, 1) for i, part in enumerate(np.split(W, groups))]
    return np.concatenate(parts)


def test_without_samples_the_moments_say_it_and_outside_all_sides_nothing_does():
    with collected_of(WEIGHTS["wide"], Exhaustive("y", seeds), 1) as (setup, collected), Workers(1) as workers:
        (site,) = setup.inventory.sites
        W = setup.inventory.stored(site)
        apart = replace(collected, cache=SampleCache(0, 0))
        delta = change_of(W, 1)
        got = loss_of_change(apart, setup.inventory, site, delta)
        assert (got.source, got.deviation) == ("moments", None)
        moments = collected.moments[0]["y", "out"] + collected.moments[1]["y", "out"]
        M = delta @ np.linalg.pinv(W.astype(np.float64))
        expected = 0.5 * np.trace(moments.E / moments.positions @ M @ (moments.Z / moments.samples) @ M.T)
        assert got.loss == pytest.approx(float(expected), rel=1e-4)
        with pytest.raises(ValueError, match=r"no projection of one of its sides \(out\)"):
            loss_of_change(collected, setup.inventory, site, normal(W.shape, 3))
        fit(apart, setup.group(setup.inventory.sites), workers, release=True)  # which uses the moments up
        with pytest.raises(ValueError, match="says nothing of a change"):
            loss_of_change(apart, setup.inventory, site, delta)


def test_with_both_sides_any_change_of_a_kernel_has_a_loss():
    with collected_of(WEIGHTS["kernel"], Exhaustive("y", seeds), 1) as (setup, collected):
        (site,) = setup.inventory.sites
        W = setup.inventory.stored(site)
        delta = 0.1 * normal(W.shape, 3)
        got = loss_of_change(collected, setup.inventory, site, delta)
        inner, outer = (collected.moments[0]["y", side] + collected.moments[1]["y", side] for side in ("in", "out"))
        A, B = inner.Z / inner.samples, outer.E / outer.positions
        taps = [delta[:, :, i, j] for i in range(3) for j in range(3)]
        expected = sum(0.5 * float(np.trace(B @ tap @ A @ tap.T)) for tap in taps)
        assert got.source == "moments"
        assert got.loss == pytest.approx(expected, rel=1e-6)
