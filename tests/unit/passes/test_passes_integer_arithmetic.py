"""What stands in the place of operators that integers compute, and what is left as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from builders import build, constant, found_in, node, normal, run, value, weight

from onnx_lowrank.options import Runtime
from onnx_lowrank.passes import activation_ranges, integer_arithmetic
from onnx_lowrank.passes.activation_ranges import ranges
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.passes.integer_arithmetic import BIAS, refused_arithmetic
from onnx_lowrank.types import ARITHMETIC, Choice, Cost, Form, Option, Plan
from onnx_lowrank.weights.inventory import RangeSamples

CPU = Runtime(provider="cpu", threads=1)
X = normal([2, 4, 6, 6], 1)


def computed(model: onnx.ModelProto, *feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the model with every weight in integers that can be."""
    found = replace(found_in(model), ranged=RangeSamples(feeds, CPU))
    pairs = [(site, number) for site in found.sites for number in found.arithmetic(site)]
    assert pairs
    choices = [Choice(site.id, site.weight, Option(Form(storage=number.name), Cost())) for site, number in pairs]
    made = rewrite(model, found, Plan(tuple(choices)), {})
    onnx.checker.check_model(made, full_check=True)
    return made


def convolution(*, bias: np.ndarray | None = None, tail: str = "", output: str = "y") -> onnx.ModelProto:
    """Return x -> Conv -> (a tail) -> Conv."""
    tensors = {
        "W": weight((5, 4, 3, 3), 2),
        "V": weight((3, 5, 1, 1), 3),
        "b": normal([5], 4) if bias is None else bias,
    }
    tensors |= {"low": np.array(0.0, np.float32), "high": np.array(1.0, np.float32)}
    inputs = ["c", "low", "high"] if tail == "Clip" else ["c"]
    nodes = [node("Conv", ["x", "W", "b"], ["c"], "first", pads=[1, 1, 1, 1])]
    nodes += [node(tail, inputs, ["t"])] if tail else []
    nodes += [node("Conv", ["t" if tail else "c", "V"], [output], "second")]
    kept = {name: t for name, t in tensors.items() if any(name in n.input for n in nodes)}
    return build(nodes, [value("x", ["n", 4, 6, 6])], [value(output, ["n", 3, 6, 6])], kept)


def fused(model: onnx.ModelProto, path: object) -> list[str]:
    """Return the operators that onnxruntime runs."""
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(path)
    settings.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return sorted(n.op_type for n in onnx.load(str(path)).graph.node)


@pytest.mark.parametrize("tail", ["", "Relu", "Clip"])
def test_neighbours_stay_in_integers_and_activations_are_taken_in(tail: str, tmp_path):
    model = convolution(tail=tail)
    made = computed(model, {"x": X})
    names = [n.op_type for n in made.graph.node]
    assert names.count("QuantizeLinear") == 3
    at = fused(made, tmp_path / "fused.onnx")
    assert at.count("QLinearConv") == 2
    assert at.count("QuantizeLinear") == at.count("DequantizeLinear") == 1
    assert not {"Conv", "Relu", "Clip"} & set(at)
    got, expected = run(made, {"x": X})["y"], run(model, {"x": X})["y"]
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


