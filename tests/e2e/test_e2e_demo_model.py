"""The whole way on the model that ships with the tool: a trained network, real images, labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from builders import elements, options

import onnx_lowrank.demo as demo
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.graph.model_io import load
from onnx_lowrank.pipeline import DataSources, apply, inspect, optimize
from onnx_lowrank.results.result import Result
from onnx_lowrank.results.saved_plan import SavedPlan

MODEL = Path(demo.__file__).parent / "demo.onnx"
SAMPLES = MODEL.parent / "samples.npz"
COUNTS = {"calibration": 48, "validation": 160, "test": 100}


def part(name: str) -> dict[str, np.ndarray]:
    with np.load(SAMPLES) as stored:
        images = stored[f"{name}_images"][: COUNTS[name], None].astype(np.float32) / 255
        return {"image": images, "labels": stored[f"{name}_labels"][: COUNTS[name]].astype(np.int64)}


def sources() -> DataSources:
    return DataSources(data=part("calibration"), validation=part("validation"), test=part("test"))


def accuracy(path: Path, name: str) -> float:
    """Measure in onnxruntime alone, with nothing of the tool."""
    data = part(name)
    (logits,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": data["image"]})
    return float((logits.argmax(1) == data["labels"]).mean())


def checked(result: Result, path: Path) -> None:
    """The file is what the result says: size, accuracy on both sets, a valid model with the same interface."""
    onnx.checker.check_model(str(path), full_check=True)
    saved, original = load(path), load(MODEL)
    assert (saved.graph.input, saved.graph.output) == (original.graph.input, original.graph.output)
    assert result.after.parameters == elements(saved) < elements(original) == result.before.parameters
    assert result.after.bytes == path.stat().st_size
    for name, verdict in (("validation", result.verdict), ("test", result.test)):
        assert verdict.samples == COUNTS[name]
        assert verdict.original.estimate == pytest.approx(accuracy(MODEL, name), abs=1e-9)
        assert verdict.candidate.estimate == pytest.approx(accuracy(path, name), abs=1e-9)
        assert verdict.drop.estimate == pytest.approx(accuracy(MODEL, name) - accuracy(path, name), abs=1e-9)


@pytest.mark.usefixtures("real_clock")
def test_compact_halves_the_demo_model_at_the_same_accuracy(tmp_path: Path):
    result = optimize(
        MODEL,
        sources(),
        Compact(gate=Gate(max_drop=0.0, observed=True)),
        options(rank_multiple=8),
        output=tmp_path / "demo.onnx",
    )
    assert result, result.reason
    assert result.metric.startswith("labels are whole numbers below the 10 classes")
    assert result.verdict.drop.estimate <= 0
    assert result.after.parameters < 0.5 * result.before.parameters
    assert result.after.macs < result.before.macs
    assert result.latency.pairs > 0
    assert result.latency.ratio.low <= result.latency.ratio.estimate <= result.latency.ratio.high
    checked(result, tmp_path / "demo.onnx")


def test_lossless_keeps_its_share_of_the_demo_model(tmp_path: Path):
    goal = Lossless(keep=0.3, gate=Gate(max_drop=0.05, observed=True))
    result = optimize(MODEL, sources(), goal, options(rank_multiple=8), output=tmp_path / "demo.onnx")
    assert result, result.reason
    assert 0.25 < result.after.parameters / result.before.parameters <= 0.3
    assert result.verdict.drop.estimate <= 0.05
    best = min(t.verdict.drop.estimate for t in result.trials if t.verdict.passed)
    assert result.verdict.drop.estimate == best
    checked(result, tmp_path / "demo.onnx")


def test_what_inspect_says_of_the_demo_model():
    seen = inspect(MODEL)
    assert seen.opset == 17
    assert [row.site.weight for row in seen.rows][:2] == ["7.weight", "onnx::Conv_60"]
    assert 0.9 < seen.share < 1
    assert seen.bytes == MODEL.stat().st_size


def test_ranks_and_bits_together_are_small_and_repeated_by_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A quarter of the bytes that ranks alone leave (8.6 %); rounding is made up for by samples that are not scored."""
    monkeypatch.setitem(COUNTS, "calibration", 240)
    gate, path = Gate(max_drop=0.05, observed=True), tmp_path / "small.onnx"
    asked = options(rank_multiple=8, bits=(4, 8, 32))
    result = optimize(MODEL, sources(), Compact(gate=gate, resource="bytes"), asked, output=path)
    assert result.changed, result.reason
    assert result.after.bytes == path.stat().st_size
    for name, verdict in (("validation", result.verdict), ("test", result.test)):
        assert verdict.candidate.estimate == pytest.approx(accuracy(path, name), abs=1e-9)
    assert result.after.bytes < 0.03 * result.before.bytes
    saved = SavedPlan.of_result(result)
    again = apply(
        saved, MODEL, part("calibration"), asked, validation=part("validation"), output=tmp_path / "again.onnx"
    )
    assert {t.data_type for t in again.graph.initializer} & {onnx.TensorProto.INT8, onnx.TensorProto.INT4}
    (one, other) = (load(path).graph.initializer for path in (path, tmp_path / "again.onnx"))
    assert [tensor.SerializeToString() for tensor in one] == [tensor.SerializeToString() for tensor in other]
