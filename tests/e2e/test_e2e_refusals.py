"""What must end in a no: a test set that refutes validation, an original that is NaN, a size out of reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, node, value, weight

from onnx_lowrank import Compact, DataSources, Gate, GoalError, Lossless, MetricError, Options, optimize
from onnx_lowrank.collection import input_moments as collect
from onnx_lowrank.options import Runtime
from onnx_lowrank.types import Array

CLASSES = 4


def classifier() -> tuple[onnx.ModelProto, Array]:
    """Return x (n, 32) -> x W, scores of four classes, through a full-rank 32×64 weight."""
    W1, W2 = weight((32, 64), 1).astype(np.float32), weight((64, CLASSES), 2).astype(np.float32)
    nodes = [node("MatMul", ["x", "W1"], ["h"]), node("MatMul", ["h", "W2"], ["y"])]
    model = build(nodes, [value("x", ["n", 32])], [value("y", ["n", CLASSES])], {"W1": W1, "W2": W2})
    return model, W1 @ W2


def labelled(W: Array, directions: int, seed: int, count: int) -> dict[str, Array]:
    """Return inputs that only use the first `directions` coordinates, labelled by the model itself."""
    x = np.random.default_rng(seed).normal(size=(count, 32)).astype(np.float32)
    x[:, directions:] = 0
    return {"x": x, "labels": (x @ W).argmax(1)}


def test_a_test_set_that_refutes_validation_keeps_the_model_from_being_saved(tmp_path: Path) -> None:
    model, W = classifier()
    sources = DataSources(data=labelled(W, 8, 0, 64), validation=labelled(W, 8, 1, 300), test=labelled(W, 32, 2, 300))
    result = optimize(
        model, sources, Compact(gate=Gate(max_drop=0.01, observed=True)),
        Options(runtime=Runtime(threads=1), sensitivity="inputs"),
        output=tmp_path / "o.onnx",
    )  # fmt: skip
    assert not result.changed
    assert any(trial.verdict.passed for trial in result.trials)
    assert "held on validation" in result.reason
    assert result.test is not None
    assert result.test.drop.low > 0.01
    assert list(tmp_path.iterdir()) == []


def test_the_same_plan_is_saved_where_the_test_set_agrees(tmp_path: Path) -> None:
    model, W = classifier()
    sources = DataSources(data=labelled(W, 8, 0, 64), validation=labelled(W, 8, 1, 300), test=labelled(W, 8, 2, 300))
    result = optimize(
        model,
        sources,
        Compact(gate=Gate(max_drop=0.01, observed=True)),
        Options(runtime=Runtime(threads=1)),
        output=tmp_path / "o.onnx",
    )
    assert result.changed
    assert [p.name for p in tmp_path.iterdir()] == ["o.onnx"]


@pytest.mark.parametrize("metric", ["cosine", "relative-l2", "kl", "agreement"])
def test_an_original_that_is_nan_everywhere_can_show_nothing(metric: str) -> None:
    model, W = classifier()
    model.graph.node[1].output[0] = "z"
    model.graph.node.append(node("Log", ["negative"], ["log"]))
    model.graph.node.append(node("Add", ["z", "log"], ["y"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(-1), "negative"))
    data, held = labelled(W, 8, 0, 64), labelled(W, 8, 1, 80)
    sources = DataSources(data={"x": data["x"]}, validation={"x": held["x"]})
    goal = Compact(gate=Gate(max_drop=1.0, observed=True))
    with pytest.raises(MetricError, match="the original's output 'y' is never finite"):
        optimize(model, sources, goal, Options(runtime=Runtime(threads=1), metric=metric))
    weak = Options(runtime=Runtime(threads=1), metric=metric, allow_weak_baseline=True)
    assert not optimize(model, sources, goal, weak).changed


def test_an_unreachable_size_is_told_before_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    model, W = classifier()

    def never(*arguments: object) -> None:
        raise AssertionError("calibrated for a goal that cannot be reached")

    monkeypatch.setattr(collect, "_collect_group", never)
    with pytest.raises(GoalError, match=r"smallest share of the parameters is 0\."):
        optimize(model, labelled(W, 8, 0, 64), Lossless(keep=0.05), Options(runtime=Runtime(threads=1)))
