"""types: what cannot exist, and what the nouns count."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from onnx_lowrank.options import Options
from onnx_lowrank.types import (
    Bound,
    Chain,
    Choice,
    Cost,
    Form,
    Interval,
    Moments,
    Option,
    Plan,
    Site,
    Skip,
    Stage,
    Verdict,
    Why,
)


def test_a_stage_cannot_have_a_kernel_it_does_not_own():
    Stage(np.zeros((2, 3, 3, 1)), (0,))
    with pytest.raises(ValueError, match="kernel 3 on axis 1"):
        Stage(np.zeros((2, 3, 1, 3)), (0,))
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        Stage(np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        Stage(np.zeros((2, 2))).weight[0, 0] = 1


def test_a_chain_fits_together():
    first, last = Stage(np.zeros((2, 5, 3)), (0,)), Stage(np.zeros((4, 2, 1)))
    assert Chain((first, last)).layout == (((2, 5, 3), (0,)), ((4, 2, 1), ()))
    with pytest.raises(ValueError, match="widths differ"):
        Chain((last, first))
    with pytest.raises(ValueError, match="owned by two"):
        Chain((Stage(np.zeros((2, 5, 3)), (0,)), Stage(np.zeros((4, 2, 3)), (0,))))


def test_nouns_are_frozen():
    site = Site("y", "fc", "MatMul", "W", (6, 4, 3, 3), ("y",))
    assert (site.parameters, site.break_even) == (216, 6 * 36 / 42)
    for noun, field in ((site, "shape"), (Skip("W", "n", "op", (2, 3), Why.SHAPE), "why"), (Options(), "seed")):
        with pytest.raises(FrozenInstanceError):
            setattr(noun, field, None)
    assert Skip("W", "n", "op", (2, 3), Why.SHAPE).parameters == 6
    assert Interval(0.0, -1.0, 2.0).width == 3.0


def test_costs_add_and_plans_sum_exactly():
    assert Cost(1, 2, 3.0, 0.5) + Cost(4, 5, 6.0, 0.75) - Cost(1, 1, 1.0, 0.25) == Cost(4, 6, 8.0, 1.0)
    tiny = [Choice(str(i), "w", Option(Form("svd", (1,)), Cost(), loss=0.1)) for i in range(10)]
    assert Plan(tuple(tiny)).loss == 1.0
    assert Plan(()).cost == Cost()


def test_patches_come_with_keys():
    broken = Moments(A=np.eye(2), patches=np.zeros((1, 2, 1)), room=1)
    with pytest.raises(ValueError, match="come with their keys"):
        broken + broken


def test_a_verdict_is_as_true_as_it_passed():
    interval = Interval(0.0, 0.0, 0.0)
    verdict = Verdict("certified", "top1", True, 3, interval, interval, interval, Bound(0.0, 0.95, "", True), 0.0)
    assert verdict
    assert not replace(verdict, word="failed")
