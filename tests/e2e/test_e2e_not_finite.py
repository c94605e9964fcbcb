"""Weights that hold NaN or Inf, and samples whose gradients are not finite: named and left alone, the others go on."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import build, correlated, halved, mlp, node, options, quantised, value, weight
from onnx import TensorProto

from onnx_lowrank import Compact, DataSources, Gate, Goal, Lossless, Result, inspect, optimize
from onnx_lowrank.types import Array, Why

SENSITIVITIES = ("joint", "inputs", "weights")


def goal() -> Goal:
    """Return what every model here reaches: nothing is asked of its outputs."""
    return Lossless(keep=0.9, gate=Gate(max_drop=1e9, observed=True))


def stem() -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Return x A -> tanh -> t, t B C -> c: A and B of low rank."""
    nodes = [
        node("MatMul", ["x", "A"], ["a"], "first"),
        node("Tanh", ["a"], ["t"]),
        node("MatMul", ["t", "B"], ["b"], "second"),
        node("MatMul", ["b", "C"], ["c"], "third"),
    ]
    return nodes, {"A": weight((24, 24), 1, rank=4), "B": weight((24, 32), 2, rank=8), "C": weight((32, 8), 3)}


def finished(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> onnx.ModelProto:
    return build(nodes, [value("x", ["n", 24])], [value("y", ["n", 8])], weights)


def masked(odd: float) -> onnx.ModelProto:
    """The stem; beside c there is t N, of a weight with an odd number, and a Where that never takes it."""
    nodes, weights = stem()
    N = weight((24, 8), 4)
    N[0, 0] = odd
    nodes += [
        node("MatMul", ["t", "N"], ["n"], "odd"),
        node("Greater", ["c", "huge"], ["k"]),
        node("Where", ["k", "n", "c"], ["y"]),
    ]
    return finished(nodes, {**weights, "N": N, "huge": np.float32(1e4)})


def overflowing() -> onnx.ModelProto:
    """The stem, plus 1 / exp(1,000 |x E|): 0 in every sample, with a gradient of 0 · Inf at E."""
    nodes, weights = stem()
    nodes += [
        node("MatMul", ["x", "E"], ["e"], "steep"),
        node("Abs", ["e"], ["e1"]),
        node("Mul", ["e1", "thousand"], ["e2"]),
        node("Exp", ["e2"], ["e3"]),
        node("Reciprocal", ["e3"], ["e4"]),
        node("Add", ["c", "e4"], ["y"]),
    ]
    return finished(nodes, {**weights, "E": 100 * weight((24, 8), 4), "thousand": np.float32(1000)})


def optimized(model: onnx.ModelProto, scale: float = 1.0, asked: Goal | None = None, **changes: object) -> Result:
    data, validation = ({"x": correlated(48, 24, seed) * np.float32(scale)} for seed in (1, 2))
    chosen = options(**{"metric": "relative-l2", **changes})
    return optimize(model, DataSources(data=data, validation=validation), asked or goal(), chosen, dry_run=True)


def left_alone(result: Result, why: Why) -> set[str]:
    return {skip.weight for skip in result.skips if skip.why is why}


@pytest.mark.parametrize("sensitivity", SENSITIVITIES)
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_named_and_the_others_are_factored(odd: float, sensitivity: str) -> None:
    result = optimized(masked(odd), sensitivity=sensitivity)
    assert result.changed, result.reason
    assert left_alone(result, Why.NOT_FINITE) == {"N"}
    # what is multiplied by it on the way back is no number either, whatever Where takes
    assert left_alone(result, Why.OVERFLOW) == ({"A"} if sensitivity == "joint" else set())
    (told,) = (skip for skip in inspect(masked(odd)).skips if skip.weight == "N")
    assert (told.why.value, told.detail) == (
        "holds NaN or Inf",
        f"1 {'NaN' if odd != odd else 'Inf'} among 192 numbers",
    )


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_in_half_precision_as_well(kind: int) -> None:
    found = inspect(halved(masked(np.nan), kind))
    assert [skip.weight for skip in found.skips if skip.why is Why.NOT_FINITE] == ["N"]
    assert {row.site.weight for row in found.rows} == {"A", "B"}


def test_in_integers_with_a_scale_that_is_no_number() -> None:
    model = quantised(masked(0.5), {"N": 1, "B": 1})
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "N.scale")
    scales = onnx.numpy_helper.to_array(scale).copy()
    scales[0] = np.nan
    scale.CopyFrom(onnx.numpy_helper.from_array(scales, scale.name))
    result = optimized(model, sensitivity="joint")
    assert result.changed, result.reason
    assert left_alone(result, Why.NOT_FINITE) == {"N"}


