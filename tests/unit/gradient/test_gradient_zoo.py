"""Whole models: gradients of onnxruntime in float32 against central differences of the model in float64."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from gradient_double import Double

from onnx_lowrank.gradient import build_gradient
from onnx_lowrank.runtime import Runner

pytestmark = pytest.mark.zoo
ZOO = Path(os.environ.get("ONNX_LOWRANK_ZOO_MODELS", "/nonexistent"))
STEP = 1e-6
"""Of the norm of the tensor that is moved."""
SITES = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def sample(name: str) -> dict[str, np.ndarray]:
    """One small sample, real where it is small enough to be run in numpy."""
    rng = np.random.default_rng(0)
    if name == "minilm":
        ids = rng.integers(1000, 20000, size=(2, 9))
        return {"input_ids": ids, "attention_mask": np.array([[1] * 9, [1] * 6 + [0] * 3])}
    if name == "crepe":
        return {"frames": np.load(ZOO / name / "calibration.npz")["frames"][:2]}
    if name == "efficientnet":
        return {"image": np.load(ZOO / name / "calibration.npz")["image"][:1]}
    files = sorted((ZOO / name / "calibration").glob("*.npz"))
    return dict(np.load(files[0]))


@pytest.mark.parametrize("name", ["minilm", "crepe", "efficientnet", "ppocr"])
def test_gradients_of_a_whole_model(name, record_property):
    path = ZOO / name / "model.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there; set ONNX_LOWRANK_ZOO_MODELS")
    model = onnx.load(str(path))
    feed = sample(name)
    feed = {n: a.astype(np.float32) if a.dtype.kind == "f" else a.astype(np.int64) for n, a in feed.items()}
    targets = [node.output[0] for node in model.graph.node if node.op_type in SITES]
    outputs = [value.name for value in model.graph.output]
    graph = build_gradient(model, targets)
    assert not graph.unreached
    rng = np.random.default_rng(1)
    double = Double(model, targets, outputs)
    still = double.run(feed, {})
    seeds = {n: rng.normal(size=v.shape).astype(np.float32) for n, v in still.items()}
    found = Runner(graph.model, provider="cpu", threads=1).run(
        {**feed, **{graph.seeds[n]: s for n, s in seeds.items()}}
    )
    for n, value in still.items():
        np.testing.assert_allclose(found[n], value, rtol=1e-3, atol=1e-4 * np.abs(value).max())
    chosen = targets[:: max(len(targets) // 12, 1)]
    errors = {}
    for target in chosen:
        gradient = found[graph.gradients[target]].astype(np.float64)
        # Half along the gradient, so that the slope is not lost in rounding; half at random.
        d = gradient / np.linalg.norm(gradient) + 0.5 * rng.normal(size=gradient.shape) / np.sqrt(gradient.size)
        step = STEP
        high, low = (double.run(feed, {target: sign * step * d}) for sign in (1, -1))
        slope = sum(float(((high[n] - low[n]) * seeds[n]).sum()) for n in outputs) / (2 * step)
        errors[target] = abs(slope - float((gradient * d).sum())) / abs(slope)
    print(name, len(targets), "sites; worst relative error", max(errors.values()))
    record_property("worst", max(errors.values()))
    assert max(errors.values()) < 1e-3, errors
