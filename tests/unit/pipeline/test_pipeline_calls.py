"""Calls from Python with things of another kind: one line that says what was given and what is wanted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from onnx_lowrank import Compact, DataSources, Gate, GoalError, ModelError, Options, Session, inspect, optimize
from onnx_lowrank.demo import MODEL, demo_samples
from onnx_lowrank.report import result_json


@pytest.mark.parametrize("call", [lambda: optimize(5, {}), lambda: inspect(None), lambda: Session.of(5.0, {})])
def test_what_is_no_model(call: Any):
    with pytest.raises(ModelError, match=r"a model is the path of an .onnx or an onnx.ModelProto, not "):
        call()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: optimize(MODEL, {}, Gate()), r"goal takes Compact(…) or Lossless(…), not Gate("),
        (lambda: optimize(MODEL, {}, Compact(), {"seed": 1}), "options takes Options(…), not {'seed': 1} (dict)"),
        (lambda: inspect(MODEL, progress=print), "progress takes an object with a method step(title, total)"),
        (lambda: optimize(MODEL, {}, progress=print), "not <built-in function print> (builtin_function_or_method)"),
    ],
)
def test_what_is_no_goal_no_options_and_no_progress(call: Any, says: str):
    with pytest.raises(GoalError) as caught:
        call()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_may_be_the_metric_and_the_report_names_it():
    def rightly(outputs: Any, labels: Any) -> list[float]:
        return [float(np.argmax(y) == label) for y, label in zip(outputs["logits"], labels, strict=True)]

    sets = demo_samples()
    sources = DataSources(data=sets["calibration"], validation=sets["validation"])
    options = Options(metric=rightly, sensitivity="weights", include=("7.weight",))
    result = optimize(MODEL, sources, Compact(gate=Gate(max_drop=0.02, observed=True)), options, dry_run=True)
    assert json.loads(result_json(result))["options"]["metric"] == "rightly"
