"""How far outputs moved: the scale that sensitivity is probed on, and the tally of a report."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_lowrank.metrics import (
    Agreement,
    Cosine,
    Difference,
    RelativeL2,
    SquaredError,
    Top,
    class_output,
    divergence,
    divergence_kind,
    probing,
)

GENERATOR = np.random.default_rng(3)


def some(*shape, n=5):
    return [GENERATOR.normal(size=shape).astype(np.float32) for _ in range(n)]


def softmax(samples):
    return [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in samples]


@pytest.mark.parametrize(
    ("metric", "outputs", "kind"),
    [
        (Top(1), {"y": some(1, 37)}, "kl"),
        (Agreement("b"), {"a": some(1, 3), "b": some(1, 37)}, "kl"),
        (Cosine(), {"y": softmax(some(1, 5))}, "kl"),
        (None, {"logits": some(1, 5)}, "kl"),
        (None, {"y": some(1, 384)}, "relative-l2"),
        (SquaredError(), {"y": some(1, 1)}, "relative-l2"),
        (RelativeL2(), {"y": some(1, 3, 8, 8)}, "relative-l2"),
        (Top(1), {"y": [np.array([1])]}, "relative-l2"),
    ],
)
def test_kind(metric, outputs, kind):
    assert divergence_kind(metric, outputs) == kind
    assert (class_output(metric, outputs) is not None) == (kind == "kl")


def test_relative_is_the_share_of_variance_lost():
    reference = {"y": [np.array([[1.0, -1.0]]), np.array([[3.0, -3.0]])]}  # mean 0, variance 5
    moved = {"y": [np.array([[1.0, 1.0]]), np.array([[3.0, -3.0]])]}
    assert divergence("relative-l2", reference, moved) == pytest.approx([2.0 / 5.0, 0.0])
    predicting_the_mean = {"y": [np.zeros((1, 2))] * 2}
    assert divergence("relative-l2", reference, predicting_the_mean).mean() == pytest.approx(1.0)


def test_outputs_add_each_by_its_kind():
    reference = {"p": softmax(some(1, 4)), "h": some(1, 6)}
    moved = {"p": softmax(some(1, 4)), "h": some(1, 6)}
    apart = divergence("kl", {"p": reference["p"]}, {"p": moved["p"]})
    apart = apart + divergence("relative-l2", {"h": reference["h"]}, {"h": moved["h"]})
    assert divergence("kl", reference, moved) == pytest.approx(apart)


def test_without_evidence_kl_takes_every_output_with_classes():
    reference, moved = {"y": some(1, 37)}, {"y": some(1, 37)}
    assert [each.kind for each in probing("kl", reference).outputs] == ["kl"]
    shifted = {"y": [array + 5 for array in reference["y"]]}
    assert divergence("kl", reference, shifted) == pytest.approx(np.zeros(5), abs=1e-9)  # softmax forgets a shift
    assert (divergence("kl", reference, moved) > 0).all()


def test_a_joined_run_sums_its_samples():
    for kind, width in (("kl", 37), ("relative-l2", 6)):
        reference, moved = {"y": some(1, width)}, {"y": some(1, width)}
        measure = probing(kind, reference)
        joined = [{"y": np.concatenate(side["y"])} for side in (reference, moved)]
        assert measure.summed(*joined, samples=5) == pytest.approx(measure.values(reference, moved).sum())


def test_what_is_broken_is_infinitely_far():
    reference = {"y": some(1, 3, n=1)}
    for broken in (np.full((1, 3), math.nan), np.full((1, 3), math.inf), np.zeros((1, 4))):
        for kind in ("kl", "relative-l2"):
            assert divergence(kind, reference, {"y": [broken]}).tolist() == [math.inf]


def test_a_constant_output_has_a_scale_too():
    constant = {"y": [np.full((1, 3), 2.0)]}
    assert divergence("relative-l2", constant, {"y": [np.full((1, 3), 1.0)]}) == pytest.approx([0.25])
    zero = {"y": [np.zeros((1, 3))]}
    assert divergence("relative-l2", zero, {"y": [np.ones((1, 3))]}) == pytest.approx([1.0])


def test_class_numbers_count_only_alone():
    both = {"id": [np.array([3])], "y": some(1, 3, n=1)}
    assert [each.name for each in probing("relative-l2", both).outputs] == ["y"]
    assert [each.name for each in probing("kl", {"id": [np.array([3])]}).outputs] == ["id"]


def test_a_tally_is_that_of_all_samples_as_one_vector():
    original, candidate = some(2, 3), some(2, 3)
    tally = Difference("y")
    for pair in zip(original, candidate, strict=True):
        tally.add(*pair)
    first, second = (np.concatenate(side).astype(np.float64).ravel() for side in (original, candidate))
    found = tally.result()
    assert found.relative_l2 == pytest.approx(np.linalg.norm(second - first) / np.linalg.norm(first))
    assert found.cosine == pytest.approx(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    assert found.max_error == pytest.approx(np.abs(second - first).max())
    assert found.finite


def test_a_tally_of_the_same_is_exact():
    tally = Difference("y")
    tally.add(np.array([0.1, 0.7], np.float32), np.array([0.1, 0.7], np.float32))
    assert (tally.result().relative_l2, tally.result().cosine, tally.result().max_error) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("original", "candidate", "broken", "unfit"),
    [
        ([1.0, 2.0], [1.0, math.nan], 1, 0),
        ([1.0, 2.0], [1.0, math.inf], 1, 0),
        ([1.0, math.nan], [1.0, math.nan], 0, 1),
        ([1.0, -math.inf], [1.0, -math.inf], 0, 1),
        ([1.0, -math.inf], [1.0, math.nan], 1, 1),
        ([1.0, -math.inf], [1.0, math.inf], 1, 1),
        ([1.0, -math.inf], [1.0, 5.0], 0, 1),
        ([1.0, math.nan], [math.nan, 1.0], 1, 1),
    ],
)
def test_whose_fault_a_nan_is(original, candidate, broken, unfit):
    tally = Difference("y")
    tally.add(np.array(original), np.array(candidate))
    assert (tally.broken, tally.unfit) == (broken, unfit)
    found = tally.result()
    assert found.finite == (not broken)
    assert found.relative_l2 == (math.inf if broken else 0.0)


def test_another_shape_has_no_distance():
    tally = Difference("y")
    tally.add(np.zeros((1, 3)), np.zeros((1, 4)))
    assert (tally.result().relative_l2, tally.reshaped) == (math.inf, 1)
