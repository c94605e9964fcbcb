"""A ratio of times in words: faster, slower, or nobody can tell."""

from __future__ import annotations

import pytest

from onnx_lowrank.report.time_notes import faster
from onnx_lowrank.types import Interval


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ((0.8, 0.75, 0.85), "1.25 times as fast [1.18, 1.33]"),
        ((1.1, 1.05, 1.2), "10 % [5, 20] slower than the original: the smaller size costs time"),
        ((0.98, 0.9, 1.0), "no faster and no slower than the original, as far as can be told"),
        ((1.02, 1.0, 1.1), "no faster and no slower than the original, as far as can be told"),
    ],
)
def test_a_ratio_counts_only_where_its_interval_leaves_one_out(ratio: tuple[float, ...], said: str) -> None:
    assert faster(Interval(*ratio, 0.95)) == said
