"""validation.race: gains and their errors, who goes on, who is chosen, and what choosing is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.validation.race import SAFE, Gain, Race, Standing, chosen, cross_validated


def gain(values: list[float] | np.ndarray) -> Gain:
    apart = np.asarray(values, np.float64)
    return Gain(float(apart.sum()), float((apart**2).sum()), len(apart), float(np.abs(apart).max(initial=0)) or 1.0)


@given(st.lists(st.integers(-1, 1), min_size=10, max_size=60), st.integers(1, 9))
def test_parts_together_are_the_whole(values: list[int], cut: int):
    whole, parts = gain(values), Gain.pooled([gain(values[:cut]), gain(values[cut:])])
    assert parts.gain == pytest.approx(whole.gain, abs=1e-12)
    assert parts.error == pytest.approx(whole.error, abs=1e-12)
    assert parts.samples == len(values)


def test_no_change_on_few_samples_is_not_sure():
    few, many = gain([0.0] * 10), gain([0.0] * 1000)
    assert few.gain == many.gain == 0
    assert few.error == pytest.approx(0.1, abs=1e-12)
    assert many.error == pytest.approx(0.001, abs=1e-12)


def test_what_is_not_finite_never_wins():
    broken = Gain(-np.inf, 0.0, 10)
    assert broken.sure() == -np.inf
    standings = [Standing(broken, (broken,)), Standing(gain([-1.0] * 10), (gain([-1.0] * 10),))]
    assert chosen(standings) == 1


def rows(means: list[float], n: int, seed: int) -> np.ndarray:
    """Return models as rows of −1, 0 and 1 of these means."""
    drawn = np.random.default_rng(seed).random((len(means), n))
    shares = np.asarray(means)[:, None]
    return np.where(drawn < 0.1 + np.maximum(shares, 0), 1.0, np.where(drawn > 0.9 + np.minimum(shares, 0), -1.0, 0.0))


def raced(models: np.ndarray) -> list[Standing]:
    n = models.shape[1]
    folds = [range(fold, n, 5) for fold in range(5)]
    race = Race([range(n // 16), range(n // 4)], folds, lambda parts, row: [gain(row[part]) for part in parts])
    counted: list[int] = []
    standings = race.run(list(models), counted.append)
    assert sum(counted) == len(models)
    return standings


def test_the_best_of_many_comes_to_the_end_and_is_chosen():
    means = [-0.05] * 40 + [0.08] + [0.0] * 19
    standings = raced(rows(means, 4000, 1))
    assert chosen(standings) == 40
    assert sum(bool(s.folds) for s in standings) <= 12
    assert standings[40].gain.samples == 4000
    assert cross_validated(standings).gain == pytest.approx(0.08, abs=0.02)


def test_a_safe_model_comes_to_the_end_where_none_is_better():
    models = rows([0.0] * 60, 4000, 2)
    models[59] = 0.0  # changes nothing
    assert chosen(raced(models), SAFE) == 59


def test_choosing_among_equals_gains_nothing_when_cross_validated():
    """The best of sixty looks better than it is; on the fold that did not choose it is what it is."""
    seen, expected = [], []
    for seed in range(20):
        standings = raced(rows([0.0] * 60, 1000, 100 + seed))
        seen.append(standings[chosen(standings)].gain.gain)
        expected.append(cross_validated(standings).gain)
    assert np.mean(seen) > 0.01
    assert np.mean(expected) < 0.75 * np.mean(seen)