@pytest.mark.parametrize("memory", [2**24, 2**30])
@pytest.mark.parametrize("changes", [{}, {"inter_layer": True}, {"continuation": 2}, {"refit": True}])
def test_where_no_gradient_is_finite_the_weight_is_named_and_the_others_go_on(
    changes: dict[str, object], memory: int
) -> None:
    result = optimized(overflowing(), memory=memory, **changes)
    assert result.changed, result.reason
    assert left_alone(result, Why.OVERFLOW) == {"E"}
    (detail,) = (skip.detail for skip in result.skips if skip.weight == "E")
    assert detail.endswith("on 42 of 42 calibration samples")
    assert {c.weight for c in result.plan.factored} <= {"A", "B", "C"} if result.plan else False
    assert [note for note in result.notes if note.startswith("1 weight is left as it is: ")]
    assert all(np.isfinite(option.loss) for curve in result.curves for option in curve.options)


@pytest.mark.parametrize("asked", [None, Compact(gate=Gate(max_drop=1e9, observed=True))])
@pytest.mark.parametrize("scale", [1e20, 1e30])
def test_samples_too_large_everywhere_end_in_one_line(scale: float, asked: Goal | None) -> None:
    model = mlp([24, 32, 32, 8], [6, 8, None], 1)
    result = optimized(model, scale, asked)
    assert not result.changed
    assert result.reason.startswith("no weight can be factored by these calibration samples: ")
    assert "not finite on the samples (" in result.reason
    assert "\n" not in result.reason
    assert left_alone(result, Why.OVERFLOW) == {"fc0", "fc1", "fc2"}


def test_inputs_too_large_at_one_weight_leave_the_others() -> None:
    nodes, weights = stem()
    nodes += [
        node("MatMul", ["z", "D"], ["d"], "large"),
        node("Tanh", ["d"], ["u"]),
        node("MatMul", ["u", "F"], ["f"], "last"),
        node("Add", ["c", "f"], ["y"]),
    ]
    weights |= {"D": weight((24, 24), 5, rank=4), "F": weight((24, 8), 6)}
    model = build(nodes, [value("x", ["n", 24]), value("z", ["n", 24])], [value("y", ["n", 8])], weights)
    parts = [{"x": correlated(48, 24, seed), "z": np.float32(1e30) * correlated(48, 24, seed + 9)} for seed in (1, 2)]
    chosen = options(metric="relative-l2")
    result = optimize(model, DataSources(data=parts[0], validation=parts[1]), goal(), chosen, dry_run=True)
    assert result.changed, result.reason
    assert left_alone(result, Why.OVERFLOW) == {"D"}


@pytest.mark.parametrize("sensitivity", ["inputs", "weights"])
def test_an_activation_that_is_never_finite_leaves_its_weight_alone(sensitivity: str) -> None:
    """Behind exp(1,000 |x|) nothing is a number; what Where takes instead is."""
    nodes, weights = stem()
    nodes += [
        node("Abs", ["x"], ["x1"]),
        node("Mul", ["x1", "many"], ["x2"]),
        node("Exp", ["x2"], ["x3"]),
        node("MatMul", ["x3", "E"], ["e"], "behind"),
        node("Greater", ["c", "huge"], ["k"]),
        node("Where", ["k", "e", "c"], ["y"]),
    ]
    more = {"E": weight((24, 8), 4), "many": np.float32(1e6), "huge": np.float32(1e4)}
    result = optimized(finished(nodes, {**weights, **more}), sensitivity=sensitivity)
    assert result.changed, result.reason
    assert left_alone(result, Why.OVERFLOW) == {"E"}
