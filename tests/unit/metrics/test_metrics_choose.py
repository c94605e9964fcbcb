"""The default metric, golden: what is chosen, and the sentence that says why."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics import METRICS, Cosine, Top, choose_metric, parse_metric

GENERATOR = np.random.default_rng(0)


def some(*shape, dtype=np.float32):
    return [GENERATOR.normal(size=shape).astype(dtype) for _ in range(3)]


def probabilities(*shape):
    return [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in some(*shape)]


def unit(*shape):
    return [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in some(*shape)]


WHOLE = np.array([3, 0, 9, 4, 5])
LABELLED = [
    ({"logits": some(1, 10)}, WHOLE, "labels are whole numbers below the 10 classes of output 'logits': top1"),
    ({"y": some(1, 10)}, WHOLE.astype(float), "labels are whole numbers below the 10 classes of output 'y': top1"),
    ({"hidden": some(1, 7, 16), "p": some(1, 12)}, WHOLE, "…below the 12 classes of output 'p': top1@p"),
    ({"y": some(1, 4, 10)}, np.array([[1, 2, 3, -100]] * 5), "…below the 10 classes of output 'y': top1"),
    ({"mask": some(1, 3, 4, 4)}, np.ones((5, 4, 4), int), "…below the 3 classes of output 'mask': top1"),
    ({"y": some(1, 1)}, np.linspace(0, 1, 5), "labels are numbers, as many as output 'y' has: mse"),
    ({"y": some(1, 1)}, np.array([0, 1, 1, 0, 1]), "labels are numbers, as many as output 'y' has: mse"),
    ({"y": some(1, 3)}, np.zeros((5, 3)), "labels are numbers, as many as output 'y' has: mse"),
    ({"y": some(1, 3, 8, 8)}, np.zeros((5, 3, 8, 8)), "labels are numbers, as many as output 'y' has: mse"),
    (
        {"id": some(1, dtype=np.int64)},
        WHOLE,
        "labels and output 'id' are whole numbers, as many: top1 counts the equal",
    ),
    ({"id": some(1, dtype=np.int64), "p": some(1, 10)}, WHOLE, "…below the 10 classes of output 'p': top1@p"),
]
UNLABELLED = [
    ({"y": probabilities(1, 7)}, "no labels; the rows of output 'y' are probabilities of 7 classes: agreement"),
    ({"y": probabilities(1, 9, 7)}, "no labels; the rows of output 'y' are probabilities of 7 classes: agreement"),
    ({"logits": some(1, 37)}, "no labels; output 'logits' is named like scores of 37 classes: agreement"),
    ({"y": some(1, 1000)}, "no labels; output 'y' has 1000 columns, as many as ImageNet has classes: agreement"),
    ({"y": unit(1, 384)}, "no labels; output 'y' holds vectors of length 1: relative-l2"),
    ({"y": unit(1, 100)}, "no labels; output 'y' holds vectors of length 1: relative-l2"),
    ({"y": some(1, 384)}, "no labels; nothing says that output 'y' holds class scores: relative-l2"),
    ({"y": some(1, 4)}, "no labels; nothing says that output 'y' holds class scores: relative-l2"),
    ({"image": some(1, 3, 16, 16)}, "…nothing says that output 'image' holds class scores: relative-l2"),
    ({"problem": some(1, 5)}, "…nothing says that output 'problem' holds class scores: relative-l2"),
    ({"id": some(1, dtype=np.int64)}, "no labels; output 'id' holds whole numbers: agreement"),
    (
        {"name": [np.array(["a"])] * 3, "y": probabilities(1, 7)},
        "…output 'y' are probabilities of 7 classes: agreement",
    ),
]


def check(outputs, labels, expected):
    metric, why = choose_metric(None, labels, outputs)
    assert expected.lstrip("…") in why.replace("top1", metric.name)
    assert metric.name.partition("@")[0] in why
    if not metric.whole:
        few = None if labels is None else labels[:3]
        assert np.isfinite(metric.values(outputs, few, outputs)).all()  # what is chosen also fits


@pytest.mark.parametrize(("outputs", "labels", "why"), LABELLED)
def test_with_labels(outputs, labels, why):
    check(outputs, labels, why)


@pytest.mark.parametrize(("outputs", "why"), UNLABELLED)
def test_without_labels(outputs, why):
    check(outputs, None, why)


def test_an_output_that_is_not_the_first_is_named():
    metric, _ = choose_metric(None, None, {"id": some(1, dtype=np.int64), "y": probabilities(1, 7)})
    assert metric.name == "agreement@y"


@pytest.mark.parametrize("labels", [[1, 2, 30, 1, 1], ["a"] * 5, np.zeros((5, 3)), [440.0] * 5])
def test_labels_that_fit_nothing_are_not_passed_over(labels):
    with pytest.raises(
        MetricError, match=r"the labels (\(.*\) fit no output|are names \('a', say\)).*--metric FILE.py:function"
    ):
        choose_metric(None, labels, {"y": some(1, 10)})


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_every_name_is_found_and_can_take_an_output(metric):
    assert parse_metric(metric.name) == metric
    assert parse_metric(metric.name.upper() + "@Y").name == f"{metric.name}@Y"


def test_asked_for_is_as_asked():
    metric, why = choose_metric("cosine", None, {"y": some(1, 4)})
    assert (metric, why) == (Cosine(), "cosine: as asked")
    own = Top(3)
    assert choose_metric(own, WHOLE, {"y": some(1, 10)})[0] is own


@pytest.mark.parametrize(
    ("spec", "labels", "message"),
    [
        ("top2", WHOLE, "unknown metric 'top2': did you mean top"),
        ("accuracy", WHOLE, "unknown metric 'accuracy'"),
        ("top1", None, "top1 needs labels"),
        ("top1@z", WHOLE, "no output 'z'"),
        ("top1", np.full(5, 10), "a label is 10"),
        ("mse", np.full(5, 10.0), "they need the same number of elements"),
    ],
)
def test_what_was_asked_for_and_does_not_fit(spec, labels, message):
    with pytest.raises(MetricError, match=message):
        choose_metric(spec, labels, {"y": some(1, 10)})


def test_a_model_without_numbers_needs_a_function():
    with pytest.raises(MetricError, match=r"give --metric FILE\.py:function"):
        choose_metric(None, None, {"y": [np.array(["a"])]})
