"""A user's own metric: what it may return, and the one line where it fails."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics import Custom, parse_metric

OUTPUTS = {"y": [np.array([[float(i), 1.0]], np.float32) for i in range(4)]}
LABELS = np.arange(4.0)


def right(outputs, labels):
    return np.array([float(y[0, 0] == label) for y, label in zip(outputs["y"], labels, strict=True)])


def loss(outputs, labels):
    return sum(float(y[0, 0]) for y in outputs["y"]) / 4


loss.lower_is_better = True
loss.needs_labels = False


def test_a_function_is_a_metric():
    metric = parse_metric(right)
    assert (metric.name, metric.higher_is_better, metric.needs_labels, metric.whole) == ("right", True, True, True)
    values = metric.values(OUTPUTS, LABELS, None)
    assert values.dtype == np.float64
    assert values.tolist() == [1, 1, 1, 1]


def test_its_attributes_give_direction_and_needs():
    metric = parse_metric(loss)
    assert (metric.higher_is_better, metric.needs_labels) == (False, False)
    assert metric.values(OUTPUTS, None, None) == 1.5


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import neighbour\n"
        "from dataclasses import dataclass\n\n"
        "@dataclass\nclass Setting:\n    x: int = 1\n\n"
        "def f(outputs, labels):\n    return [neighbour.one()] * len(outputs['y'])\n\n"
        "def g(outputs, labels):\n    return 1 / 0\n"
    )
    (tmp_path / "neighbour.py").write_text("def one():\n    return True\n")
    return path


def test_a_function_of_a_file(script):
    metric = parse_metric(f"{script}:f")
    assert metric.name == "own.py:f"
    assert metric.values(OUTPUTS, LABELS, None).tolist() == [1.0] * 4


def test_the_last_colon_parts_file_and_function(tmp_path, script):
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "own.py").write_text("def f(outputs, labels):\n    return 0.5\n")
    assert parse_metric(f"{folder}/own.py:f").values(OUTPUTS, LABELS, None) == 0.5


def test_an_exception_is_one_line_with_its_place_and_cause(script):
    with pytest.raises(
        MetricError, match=r"^own\.py:g failed in line 12: ZeroDivisionError: division by zero$"
    ) as caught:
        parse_metric(f"{script}:g").values(OUTPUTS, LABELS, None)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        ("x = 1\n", "f", "has no function 'f'; it has none"),
        ("def h(o, l): ...\n", "f", "has no function 'f'; it has h"),
        ("def f(:\n", "f", "failed in line 1: SyntaxError"),
        ("import nowhere_to_be_found\n", "f", "failed in line 1: ModuleNotFoundError"),
        ("", "", "which function? Give FILE.py:function"),
    ],
)
def test_a_file_that_does_not_serve(tmp_path, text, function, message):
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(MetricError) as caught:
        parse_metric(f"{path}:{function}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_function_name():
    with pytest.raises(MetricError, match="no such file"):
        parse_metric("nowhere.py:f")
    with pytest.raises(MetricError, match="which function"):
        parse_metric("nowhere.py")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "returned NoneType None; return 4 numbers"),
        ("good", "returned str 'good'"),
        ([1, 2, 3], r"returned an array of shape \(3,\); return 4 numbers \(one a sample, shape \(4,\)\) or one float"),
        (np.zeros((4, 1)), r"shape \(4, 1\)"),
        ([[1], [1, 2]], "returned a ragged list"),
        ([1j] * 4, "returned list"),
    ],
)
def test_a_result_that_is_no_metric(result, message):
    with pytest.raises(MetricError, match=message):
        Custom(lambda outputs, labels: result, "mine").values(OUTPUTS, LABELS)


def test_the_users_function_cannot_change_what_is_judged():
    def rude(outputs, labels):
        outputs["y"].clear()
        return 1.0

    Custom(rude, "rude").values(OUTPUTS, LABELS)
    assert len(OUTPUTS["y"]) == 4