def test_a_tensor_that_others_see_keeps_its_name_and_is_rounded_once():
    """c is an output, and two convolutions and a float operator read it."""
    tensors = {"W": weight((5, 4, 1, 1), 2), "V": weight((3, 5, 1, 1), 3), "U": weight((3, 5, 1, 1), 4)}
    nodes = [
        node("Conv", ["x", "W"], ["c"]), node("Conv", ["c", "V"], ["v"]), node("Conv", ["c", "U"], ["u"]),
        node("Sigmoid", ["c"], ["s"]),
    ]  # fmt: skip
    outputs = [value(name, ["n", count, 6, 6]) for name, count in (("c", 5), ("v", 3), ("u", 3), ("s", 5))]
    model = build(nodes, [value("x", ["n", 4, 6, 6])], outputs, tensors)
    made = computed(model, {"x": X})
    assert [v.name for v in made.graph.output] == ["c", "v", "u", "s"]
    assert sum(n.op_type == "QuantizeLinear" for n in made.graph.node) == 4  # x, c, v, u
    got, expected = run(made, {"x": X}), run(model, {"x": X})
    for name, array in expected.items():
        assert np.abs(got[name] - array).max() < 0.02 * np.abs(array).max()
    steps = got["c"] / next(onnx.numpy_helper.to_array(t) for t in made.graph.initializer if t.name == "c.scale")
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_a_sum_between_convolutions_is_one_of_integers(tmp_path):
    """A residual block: both of its terms are rounded for convolutions anyway, and so is what comes out."""
    tensors = {"W": weight((4, 4, 1, 1), 2), "V": weight((4, 4, 1, 1), 3), "U": weight((3, 4, 1, 1), 4)}
    nodes = [
        node("Relu", ["x"], ["r"]), node("Conv", ["r", "W"], ["c"]), node("Conv", ["c", "V"], ["d"]),
        node("Add", ["r", "d"], ["s"]), node("Relu", ["s"], ["t"]), node("Conv", ["t", "U"], ["y"]),
    ]  # fmt: skip
    model = build(nodes, [value("x", ["n", 4, 6, 6])], [value("y", ["n", 3, 6, 6])], tensors)
    made = computed(model, {"x": X})
    kinds = fused(made, tmp_path / "fused.onnx")
    assert kinds.count("QLinearAdd") == 1
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 1
    got, expected = run(made, {"x": X})["y"], run(model, {"x": X})["y"]
    assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()
    nodes[-1] = node("Sigmoid", ["t"], ["y"])  # what comes out is not rounded, so the sum stays as it was
    model = build(nodes, [value("x", ["n", 4, 6, 6])], [value("y", ["n", 4, 6, 6])], tensors)
    assert next(n for n in computed(model, {"x": X}).graph.node if n.op_type == "Add").input[0] == "r"


def test_a_dead_channel_with_a_bias_keeps_it():
    """Its weights say nothing of a scale, so it can be what the bias needs."""
    bias = np.array([2.0, -3.0, 0.5, 0.0, 1.0], np.float32)
    model = convolution(bias=bias)
    (stored,) = (t for t in model.graph.initializer if t.name == "W")
    W = onnx.numpy_helper.to_array(stored).copy()
    W[1] = 0
    stored.CopyFrom(onnx.numpy_helper.from_array(W, "W"))
    made = computed(model, {"x": X})
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    assert np.abs(tensors["b.int32"].astype(np.int64)).max() <= BIAS * 1.01
    assert tensors["b.int32"][1] * tensors["b.scale"][1] == pytest.approx(-3.0, rel=1e-6)
    np.testing.assert_allclose(tensors["b.int32"] * tensors["b.scale"], bias, atol=0.5 * tensors["b.scale"].max())
    got, expected = run(made, {"x": X})["y"], run(model, {"x": X})["y"]
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()
    assert "b" not in tensors


def test_two_biases_of_one_dead_channel_are_both_kept():
    tensors = {"W": np.zeros((2, 4, 1, 1), np.float32), "b": np.array([1e6, 1.0], np.float32)}
    tensors["c"] = np.array([1.0, -1e6], np.float32)
    tensors["W"][1, 0] = 0.5
    nodes = [node("Conv", ["x", "W", "b"], ["y"]), node("Conv", ["x", "W", "c"], ["z"])]
    outputs = [value(name, ["n", 2, 6, 6]) for name in ("y", "z")]
    model = build(nodes, [value("x", ["n", 4, 6, 6])], outputs, tensors)
    made = computed(model, {"x": X})
    got, expected = run(made, {"x": X}), run(model, {"x": X})
    for name in ("y", "z"):
        assert np.abs(got[name] - expected[name]).max() < 0.01 * np.abs(expected[name]).max()


def test_a_bias_that_is_computed_leaves_the_convolution_in_float():
    nodes = [
        constant("half", np.full(5, 0.5, np.float32)), node("ReduceMean", ["x"], ["m"], axes=[0, 1, 2, 3], keepdims=0),
        node("Mul", ["half", "m"], ["b"]), node("Conv", ["x", "W", "b"], ["y"]),
    ]  # fmt: skip
    model = build(nodes, [value("x", ["n", 4, 6, 6])], [value("y", ["n", 5, 6, 6])], {"W": weight((5, 4, 1, 1), 2)})
    made = computed(model, {"x": X})
    assert [n.op_type for n in made.graph.node].count("QuantizeLinear") == 0
    got, expected = run(made, {"x": X})["y"], run(model, {"x": X})["y"]
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


