"""A model of more layers than the stack has frames: nothing recurses, and sites stream in groups."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from builders import build, elements, node, normal, options, run, value, weight

from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.goals import Gate, Lossless
from onnx_lowrank.options import LEAST_MEMORY
from onnx_lowrank.pipeline import Session, meet_goal

LAYERS = 200
WIDTH = 32
ROWS = 8


def deep() -> onnx.ModelProto:
    """Return residual layers: x + relu(x W) / 20, LAYERS times."""
    nodes, weights = [], {"share": np.float32(0.05)}
    names = ["x", *(f"r{i}" for i in range(1, LAYERS)), "y"]
    for i in range(LAYERS):
        weights[f"W{i}"] = weight((WIDTH, WIDTH), i)
        nodes += [
            node("MatMul", [names[i], f"W{i}"], [f"h{i}"], f"fc{i}"),
            node("Relu", [f"h{i}"], [f"a{i}"]),
            node("Mul", [f"a{i}", "share"], [f"s{i}"]),
            node("Add", [names[i], f"s{i}"], [names[i + 1]]),
        ]
    shape = ["n", ROWS, WIDTH]
    return build(nodes, [value("x", shape)], [value("y", shape)], weights)


@pytest.fixture
def short_stack() -> Iterator[None]:
    """Leave the stack fewer frames than the model has layers, so that a thousand layers need not be run."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + LAYERS - 50)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("short_stack")
def test_more_layers_than_frames_go_the_whole_way(monkeypatch: pytest.MonkeyPatch):
    """A weight that is measured takes a run of all layers, so their number counts as a square here."""
    model, groups, real = deep(), [], CollectionSetup.groups
    monkeypatch.setattr(CollectionSetup, "groups", lambda self: groups.append(list(real(self))) or iter(groups[-1]))
    settings = options(rank_multiple=4, memory=LEAST_MEMORY, metric="relative-l2")
    session = Session.of(model, {"x": normal([20, ROWS, WIDTH], 1)}, settings)
    result = meet_goal(session, Lossless(keep=0.8, gate=Gate(max_drop=1.0, observed=True)), dry_run=True)
    assert result.changed, result.reason
    joint = session.state.calibrated.joint
    assert len(groups[-1]) > 1
    assert len(joint.scored) == len(result.curves) == LAYERS
    assert not joint.unreached
    assert 0.75 < elements(result.model) / elements(model) <= 0.8
    x = normal([2, ROWS, WIDTH], 3)
    one, other = (run(each, {"x": x})["y"] for each in (model, result.model))
    assert 0 < np.linalg.norm(one - other) / np.linalg.norm(one) < 0.5
