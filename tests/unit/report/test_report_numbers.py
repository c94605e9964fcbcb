"""Numbers as text."""

from __future__ import annotations

import json
import math

import pytest

from onnx_lowrank.report import numbers
from onnx_lowrank.report.json_report import plain
from onnx_lowrank.types import Interval, Why


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (99_999, "99,999"), (15_087_360, "15.1 M"), (1.4e9, "1.4 G"), (123e6, "123 M")]
)
def test_count(value: float, text: str) -> None:
    assert numbers.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12 B"), (2_608_837, "2.61 MB"), (1e10, "10 GB"), (819_200, "819 kB")]
)
def test_size(value: float, text: str) -> None:
    assert numbers.size(value) == text


def test_interval_has_real_minus_signs_and_no_infinities() -> None:
    assert numbers.interval(Interval(-0.0005, -0.0045, 0.0034)) == "−0.0005 [−0.0045, 0.0034]"
    assert numbers.interval(Interval(0.5, -math.inf, math.inf), 1) == "0.5 [–, –]"


def test_shorten_keeps_both_ends() -> None:
    text = numbers.shorten("/bert/encoder/layer.11/attention/MatMul", 20)
    assert len(text) == 20
    assert text.startswith("/bert")
    assert text.endswith("MatMul")


def test_plain_is_json_whatever_the_floats() -> None:
    content = plain({"interval": Interval(math.nan, -math.inf, 1.0), "why": Why.DEPTHWISE})
    assert json.loads(json.dumps(content, allow_nan=False)) == {
        "interval": {"estimate": None, "low": None, "high": 1.0, "level": 0.95},
        "why": "depthwise convolution",
    }
