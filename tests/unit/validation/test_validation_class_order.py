"""Labels in another order than the model's classes are found where some are right, and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.validation.class_order import other_order


def decided(labels: np.ndarray, right: float, classes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(labels)) < right, labels, rng.integers(0, classes, len(labels)))


@given(st.integers(4, 12), st.integers(0, 100), st.floats(0.75, 1.0))
def test_exchanged_classes_are_found_and_named(classes: int, seed: int, right: float):
    truth = np.random.default_rng(seed).integers(0, classes, 60 * classes)
    order = np.arange(classes)
    order[[0, 2, 3]] = [2, 3, 0]
    said = other_order(order[truth], decided(truth, right, classes, seed))
    assert said.startswith("the labels are in another order than the model's classes: the original is right in ")
    assert "(0 → 3, 2 → 0, 3 → 2)" in said


@given(st.integers(2, 200), st.integers(0, 100), st.floats(0.0, 1.0), st.integers(40, 400))
def test_a_weak_model_is_not_taken_for_it(classes: int, seed: int, right: float, count: int):
    truth = np.random.default_rng(seed).integers(0, classes, count)
    assert other_order(truth, decided(truth, right, classes, seed)) == ""


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_a_class_that_is_taken_for_another_is_not_taken_for_it(share: float):
    truth = np.repeat(np.arange(5), 40)
    told = np.where((truth == 1) & (np.arange(200) % 10 < 10 * share), 3, truth)
    assert other_order(truth, told) == ""


def test_few_samples_of_many_classes_say_nothing():
    rng = np.random.default_rng(0)
    assert other_order(rng.permutation(1000)[:128], rng.permutation(1000)[:128]) == ""
