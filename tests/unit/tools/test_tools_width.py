"""Part "width": the order in which units go, and the places where they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onnx_lowrank.weights.find import find_sites

Bench = Callable[[str], Any]
UNITS = 12


def moments(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    C, M = (rows.T @ rows for rows in rng.normal(size=(2, 40, UNITS)) @ rng.normal(size=(UNITS, UNITS)))
    return C, M


def loss(units: Any, C: Any, M: Any, kept: Any) -> float:
    take, write = units.selected(C, kept)
    rest = np.eye(UNITS) - units.Projection(take[None], write[None]).matrix[0]
    return float(np.trace(M @ rest @ C @ rest.T))


@pytest.mark.parametrize("seed", range(4))
def test_each_unit_that_goes_is_the_one_whose_going_loses_least(bench: Bench, seed: int) -> None:
    units, (C, M) = bench("benchmarks.width_units"), moments(seed)
    left = np.arange(UNITS)
    for gone in units.greedy(C, M):
        losses = [loss(units, C, M, np.setdiff1d(left, [unit])) for unit in left]
        assert left[np.argmin(losses)] == gone[0]
        left = np.setdiff1d(left, gone)
    assert len(left) == 1


@pytest.mark.parametrize("whole", [False, True])
def test_blocks_lose_as_many_or_go_as_they_are(bench: Bench, whole: bool) -> None:
    units, (C, M) = bench("benchmarks.width_units"), moments(0)
    order = units.greedy(C, M, blocks=4, whole=whole)
    for count in (3, 6, 9):
        kept = units.kept(order, count, UNITS)
        sizes = np.bincount(kept // 3, minlength=4)
        assert len(kept) == count
        assert set(sizes) <= {0, 3} if whole else set(sizes) <= {count // 4, -(-count // 4)}


def test_tails_are_those_of_the_products_and_of_the_rows(bench: Bench) -> None:
    units, rng = bench("benchmarks.width_units"), np.random.default_rng(0)
    z, e = rng.normal(size=(2, 5, 7, UNITS)).astype(np.float32)
    (take, write) = units.selected(moments(0)[0], np.array([1, 4, 5]))
    projection = units.Projection(take[None], write[None])
    rows = units.Seen.of([(2.0, (a, b)) for a, b in zip(z, e, strict=True)], 1)
    products = units.Seen.of([(2.0, (a.T @ b,)) for a, b in zip(z, e, strict=True)], 1)
    expected = [np.sum(b * (a - a @ projection.matrix[0].T)) / np.sqrt(2) for a, b in zip(z, e, strict=True)]
    for seen in (rows, products):
        np.testing.assert_allclose(seen.tails(projection), expected, rtol=1e-4, atol=1e-4)


def test_places_of_a_transformer(bench: Bench) -> None:
    synthetic = bench("benchmarks.synthetic")
    model = synthetic.network(32, seed=0)
    found = find_sites(model, include=(), exclude=(), multiple=1)
    there = bench("benchmarks.width_places").places(model, found.sites, found.calls, synthetic.HEADS)
    names = [form.name for place in there for form in place.forms]
    weights = [weight for place in there for weight in place.weights]
    assert (names.count("units"), names.count("heads")) == (synthetic.BLOCKS, 2 * synthetic.BLOCKS)
    assert len(weights) == len(set(weights)) == 6 * synthetic.BLOCKS
