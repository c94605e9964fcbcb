"""pipeline.fit_companions: each alone, with the gain that other samples show, and clear words where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import build, feeds_of, mlp, node, normal, run, samples_of, value, weight

from onnx_lowrank.errors import LowRankError, MetricError, ModelError
from onnx_lowrank.metrics import CrossEntropy, Top
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline.fit_companions import companions, wanted
from onnx_lowrank.types import Array

ALL = Options(runtime=Runtime(provider="cpu", threads=1), temperature=True, logit_bias=True, last_layer=True)
TRUE = mlp([12, 16, 5], [None, None], 3)


def labels_of(x: Array, seed: int) -> Array:
    """Return labels drawn from the softmax of 4 times the true model's logits, class 0 twice as often."""
    noise = np.random.default_rng(seed).gumbel(size=(len(x), 5))
    return (4 * run(TRUE, {"x": x})["y"] + [0.7, 0, 0, 0, 0] + noise).argmax(1)


def spoilt() -> onnx.ModelProto:
    """Return the true model with noise in its last layer, which is too sure of itself as well."""
    model = onnx.ModelProto.FromString(TRUE.SerializeToString())
    tensor = next(t for t in model.graph.initializer if t.name == "fc1")
    old = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(15 * (old + 0.15 * normal(old.shape, 9)), "fc1"))
    return model


def measured(model: onnx.ModelProto, x: Array, labels: Array) -> tuple[float, float]:
    outputs = {"y": list(run(model, {"x": x})["y"][:, None])}
    return float(Top().values(outputs, labels).mean()), float(CrossEntropy().values(outputs, labels).mean())


def test_every_companion_gains_on_other_samples_what_it_says():
    x, other = normal([600, 12], 1), normal([3000, 12], 2)
    model, truth = spoilt(), labels_of(other, 5)
    before = model.SerializeToString()
    found = companions(model, samples_of(feeds_of(x), labels_of(x, 4)), ALL)
    assert [each.name for each in found] == ["temperature", "bias", "temperature and bias", "last layer"]
    assert model.SerializeToString() == before
    right, loss = measured(model, other, truth)
    for each in found:
        assert each, each.what
        onnx.checker.check_model(each.model, full_check=True)
        assert len(each.model.graph.node) == len(model.graph.node)
        now, left = measured(each.model, other, truth)
        assert loss - left == pytest.approx(each.gain, abs=0.15)
        if each.name == "temperature":
            assert now == right
    assert measured(found[3].model, other, truth)[0] > right + 0.02
    assert found[0].what.startswith("temperature ")
    assert found[0].what.endswith("in the last layer's constants")
    assert "of 'fc1' and a ridge regression" in found[3].what


def test_the_switches_say_which():
    assert wanted(Options()) == ()
    assert companions(TRUE, samples_of([], None), Options()) == ()
    assert wanted(Options(last_layer=True)) == ("last layer",)
    assert wanted(Options(logit_bias=True, temperature=True)) == ("temperature", "bias", "temperature and bias")


def test_where_nothing_is_gained_there_is_no_model():
    x = normal([40, 12], 1)
    model = mlp([12, 5], [None], 3)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((5, 12), np.float32), "fc0"))
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.zeros(5, np.float32), "b0"))
    labels = np.arange(40) % 5
    found = companions(model, samples_of(feeds_of(0 * x), labels), ALL)
    assert [bool(each) for each in found] == [False] * 4
    assert {(each.gain, each.what) for each in found} == {(0.0, "no gain on calibration samples")}


def test_positions_without_a_label_do_not_count_and_those_of_a_sample_are_left_out_together():
    """Tokens: (n, 3, 12) → (n, 3, 5), the first token of every sample ignored."""
    W = weight((12, 5), 1)
    nodes = [node("MatMul", ["x", "W"], ["z"], "fc"), node("Softmax", ["z"], ["y"], axis=-1)]
    model = build(nodes, [value("x", ["n", 3, 12])], [value("y", ["n", 3, 5])], {"W": W})
    x = normal([300, 3, 12], 2)
    noise = np.random.default_rng(3).gumbel(size=(300, 3, 5))
    labels = (5 * (x @ W) + noise).argmax(-1)
    spoil = labels.copy()
    spoil[:, 0] = -100
    temperature, last = companions(model, samples_of(feeds_of(x), spoil), replace(ALL, logit_bias=False))
    assert temperature.gain > 0.1
    assert float(temperature.what.split()[1].strip(";")) == pytest.approx(0.2, rel=0.2)
    assert last.gain > 0.1
    for each in (temperature, last):
        onnx.checker.check_model(each.model, full_check=True)
        assert [n.op_type for n in each.model.graph.node] == ["MatMul", "Softmax"]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "--temperature needs calibration labels that are class numbers"),
        (np.full(20, 5), "--temperature: a label is 5, but the output has 5 classes"),
        (np.full(20, 0.5), "--temperature needs labels that are whole numbers"),
        (["cat"] * 20, "--temperature needs labels that are whole numbers"),
        (np.zeros((20, 2), int), "--temperature: 2 labels for the 1 positions"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused_in_one_line(labels: object, says: str):
    with pytest.raises(MetricError) as caught:
        companions(TRUE, samples_of(feeds_of(normal([20, 12], 1)), labels), ALL)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["temperature", "logit_bias", "last_layer"])
def test_the_line_names_the_switch_that_was_given(name: str):
    with pytest.raises(MetricError, match=f"^--{name.replace('_', '-')} needs calibration labels"):
        companions(TRUE, samples_of(feeds_of(normal([4, 12], 1))), Options(**{name: True}))


def test_what_is_not_finite_is_not_fitted():
    x = normal([20, 12], 1)
    x[3] = np.inf
    found = companions(TRUE, samples_of(feeds_of(x), np.arange(20) % 5), ALL)
    assert {bool(each) for each in found} == {False}
    assert "are not finite on every sample" in found[0].what


def test_an_output_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="no output 'p'; its outputs are 'y'"):
        companions(TRUE, samples_of(feeds_of(normal([4, 12], 1)), np.zeros(4, int)), ALL, output="p")
    assert issubclass(ModelError, LowRankError)


def test_why_there_is_none_is_said():
    nodes = [node("MatMul", ["x", "W"], ["z"], "fc"), node("Sigmoid", ["z"], ["y"])]
    model = build(nodes, [value("x", ["n", 12])], [value("y", ["n", 5])], {"W": weight((12, 5), 1)})
    samples = samples_of(feeds_of(normal([20, 12], 1)), np.arange(20) % 5)
    assert {each.what for each in companions(model, samples, ALL)} == {
        "output 'y' comes out of a Sigmoid: its classes do not exclude each other"
    }
    nodes[1] = node("Exp", ["z"], ["e"])
    nodes += [node("ReduceSum", ["e", "axes"], ["s"]), node("Div", ["e", "s"], ["y"])]
    weights = {"W": weight((12, 5), 1), "axes": np.array([1])}
    model = build(nodes, [value("x", ["n", 12])], [value("y", ["n", 5])], weights)
    assert "holds probabilities, and no Softmax makes them" in companions(model, samples, ALL)[0].what
    assert companions(TRUE, samples_of([], []), ALL)[0].what == "there are no calibration samples"
    model = build([node("Relu", ["x"], ["y"])], [value("x", ["n", 12])], [value("y", ["n", 12])], {})
    last = companions(model, samples, Options(last_layer=True))[0]
    assert last.what == "no last layer to refit: Relu makes the logits, not Gemm or MatMul"
