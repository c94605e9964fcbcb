"""Originals that onnxruntime takes and onnx.checker does not: said at the start, and the result is held to that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, correlated, mlp, node, options, value, weight

from onnx_lowrank import DataSources, Gate, Goal, Lossless, ModelError, Result, apply, compare, optimize
from onnx_lowrank.graph import model_io
from onnx_lowrank.graph.model_io import Level, Standing
from onnx_lowrank.pipeline import staging as finish
from onnx_lowrank.results.saved_plan import SavedPlan
from onnx_lowrank.types import Array


def goal() -> Goal:
    """Return what every model here reaches: nothing is asked of its outputs."""
    return Lossless(keep=0.8, gate=Gate(max_drop=1e9, observed=True))


def plain() -> onnx.ModelProto:
    return mlp([24, 32, 32, 8], [6, 8, None], 1)


def without_shape() -> onnx.ModelProto:
    model = plain()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def unlisted() -> onnx.ModelProto:
    model = plain()
    model.ir_version = 3
    return model


def normalised(op: str, opset: int, *parts: str) -> onnx.ModelProto:
    """x W, normalised over its channels by an operator that is in no ONNX of that version, times V."""
    weights = {"W": weight((24, 32), 1, rank=8), "V": weight((32, 24), 2), "scale": np.ones(32), "bias": np.zeros(32)}
    nodes = [
        node("MatMul", ["x", "W"], ["h"], "first"),
        node(op, ["h", *parts], ["g"], "normalise", axis=-1),
        node("MatMul", ["g", "V"], ["y"], "last"),
    ]
    used = {name: np.float32(W) for name, W in weights.items() if name in ("W", "V", *parts)}
    return build(nodes, [value("x", ["n", 24])], [value("y", ["n", 24])], used, opset=opset)


def doubtful() -> onnx.ModelProto:
    """A function of the standard that onnx cannot infer the shape of, at this version: basic check, not the full."""
    weights = {"K": weight((16, 4, 1, 1), 1, rank=2), "L": weight((8, 16, 1, 1), 2)}
    nodes = [
        node("Reshape", ["x", "grid"], ["image"]),
        node("Conv", ["image", "K"], ["h"], "first"),
        node("MeanVarianceNormalization", ["h"], ["m"], "normalise"),
        node("Conv", ["m", "L"], ["z"], "last"),
        node("Reshape", ["z", "flat"], ["y"]),
    ]
    shapes = {"grid": np.array([0, 4, 2, 3]), "flat": np.array([0, 48])}
    return build(nodes, [value("x", ["n", 24])], [value("y", ["n", 48])], {**weights, **shapes})


KINDS: dict[str, tuple[Callable[[], onnx.ModelProto], Level, str]] = {
    "an output without shape": (without_shape, Level.LOADS, "Field 'shape' of 'type' is required but missing."),
    "initializers not listed": (unlisted, Level.LOADS, "fc0 in initializer but not in graph input"),
    "fused in the default domain": (
        lambda: normalised("SimplifiedLayerNormalization", 17, "scale"),
        Level.LOADS,
        "No Op registered for SimplifiedLayerNormalization with domain_version of 17",
    ),
    "fused before its time": (
        lambda: normalised("LayerNormalization", 13, "scale", "bias"),
        Level.LOADS,
        "No Op registered for LayerNormalization with domain_version of 13",
    ),
    "shapes that cannot be inferred": (doubtful, Level.BASIC, "[ShapeInferenceError] Inference error(s): "),
}


def data(seed: int) -> dict[str, Array]:
    return {"x": correlated(48, 24, seed)}


def on_file(name: str, folder: Path) -> Path:
    model_io.store(KINDS[name][0](), folder / "model.onnx")
    return folder / "model.onnx"


def optimized(model: Path | onnx.ModelProto, output: Path | None, **changes: object) -> Result:
    sources = DataSources(data=data(1), validation=data(2))
    return optimize(model, sources, goal(), options(metric="relative-l2", **changes), output=output)


@pytest.mark.parametrize("sensitivity", ["joint", "inputs"])
@pytest.mark.parametrize("name", sorted(KINDS))
def test_such_a_model_is_made_smaller_and_saved(name: str, sensitivity: str, tmp_path: Path) -> None:
    _, level, why = KINDS[name]
    source = on_file(name, tmp_path)
    result = optimized(source, tmp_path / "smaller.onnx", sensitivity=sensitivity)
    assert result.changed, result.reason
    check = "onnx.checker" if level is Level.LOADS else "onnx.checker's full check"
    assert result.notes[0].startswith(f"the original does not pass {check} ({why}")
    held = "to that" if level is Level.LOADS else "to the basic check"
    assert result.notes[0].endswith(f"), but onnxruntime loads it: the result is held {held}")
    assert model_io.standing(tmp_path / "smaller.onnx").level == level
    result.save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "smaller.onnx").read_bytes()


@pytest.mark.parametrize("then", ["quantize", "quantize-dynamic", "quantize-weights"])
@pytest.mark.parametrize("name", sorted(set(KINDS) - {"shapes that cannot be inferred"}))  # too small to be quantised
def test_such_a_model_is_quantised_afterwards(name: str, then: str, tmp_path: Path) -> None:
    result = optimized(on_file(name, tmp_path), tmp_path / "smaller.onnx", then=then)
    assert result.changed, result.reason


@pytest.mark.parametrize("name", sorted(KINDS))
def test_apply_and_compare_take_it_too(name: str, tmp_path: Path) -> None:
    source = on_file(name, tmp_path)
    result = optimized(source, None)
    assert result.plan is not None
    saved = SavedPlan.of_result(result, "test")
    apply(saved, source, data(1), output=tmp_path / "applied.onnx")
    judged = compare(source, tmp_path / "applied.onnx", data(2), goal().gate, options(metric="relative-l2"))
    assert judged.verdict.passed
    said = [note for note in judged.notes if "does not pass onnx.checker" in note]
    assert [note.split(" does ")[0] for note in said] == [str(source), str(tmp_path / "applied.onnx")]


def test_nothing_is_said_of_a_model_that_passes(tmp_path: Path) -> None:
    result = optimized(plain(), tmp_path / "smaller.onnx")
    assert not [note for note in result.notes if "onnx.checker" in note or "like the original" in note]
    assert model_io.standing(tmp_path / "smaller.onnx") == Standing()


def test_a_result_below_its_original_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if rewriting had lost the shape of an output."""
    monkeypatch.setattr(finish, "staged", lambda model, *rest: model_io.staged(without_shape(), *rest))
    with pytest.raises(ModelError, match=r"smaller\.onnx does not pass onnx\.checker: Field 'shape'"):
        optimized(plain(), tmp_path / "smaller.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_large_model_is_looked_at_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_lowrank.graph.large.PROTOBUF_LIMIT", 1000)
    assert model_io.standing(plain()) == Standing()
    assert model_io.standing(unlisted()) == Standing(Level.LOADS, KINDS["initializers not listed"][2])
