"""Samples that are looked at together: what they say is what each says alone, whatever is in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.metrics import Difference, agreement, agreements
from onnx_lowrank.metrics.lots import LOT, SMALL, alike, lots

SHAPES = [(6,), (1, 6), (2, 6), (1, 5, 6), (1, 6, 2, 3), (1, 0), (1, SMALL + 1)]


def samples(shape: tuple[int, ...], count: int, seed: int, odd: bool) -> list[np.ndarray]:
    """Few values, so that scores are equal now and then, with what is not finite among them."""
    rng = np.random.default_rng(seed)
    found = [rng.choice([0, 1, 2, 3, np.nan, np.inf], shape, p=[0.3, 0.3, 0.2, 0.18, 0.01, 0.01]) for _ in range(count)]
    if odd and len(shape) > 1:
        found[-1] = np.concatenate([found[-1], found[-1]])
    return [each.astype(np.float32) for each in found]


@given(st.sampled_from(SHAPES), st.integers(1, 40), st.integers(0, 99), st.booleans(), st.booleans())
def test_as_each_alone(shape: tuple[int, ...], count: int, seed: int, odd: bool, other: bool) -> None:
    first, second = samples(shape, count, seed, odd), samples(shape, count, seed + 100, odd)
    if other:
        second[0] = second[0].reshape(-1)[:1]
    together, alone = Difference("y"), Difference("y")
    together.add_all(first, second)
    for pair in zip(first, second, strict=True):
        alone.add(*pair)
    ours, theirs = together.result(), alone.result()
    assert (together.broken, together.reshaped, together.unfit, together.void) == (
        alone.broken,
        alone.reshaped,
        alone.unfit,
        alone.void,
    )
    assert ours.relative_l2 == pytest.approx(theirs.relative_l2, rel=1e-12)  # sums in another order
    assert ours.cosine == pytest.approx(theirs.cosine, rel=1e-12)
    assert ours.max_error == theirs.max_error
    assert agreements(first, second) == [agreement(*pair) for pair in zip(first, second, strict=True)]


def test_lots_are_all_of_them_in_order() -> None:
    found = list(lots(range(2 * LOT + 1)))
    assert [len(lot) for lot in found] == [LOT, LOT, 1]
    assert [item for lot in found for item in lot] == list(range(2 * LOT + 1))


def test_only_small_ones_of_one_shape_and_type_are_alike() -> None:
    one = np.zeros((1, 4), np.float32)
    assert alike([one, one])
    for other in (np.zeros((1, 5), np.float32), np.zeros((1, 4)), np.zeros((4,), np.float32)):
        assert not alike([one, other])
    for each in (np.zeros(4), np.zeros((1, SMALL + 1)), np.zeros((1, 4), np.int64), np.zeros((1, 0))):
        assert not alike([each, each])
