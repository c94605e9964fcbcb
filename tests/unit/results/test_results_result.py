"""A result saves what was gained, and only that."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from builders import factored, linear, mlp, weight

from onnx_lowrank.errors import ModelError
from onnx_lowrank.goals import Compact, Gate
from onnx_lowrank.options import Options
from onnx_lowrank.results.parts import Findings, Made, Original, Request, Size
from onnx_lowrank.results.result import Result
from onnx_lowrank.types import Plan


def result(model: onnx.ModelProto, *, changed: bool) -> Result:
    size = Size(10, 40)
    goal = Compact(gate=Gate(max_drop=0.0, observed=True))
    made = Made(Plan(()), size) if changed else None
    return Result(model, "why", Original("m.onnx", "hash", size), Request(goal, Options()), Findings(), made)


def test_a_result_saves_what_was_gained_and_only_that(tmp_path: Path):
    model = factored(mlp([8, 8], [None], 1), {"y": ("svd", 3)})
    with pytest.raises(ModelError, match="nothing to save: why"):
        result(model, changed=False).save(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    good = result(model, changed=True)
    good.save(str(tmp_path / "m.onnx"))
    assert good
    assert onnx.load(tmp_path / "m.onnx") == model


def test_a_result_that_is_no_model_is_not_saved(tmp_path: Path):
    broken = linear(weight((4, 4), 0))
    broken.graph.node[0].input[1] = "nobody"
    with pytest.raises(ModelError, match=r"does not pass onnx\.checker"):
        result(broken, changed=True).save(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
