"""Metrics against labels, each against a value worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics import IGNORED, CrossEntropy, SquaredError, Top


def one(*arrays, dtype=np.float32):
    return {"y": [np.array(array, dtype) for array in arrays]}


LOGITS = one([[0.0, math.log(3.0)]], [[math.log(3.0), 0.0]])
PROBABILITIES = one([[0.25, 0.75]], [[0.75, 0.25]])


def test_top1_counts_the_largest_score():
    assert Top(1).values(LOGITS, [1, 1]).tolist() == [1.0, 0.0]


def test_top5_counts_the_five_largest():
    scores = one(np.arange(10)[None], np.arange(10)[None])
    assert Top(5).values(scores, [5, 4]).tolist() == [1.0, 0.0]


def test_equal_scores_do_not_all_win():
    """A model that collapsed to a constant is right for class 0 only."""
    flat = one(*[np.zeros((1, 10))] * 10)
    assert Top(1).values(flat, list(range(10))).tolist() == [1.0] + [0.0] * 9
    assert Top(5).values(flat, list(range(10))).sum() == 5


def test_a_row_with_nan_is_wrong_whatever_the_label():
    broken = one([[math.nan, 1.0, 0.0]], [[math.nan, math.nan, math.nan]])
    for label in range(3):
        assert Top(1).values(broken, [label, label]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("outputs", [LOGITS, PROBABILITIES], ids=["logits", "probabilities"])
def test_cross_entropy_tells_logits_from_probabilities(outputs):
    values = CrossEntropy().values(outputs, [1, 1])
    assert values == pytest.approx([-math.log(0.75), -math.log(0.25)], rel=1e-6)


def test_cross_entropy_of_a_probability_of_zero_is_large_but_finite():
    (value,) = CrossEntropy().values(one([[1.0, 0.0]]), [1])
    assert 80 < value < 110
    (half,) = CrossEntropy().values(one([[1.0, 0.0]], dtype=np.float16), [1])
    assert 10 < half < 20


def test_cross_entropy_of_huge_logits_does_not_overflow():
    assert CrossEntropy().values(one([[1e4, -1e4]]), [1]) == pytest.approx([2e4])


def test_positions_and_the_ignored_label():
    tokens = one([[[2, 0], [0, 2], [2, 0], [2, 0]]])  # (1, 4, 2): decides 0, 1, 0, 0
    labels = np.array([[0, 1, 1, IGNORED]])
    assert Top(1).values(tokens, labels) == pytest.approx([2 / 3])
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert CrossEntropy().values(tokens, labels) == pytest.approx([(2 * right + wrong) / 3])


def test_segmentation_has_its_classes_on_axis_1():
    image = np.zeros((1, 3, 2, 2), np.float32)
    image[0, 2, 0, 1] = image[0, 1, 1, 0] = 5
    labels = np.array([[[0, 2], [1, 0]]])
    assert Top(1).values({"y": [image]}, labels).tolist() == [1.0]
    assert Top(1).values({"y": [image]}, labels + (labels == 1)).tolist() == [0.75]


def test_an_output_of_class_numbers():
    assert Top(1).values(one([3], [4], dtype=np.int64), [3, 3]).tolist() == [1.0, 0.0]


def test_mse_is_the_mean_over_elements():
    outputs = one([[1.0, 2.0]], [[0.0, 0.0]])
    assert SquaredError().values(outputs, np.array([[0.0, 4.0], [0.0, 0.0]])) == pytest.approx([2.5, 0.0])


def test_a_metric_can_name_its_output():
    outputs = {"a": [np.zeros((1, 2), np.float32)], "b": [np.array([[0, 1.0]], np.float32)]}
    metric = Top(1, "b")
    assert metric.name == "top1@b"
    assert metric.values(outputs, [1]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "message"),
    [
        (Top(1), LOGITS, None, "top1 needs labels: add an array 'labels'"),
        (Top(1), LOGITS, [2, 0], "a label is 2, but the output has 2 classes, 0 to 1"),
        (Top(1), LOGITS, [-1, 0], "a label is -1"),
        (Top(1), LOGITS, [0.5, 0], "labels that are whole numbers"),
        (Top(1), LOGITS, ["cat", "dog"], "labels that are whole numbers"),
        (Top(1), LOGITS, [[0, 1], [0, 1]], "2 labels for the 1 positions of an output of shape (1, 2)"),
        (Top(1), LOGITS, [0], "1 labels for 2 samples"),
        (Top(1), LOGITS, [IGNORED, 0], "no label but -100"),
        (Top(5), LOGITS, [0, 1], "top5 is always 1 with 2 classes"),
        (Top(1), one([[0.3]]), [0], "needs a score a class"),
        (Top(1, "z"), LOGITS, [0, 1], "no output 'z'; its outputs are 'y'"),
        (SquaredError(), LOGITS, [0.5, 1.5], "a label of shape () for an output of shape (1, 2)"),
        (SquaredError(), LOGITS, [["a", "b"], ["c", "d"]], "labels that are numbers"),
        (Top(1), {"y": [np.array(["cat"])]}, [0], "does not hold numbers"),
        (Top(1), {}, [0], "no outputs"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(metric, outputs, labels, message):
    with pytest.raises(MetricError) as caught:
        metric.values(outputs, labels)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_may_be_of_any_whole_type():
    for labels in (np.array([True, False]), np.array([1, 0], np.uint8), [1.0, 0.0], np.array([[1], [0]])):
        assert Top(1).values(LOGITS, labels).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 6), (1, 5, 6), (1, 6, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_samples_count_together_as_they_do_alone(k: int, shape: tuple[int, ...], dtype: type) -> None:
    rng = np.random.default_rng(0)
    scores = [rng.integers(0, 4, shape).astype(dtype) for _ in range(300)]
    scores[7].flat[0] = np.nan
    if len(shape) > 1:
        scores[299] = np.concatenate([scores[299], scores[299]])  # another shape
    positions = [each.size // 6 for each in scores]
    labels = [rng.choice([IGNORED, *range(6)], count).astype(np.int64) for count in positions]
    for label in labels:
        label[0] = max(label[0], 0)
    alone = [Top(k).values({"y": [one]}, [label])[0] for one, label in zip(scores, labels, strict=True)]
    assert Top(k).values({"y": scores}, labels).tolist() == alone
    assert 0 < np.mean(alone) < 1


@pytest.mark.parametrize("wrong", [[6], [-1], [IGNORED], [1, 2], ["1"], [0.5]], ids=str)
def test_one_wrong_label_among_many_is_found(wrong: list[object]) -> None:
    labels = [np.array([1])] * 5 + [np.array(wrong)]
    with pytest.raises(MetricError):
        Top().values({"y": [np.eye(1, 6)] * 6}, labels)
