"""Ridge least squares towards an existing factor, against the problem written out."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_lowrank.numerics.ridge import Products, RidgeSums


def sums(seed: int, last: np.ndarray, parts: int) -> tuple[RidgeSums, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, v = rng.normal(size=(60, last.shape[0])), rng.normal(size=(60, last.shape[1]))
    products = Products.none(last)
    for rows in np.array_split(np.arange(60), parts):
        products.add(y[rows], v[rows] if parts % 2 else np.asfortranarray(v[rows]))
    return RidgeSums.towards(last, products), y, v


@pytest.mark.parametrize("parts", [1, 4, 7])
@pytest.mark.parametrize("ridge", [1e-4, 1.0])
def test_a_step_is_the_minimum_of_the_penalised_squares(parts: int, ridge: float):
    last = np.random.default_rng(9).normal(size=(5, 3))
    found, y, v = sums(1, last, parts)
    penalty = ridge * np.trace(v.T @ v) / 3
    stacked = np.concatenate([v, np.sqrt(penalty) * np.eye(3)])
    wanted = np.linalg.lstsq(stacked, np.concatenate([y - v @ last.T, np.zeros((3, 5))]), rcond=None)[0].T
    np.testing.assert_allclose(found.step(ridge), wanted, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.steps([0.5, ridge])[1], wanted, rtol=1e-10, atol=1e-12)
    before, after = (np.sum((y - v @ (last + step).T) ** 2) for step in (0 * wanted, wanted))
    assert found.gain(wanted) == pytest.approx(before - after, rel=1e-10)


def test_nothing_seen_is_no_step_and_other_positions_are_no_sums():
    last = np.ones((4, 2))
    nothing = RidgeSums.towards(last, Products.none(last))
    assert not nothing.step(0.1).any()
    assert not nothing.steps([0.1])[0].any()
    products = Products.none(last)
    products.add(np.ones((3, 4)), np.ones((2, 2)))
    assert not RidgeSums.towards(last, products).finite
