"""Whole models: the gradient graph in float64 against central differences, and in float32 against float64."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from gradient_double import Double

from onnx_lowrank.gradient import build_gradient
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner

pytestmark = pytest.mark.zoo
ZOO = Path(os.environ.get("ONNX_LOWRANK_ZOO_MODELS", "/nonexistent"))
STEPS = (1e-6, 1e-8, 1e-10)
"""Every element of a tensor is moved by about this much. A shorter step is taken where a longer one crosses the kink of
some clipped unit; a wrong gradient agrees at no step."""
SITES = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def sample(name: str) -> dict[str, np.ndarray]:
    """One small sample, real where it is small enough to be run in numpy."""
    rng = np.random.default_rng(0)
    if name == "minilm":
        ids = rng.integers(1000, 20000, size=(2, 9))
        return {"input_ids": ids, "attention_mask": np.array([[1] * 9, [1] * 6 + [0] * 3])}
    if name == "crepe":
        return {"frames": np.load(ZOO / name / "calibration.npz")["frames"][:1]}
    if name == "efficientnet":
        return {"image": np.load(ZOO / name / "calibration.npz")["image"][:1]}
    files = sorted((ZOO / name / "calibration").glob("*.npz"))
    return {"x": np.load(files[0])["x"]}


# How far float32 may be from float64, in norm: a unit within rounding of its kink counts as on either side, and
# EfficientNet's ReLU6 has a few. (On 8 photos: 6e-7 where no unit flips, 2e-4 to 1.2e-2 where 1 to 3 do.)
PRECISION = {"minilm": 1e-4, "crepe": 1e-4, "efficientnet": 1e-2, "ppocr": 1e-3}
LOOK_AT = {"minilm": 12, "crepe": 7, "efficientnet": 12, "ppocr": 12}
"""Sites whose slope is measured (numpy runs the model for each); float32 is compared with float64 at all of them."""


@pytest.mark.parametrize("name", list(PRECISION))
def test_gradients_of_a_whole_model(name):
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
    still = Runner(model, runtime=Runtime(provider="cpu", threads=1)).run(feed)
    seeds = {n: rng.normal(size=v.shape).astype(np.float32) for n, v in still.items()}
    given = {**feed, **{graph.seeds[n]: s for n, s in seeds.items()}}
    single = Runner(graph.model, runtime=Runtime(provider="cpu", threads=1)).run(given)
    exact = Double(graph.model, [], list(graph.gradients.values())).run(given, {})
    for n, value in still.items():
        np.testing.assert_allclose(single[n], value, rtol=1e-3, atol=1e-5 * np.abs(value).max())
    far = {t: _distance(single[g], exact[g]) for t, g in graph.gradients.items()}
    forward = Double(model, targets, outputs)
    chosen = targets[:: -(-len(targets) // LOOK_AT[name])]
    errors = {t: _slope_error(forward, feed, seeds, t, exact[graph.gradients[t]], rng) for t in chosen}
    print(
        f"{name}: slopes of {len(chosen)} of {len(targets)} sites, worst relative error {max(errors.values()):.1e};"
        f" float32 against float64, worst {max(far.values()):.1e}, median {np.median(list(far.values())):.1e}"
    )
    assert max(errors.values()) < 1e-3, errors
    assert max(far.values()) < PRECISION[name], far


def _distance(single: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(single - exact) / np.linalg.norm(exact))


def _slope_error(forward, feed, seeds, target, gradient, rng) -> float:
    """Of the slope along a random direction (along the gradient itself, what is missing from it is not missed).

    Relative to ‖gradient‖, the slope's standard deviation over directions, where the slope happens to be smaller.
    """
    d = rng.normal(size=gradient.shape)
    best = np.inf
    for step in STEPS:
        high, low = (forward.run(feed, {target: sign * step * d}) for sign in (1, -1))
        slope = sum(float(((high[n] - low[n]) * seed).sum()) for n, seed in seeds.items()) / (2 * step)
        error = abs(slope - float((gradient * d).sum())) / max(abs(slope), float(np.linalg.norm(gradient)))
        best = min(best, error)
        if best < 1e-4:
            break
    return best