def test_a_range_that_is_not_finite_leaves_the_convolution_in_float():
    """The first reads what overflows on one of the samples; the second is told no range that is none either."""
    nodes = [node("Exp", ["x"], ["e"]), node("Conv", ["e", "W"], ["y"])]
    model = build(nodes, [value("x", ["n", 4, 6, 6])], [value("y", ["n", 5, 6, 6])], {"W": weight((5, 4, 1, 1), 2)})
    assert "e" not in ranges(model, ["x", "e"], [{"x": X}, {"x": 100 * X}], CPU)
    made = computed(model, {"x": X}, {"x": 100 * X})
    assert "QuantizeLinear" not in {n.op_type for n in made.graph.node}
    got, expected = run(made, {"x": X})["y"], run(model, {"x": X})["y"]
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


def test_ranges_are_those_of_all_samples_and_hold_zero(monkeypatch: pytest.MonkeyPatch):
    model = build([node("Relu", ["x"], ["y"])], [value("x", ["n", 3])], [value("y", ["n", 3])], {})
    feeds = [{"x": np.array([[low, 1.0, high]], np.float32)} for low, high in ((0.5, 2.0), (-1.0, 0.0), (0.5, 9.0))]
    assert ranges(model, ["x", "y"], feeds, CPU) == {"x": (-1.0, 9.0), "y": (0.0, 9.0)}
    assert ranges(model, ["y"], feeds[:1], CPU) == {"y": (0.0, 2.0)}
    monkeypatch.setattr(activation_ranges, "SAMPLES", 2)
    assert ranges(model, ["x"], feeds, CPU) == {"x": (-1.0, 2.0)}


@pytest.mark.parametrize("trans", [0, 1])
def test_a_product_has_alpha_beta_and_its_bias(trans: int, tmp_path):
    W = weight((12, 7), 1)
    tensors = {"W": W.T.copy() if trans else W, "b": normal([7], 2)}
    nodes = [node("Gemm", ["x", "W", "b"], ["y"], "fc", alpha=0.5, beta=3.0, transB=trans)]
    model = build(nodes, [value("x", ["n", 12])], [value("y", ["n", 7])], tensors)
    x = normal([9, 12], 3)
    made = computed(model, {"x": x})
    got, expected = run(made, {"x": x})["y"], run(model, {"x": x})["y"]
    assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()
    assert "DynamicQuantizeMatMul" in fused(made, tmp_path / "fused.onnx")
    assert {t.name for t in made.graph.initializer}.isdisjoint({"W", "b"})
    assert made.graph.node[-1].name == "fc.0"


def test_products_of_one_tensor_round_it_once(tmp_path):
    tensors = {"W": weight((12, 8), 1), "V": weight((12, 8), 2)}
    nodes = [node("MatMul", ["x", "W"], ["y"]), node("MatMul", ["x", "V"], ["z"])]
    outputs = [value(name, ["n", 3, 8]) for name in ("y", "z")]
    made = computed(build(nodes, [value("x", ["n", 3, 12])], outputs, tensors))
    assert [n.op_type for n in made.graph.node].count("DynamicQuantizeLinear") == 1
    assert fused(made, tmp_path / "fused.onnx").count("MatMulIntegerToFloat") == 2


def test_a_model_that_onnx_cannot_bring_to_the_opset_says_so():
    model = convolution()
    model.opset_import[0].version = 11
    model.graph.node[0].op_type = "NoSuchOperator"
    for number in ARITHMETIC.values():
        assert refused_arithmetic(model, number, CPU).startswith("onnx cannot bring the model from opset 11 to 13")


def test_formats_run_here_or_say_why_not(monkeypatch: pytest.MonkeyPatch):
    """A processor without VNNI adds up pairs of products in 16 bits, where the largest are too large."""
    for number in ARITHMETIC.values():
        assert refused_arithmetic(convolution(), number, CPU) in (
            "",
            "this processor adds products of 8 bits up wrongly (50% off)",
        )

    class Saturated:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, feed: object) -> dict[str, np.ndarray]:
            return {"y": np.full((1, 64), 32.0, np.float32)}

    monkeypatch.setattr(integer_arithmetic, "Runner", Saturated)
    told = {
        refused_arithmetic(convolution(), number, CPU)
        for number in ARITHMETIC.values()
        if number.activations == "dynamic"
    }
    assert told == {"this processor adds products of 8 bits up wrongly (50% off)"}
    monkeypatch.setattr(integer_arithmetic, "runs_on_cpu", lambda name: False)
    for number in ARITHMETIC.values():
        assert refused_arithmetic(convolution(), number, Runtime(provider="cuda")) == (
            "operators in integers are the CPU's, and provider 'cuda' would run them in float"
        )
