"""Chains rounded with their errors made up for: every stage in its place, and the next one fitted to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import correlated, normal

from onnx_lowrank.schemes.product import product
from onnx_lowrank.types import INT2, INT4, INT8, Chain, NumberFormat, Site, Stage
from onnx_lowrank.weights.compensation import Compensation, SideGrams
from onnx_lowrank.weights.storage import Storage

SINGLE = Storage(1)
FOUR = SINGLE.in_format(INT4)


def each(storage: Storage, chain: Chain) -> list[Storage]:
    return [storage] * len(chain.stages)


def site(shape: tuple[int, ...], groups: int = 1) -> Site:
    return Site("s", "n", "MatMul", "w", shape, ("s",), groups=groups)


def moments(widths: tuple[int, int], seed: int, groups: int = 1) -> SideGrams:
    def gram(width: int, place: int) -> np.ndarray:
        rows = correlated(4 * width, width, seed + place)
        return rows.T @ rows

    inputs, outputs = widths
    A = np.stack([gram(inputs, 2 * g) for g in range(groups)])
    return SideGrams(A, np.stack([gram(outputs, 2 * g + 1) for g in range(groups)]))


def lost(grams: SideGrams, error: np.ndarray) -> float:
    return float(((grams.B[0] @ error @ grams.A[0]) * error).sum())


def made_of(grams: SideGrams) -> Compensation:
    return Compensation({"s": grams}, 2**20)


def test_a_pair_loses_less_than_rounded_to_the_nearest():
    grams, pair = moments((96, 80), 1), Chain((Stage(normal((24, 96), 2)), Stage(normal((80, 24), 3))))
    settled = FOUR.settled(pair)
    exact = product(pair)
    near, made = (
        product(chain) - exact
        for chain in (FOUR.seen(pair), made_of(grams).rounded(site((80, 96)), each(FOUR, settled), settled))
    )
    assert lost(grams, made) < 0.3 * lost(grams, near)


def test_the_second_factor_makes_up_for_the_first():
    """With second factors that are not rounded: what is left of the first one's error is what no factor can mend."""
    grams, pair = moments((40, 30), 1), FOUR.settled(Chain((Stage(normal((8, 40), 2)), Stage(normal((30, 8), 3)))))
    first = made_of(grams).rounded(site((30, 40)), each(FOUR, pair), pair).stages[0]
    eight = SINGLE.in_format(INT8)
    assert not made_of(grams).knows(site((30, 40)), [eight])
    exact, A = product(pair), grams.A[0]
    seen = first.weight
    best = exact @ A @ seen.T @ np.linalg.inv(seen @ A @ seen.T)
    whole = made_of(grams).rounded(site((30, 40)), each(FOUR, pair), pair)
    plain = lost(grams, pair.stages[1].weight @ seen - exact)
    assert lost(grams, best @ seen - exact) < plain
    assert lost(grams, product(whole) - exact) < lost(grams, product(FOUR.seen(pair)) - exact)


@pytest.mark.parametrize("kind", ["passed", "added"])
def test_identity_blocks_are_not_rounded(kind: str):
    grams = moments((12, 10), 5)
    if kind == "passed":
        stages = (Stage(normal((4, 12), 1)), Stage(normal((6, 4), 2), passed=(1, 3, 5, 7)))
    else:
        stages = (Stage(normal((4, 8), 1), added=(0, 2, 4, 6)), Stage(normal((10, 4), 2)))
    chain = FOUR.settled(Chain(stages))
    made = made_of(grams).rounded(site((10, 12)), each(FOUR, chain), chain)
    for before, after in zip(chain.stages, made.stages, strict=True):
        assert (after.passed, after.added, after.weight.shape) == (before.passed, before.added, before.weight.shape)
        np.testing.assert_allclose(FOUR.grid.recovered(after.weight).q, np.rint(FOUR.grid.recovered(after.weight).q))


def test_groups_are_rounded_each_by_its_own_moments():
    grams, weight = moments((9, 5), 3, groups=2), normal((10, 9), 1)
    both = (
        made_of(grams)
        .rounded(site((10, 9), 2), each(FOUR, Chain((Stage(weight, groups=2),))), Chain((Stage(weight, groups=2),)))
        .stages[0]
        .weight
    )
    for group in range(2):
        own = SideGrams(grams.A[group][None], grams.B[group][None])
        part = weight[5 * group : 5 * group + 5]
        alone = (
            made_of(own)
            .rounded(site((5, 9)), each(FOUR, Chain((Stage(part),))), Chain((Stage(part),)))
            .stages[0]
            .weight
        )
        np.testing.assert_array_equal(both[5 * group : 5 * group + 5], alone)


def test_a_table_is_rounded_row_by_row_in_the_metric_of_its_gradients():
    grams = moments((1, 40), 2)
    counts = SideGrams(np.arange(70.0), grams.B)
    weight, rows = normal((40, 70), 1), SINGLE.in_format(INT4, looked_up=True)
    chain = Chain((Stage(weight),))
    made = made_of(counts).rounded(site((40, 70)), each(rows, chain), chain).stages[0].weight
    near = rows.seen(chain).stages[0].weight
    for column in range(0, 70, 23):
        alone = made_of(counts).rounded(
            site((40, 1)),
            each(rows, Chain((Stage(weight[:, [column]].copy()),))),
            Chain((Stage(weight[:, [column]].copy()),)),
        )
        np.testing.assert_array_equal(made[:, [column]], alone.stages[0].weight)
    B = grams.B[0]
    assert ((B @ (made - weight)) * (made - weight)).sum() < 0.7 * ((B @ (near - weight)) * (near - weight)).sum()


