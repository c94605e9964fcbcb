"""The zoo's CTC: its value against every alignment written out, its gradient against central differences."""

from __future__ import annotations

import importlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import build, elements, node, normal, options, run, value, weight
from scipy.special import softmax

from onnx_lowrank.goals import Gate, Lossless
from onnx_lowrank.metrics.custom import from_file
from onnx_lowrank.pipeline import DataSources, optimize

ROOT = Path(__file__).resolve().parents[3]
LOSS = f"{ROOT / 'models' / 'losses.py'}:ctc"
SPACE = 4
BLANKS = (0, SPACE)
TARGETS = {
    "none": [],
    "one": [2],
    "two": [1, 3],
    "twice the same": [2, 2],
    "three": [3, 1, 1],
    "there and back": [1, 2, 1],
}


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("models.losses")


def probabilities(steps: int, seed: int) -> np.ndarray:
    return softmax(2 * np.random.default_rng(seed).standard_normal((steps, SPACE + 1)), axis=-1)


def read(path: tuple[int, ...]) -> list[int]:
    """Return the line as `ctc_exact_match` reads it."""
    kept = [c for i, c in enumerate(path) if i == 0 or c != path[i - 1]]
    return [c for c in kept if c not in BLANKS]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_loss_is_that_of_all_alignments(losses: Any, name: str, steps: int):
    p, target = probabilities(steps, 1), TARGETS[name]
    paths = [path for path in product(range(SPACE + 1), repeat=steps) if read(path) == target]
    expected = sum(np.prod([p[t, c] for t, c in enumerate(path)]) for path in paths)
    nats, gradient = losses.ctc_nats(p, np.array(target, int), blanks=BLANKS)
    if not paths:
        assert nats == np.inf
        assert not gradient.any()
    else:
        assert nats == pytest.approx(-np.log(expected), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("steps", [6, 30])
def test_the_gradient_is_that_of_central_differences(losses: Any, name: str, steps: int):
    p, target, step = probabilities(steps, 2), np.array(TARGETS[name], int), 1e-4
    _, gradient = losses.ctc_nats(p, target, blanks=BLANKS)
    expected = np.zeros_like(p)
    for place in np.ndindex(*p.shape):
        factor = np.ones_like(p)
        factor[place] = np.exp(step)
        high, low = (losses.ctc_nats(moved, target, blanks=BLANKS)[0] for moved in (p * factor, p / factor))
        expected[place] = (high - low) / (2 * step)  # with respect to log p
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(gradient * p, expected, rtol=0, atol=1e-8)
    assert (gradient * p).sum() == pytest.approx(-steps, rel=1e-9)  # P is of the first degree in every step


def test_a_probability_of_zero_has_a_finite_gradient(losses: Any):
    p = np.zeros((4, SPACE + 1))
    p[:, 0] = 1
    nats, gradient = losses.ctc_nats(p, np.array([2]), blanks=BLANKS)
    assert np.isfinite([nats, *gradient.ravel()]).all()
    assert (gradient[:, 2] < -1e9).all()
    assert nats == pytest.approx(-np.log(4e-12), rel=1e-6)


def test_the_custom_form_takes_a_line_with_its_batch_axis_and_a_label_filled_up(losses: Any):
    p = probabilities(8, 3).astype(np.float32)
    found = losses.ctc({"y": p[None]}, np.array([[1, 3, -1, -1]]))
    assert (list(found), found["y"].shape, found["y"].dtype) == (["y"], (1, 8, SPACE + 1), np.float32)
    _, gradient = losses.ctc_nats(p.astype(float), np.array([1, 3]), blanks=BLANKS)
    np.testing.assert_allclose(found["y"][0], gradient / 8, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"signed": True}, {"sensitivity": "paper", "gamma": 1.0}], ids=["signed", "paper"])
def test_a_small_reader_goes_the_whole_way_with_it(changes: dict[str, Any]):
    nodes = [
        node("MatMul", ["x", "A"], ["h"], "one"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "B"], ["z"], "two"),
        node("Softmax", ["z"], ["y"], axis=-1),
    ]
    weights = {"A": weight((12, 16), 1), "B": weight((16, SPACE + 1), 2)}
    model = build(nodes, [value("x", ["n", 9, 12])], [value("y", ["n", 9, SPACE + 1])], weights)
    x = normal([160, 9, 12], 3)
    lines = [read(tuple(p.argmax(-1))) for p in run(model, {"x": x})["y"]]
    labels = np.array([line + [-1] * (9 - len(line)) for line in lines])
    samples = DataSources(data={"x": x[:80], "labels": labels[:80]}, validation={"x": x[80:], "labels": labels[80:]})
    settings = options(loss=LOSS, metric=f"{ROOT / 'models' / 'metrics.py'}:ctc_exact_match", **changes)
    result = optimize(
        model, samples, Lossless(keep=0.9, gate=Gate(max_drop=1.0, observed=True)), settings, dry_run=True
    )
    assert result.changed, result.reason
    assert elements(result.model) <= 0.9 * elements(model)
    assert any(option.slope != 0 for curve in result.curves for option in curve.options)


def test_the_methods_name_losses_that_are_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    methods = importlib.import_module("benchmarks.methods")
    assert methods.LOSSES.keys() == {"ppocr"}
    for name, spec in methods.LOSSES.items():
        assert methods.loss_of(name) == str(ROOT / spec)
        assert callable(from_file(str(ROOT / spec)).function)
    assert methods.loss_of("minilm") is None
