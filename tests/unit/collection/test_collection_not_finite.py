"""Samples whose values or gradients are not finite: only they are left out, and the report says how many."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import build, feeds_of, found_in, mlp, node, normal, options, value, weight

from onnx_lowrank.goals import Gate, Lossless
from onnx_lowrank.pipeline import DataSources, optimize
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.progress import Silent
from onnx_lowrank.samples import Samples
from onnx_lowrank.sensitivity.calibrated import Calibrated
from onnx_lowrank.sensitivity.measure import calibrate, kind_of
from onnx_lowrank.types import Array, Feed

LEFT_OUT = "of 35 calibration samples"


def overflowing() -> onnx.ModelProto:
    """Two layers behind an exponential: inf for inputs of 1,000."""
    model = mlp([12, 16, 8], [None] * 2, 1)
    first = model.graph.node[0]
    first.input[0] = "e"
    nodes = [node("Exp", ["x"], ["e"]), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def data(bad: list[int]) -> Array:
    x = 0.3 * normal([40, 12], 2)
    x[bad] = 1000
    x[bad, 0] += np.arange(len(bad))  # equal samples would be screened together
    return x


@pytest.mark.parametrize(
    ("bad", "note"),
    [
        ([], None),
        ([30], "1 of 35 calibration samples was left out: its gradients are not finite"),
        ([17, 18, 30], "3 of 35 calibration samples were left out: their gradients are not finite"),
    ],
)
def test_the_report_says_how_many_samples_were_left_out(bad: list[int], note: str | None):
    samples = {"data": data(bad), "validation": data([]) + 0.01}
    result = optimize(overflowing(), sources(samples), Lossless(keep=0.7, gate=Gate(max_drop=1e9, observed=True)),
                      options(metric="relative-l2"), dry_run=True)  # fmt: skip
    assert result.changed, result.reason
    assert [each for each in result.notes if LEFT_OUT in each] == ([] if note is None else [note])
    assert all(np.isfinite(option.loss) for curve in result.curves for option in curve.options)
    assert all(probe.loss < 1e3 for curve in result.curves for probe in curve.probes)


def sources(samples: dict[str, Array]) -> DataSources:
    return DataSources(**{name: {"x": array} for name, array in samples.items()})


def calibrated(model: onnx.ModelProto, feeds: list[Feed], **changes: object) -> Calibrated:
    chosen = options(**changes)
    loaded = LoadedModel.of(model, chosen.runtime)
    samples = Samples(feeds, None, "the test", tuple(map(str, range(len(feeds)))))
    return calibrate(loaded, samples, found_in(model), chosen, Silent(), kind_of(loaded, None, samples))


def test_terms_between_weights_need_the_same_samples_at_all_of_them():
    """The first layer overflows and the second is saturated by it: in groups of one, they lose other samples."""
    weights = {f"W{i}": np.abs(weight((16, 16), i)) for i in range(8)}
    nodes = [node("Exp", ["x"], ["r0"])]
    for i in range(8):
        nodes.append(node("MatMul", [f"r{i}", f"W{i}"], [f"h{i}"], f"fc{i}"))
        nodes.append(node("Tanh", [f"h{i}"], [f"r{i + 1}" if i < 7 else "y"]))
    model = build(nodes, [value("x", [1, 6000, 16])], [value("y", [1, 6000, 16])], weights)
    x = normal([8, 6000, 16], 2)
    x[3] = 1000
    one, other = (calibrated(model, feeds_of(x), memory=memory, inter_layer=True) for memory in (2**30, 2**24))
    left_out = "1 of 8 calibration samples was left out: its gradients are not finite"
    assert one.notes == (left_out,)
    assert {len(tails) for tails in one.tails.values()} == {7}
    assert other.notes == (left_out, "--inter-layer is left out: not all weights have the same samples")
    assert other.tails == {}
    assert other.joint is not None
    assert {len(scored.tails) for scored in other.joint.scored.values()} == {7, 8}