def test_kernels_and_chains_of_other_groups():
    grams = moments((16, 12), 4)
    kernel = Chain((Stage(normal((6, 16, 3, 3), 1), (0, 1)), Stage(normal((12, 6, 1, 1), 2))))
    exact = product(kernel)
    settled = FOUR.settled(kernel)
    made = product(made_of(grams).rounded(site((12, 16, 3, 3)), each(FOUR, settled), settled)) - exact
    near = product(FOUR.seen(kernel)) - exact

    def tapwise(error: np.ndarray) -> float:
        return sum(lost(grams, tap) for tap in np.moveaxis(error.reshape(12, 16, 9), 2, 0))

    assert tapwise(made) < tapwise(near)
    other = Chain((Stage(normal((16, 1, 3, 3), 1), (0, 1), groups=16), Stage(normal((12, 16, 1, 1), 2))))
    other = FOUR.settled(other)
    plain = made_of(grams).rounded(site((12, 16, 3, 3)), each(FOUR, other), other)
    for one, two in zip(plain.stages, FOUR.seen(other).stages, strict=True):
        np.testing.assert_array_equal(one.weight, two.weight)


def test_what_was_rounded_is_kept_within_the_memory_allowed():
    grams = moments((30, 20), 1)
    held = replace(made_of(grams), memory=8 * 600 * 2)
    chains = [Chain((Stage(normal((20, 30), seed)),)) for seed in range(5)]
    first = held.rounded(site((20, 30)), each(FOUR, chains[0]), chains[0])
    assert held.rounded(site((20, 30)), each(FOUR, chains[0]), chains[0]) is first
    for chain in chains[1:]:
        held.rounded(site((20, 30)), each(FOUR, chain), chain)
    again = held.rounded(site((20, 30)), each(FOUR, chains[0]), chains[0])
    assert again is not first
    np.testing.assert_array_equal(again.stages[0].weight, first.stages[0].weight)


def test_formats_of_one_weight_are_kept_apart():
    """One and the same chain in four bits and in two."""
    held, weight = made_of(moments((30, 20), 1)), Chain((Stage(normal((20, 30), 5)),))
    two = SINGLE.in_format(INT2)
    four = held.rounded(site((20, 30)), each(FOUR, weight), weight).stages[0].weight
    made = held.rounded(site((20, 30)), each(two, weight), weight).stages[0].weight
    assert not np.array_equal(made, four)
    assert max(len(np.unique(row)) for row in made) <= 4
    again = two.grid.recovered(made)
    np.testing.assert_allclose(again.q * again.scale[:, None], made, rtol=1e-6)


def test_a_shared_first_stage_is_the_same_for_all_members():
    grams, first = moments((24, 18), 1), Stage(normal((6, 24), 2))
    pairs = [Chain((first, Stage(normal((18, 6), seed)))) for seed in (3, 4)]
    made = [
        made_of(grams).rounded(site((18, 24)), each(FOUR, pair), pair, shared=True).stages[0].weight for pair in pairs
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], first.weight)


@pytest.mark.parametrize(("first", "last"), [(INT8, INT4), (INT4, INT8), (INT4, INT2), (None, INT4), (INT2, None)])
def test_each_stage_of_a_pair_is_rounded_in_its_own_format(first: NumberFormat | None, last: NumberFormat | None):
    """What stands on one grid lies on it again; a stage of its own type is as it was, or fitted to the one before."""
    grams, weight = moments((40, 30), 1), normal((30, 40), 2)
    u, s, v = np.linalg.svd(weight)
    pair = Chain((Stage(np.asarray(v[:16], np.float32)), Stage(np.asarray(u[:, :16] * s[:16], np.float32))))
    storages = [SINGLE if number is None else SINGLE.in_format(number) for number in (first, last)]
    made = made_of(grams).rounded(site((30, 40)), storages, pair)
    for stage, storage, number in zip(made.stages, storages, (first, last), strict=True):
        if number is not None and storage.grid is not None:
            again = storage.grid.recovered(stage.weight) if number.block else storage.grid.quantised(stage.weight)
            assert number.low <= again.q.min() <= again.q.max() <= number.high
            if not number.block:
                np.testing.assert_allclose(storage.rounded(stage.weight), stage.weight, rtol=1e-5)
    exact = product(pair)
    alike = [made_of(grams).rounded(site((30, 40)), [SINGLE.in_format(number)] * 2, pair) for number in (INT8, INT2)]
    least, most = (lost(grams, product(chain) - exact) for chain in alike)
    assert least / 2 < lost(grams, product(made) - exact) < 2 * most
    if first is None:
        np.testing.assert_array_equal(made.stages[0].weight, pair.stages[0].weight)
