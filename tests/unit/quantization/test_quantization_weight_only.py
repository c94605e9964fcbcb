"""int8 weights under float arithmetic: which weights, along which axis, how close, and what else stays as it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import build, constant, convnet, feeds_of, mlp, node, normal, run, value, weight

from onnx_lowrank.errors import ModelError
from onnx_lowrank.quantization.onnxruntime_int8 import quantised, quantised_ops, settings
from onnx_lowrank.quantization.weight_only import weights_rounded

THEN = "quantize-weights"
INT8 = onnx.TensorProto.INT8


def int8_names(model: onnx.ModelProto) -> set[str]:
    return {t.name.removesuffix(".int8") for t in model.graph.initializer if t.data_type == INT8}


def one(
    nodes: list[onnx.NodeProto], x: list, y: list, weights: dict[str, np.ndarray], kind: int = 1
) -> onnx.ModelProto:
    return build(nodes, [value("x", x, kind)], [value("y", y)], weights)


def scaled(shape: tuple[int, ...], axis: int, seed: int) -> np.ndarray:
    """Return a weight whose channels along `axis` differ by powers of ten: another axis would lose the small ones."""
    factors = np.logspace(-3, 3, shape[axis], dtype=np.float32)
    return weight(shape, seed) * factors.reshape([-1 if i == axis else 1 for i in range(len(shape))])


CASES = {
    "Conv": (node("Conv", ["x", "W"], ["y"]), [2, 16, 8, 8], scaled((8, 16, 3, 3), 0, 1), 1),
    "ConvTranspose": (node("ConvTranspose", ["x", "W"], ["y"]), [2, 16, 8, 8], scaled((16, 8, 3, 3), 1, 1), 1),
    "Gemm": (node("Gemm", ["x", "W"], ["y"]), [64, 64], scaled((64, 32), 1, 1), 1),
    "Gemm transB": (node("Gemm", ["x", "W"], ["y"], transB=1), [64, 64], scaled((32, 64), 0, 1), 1),
    "Gemm on the left": (node("Gemm", ["W", "x"], ["y"], transA=1), [64, 64], scaled((64, 32), 1, 1), 0),
    "MatMul": (node("MatMul", ["x", "W"], ["y"]), [64, 64], scaled((64, 32), 1, 1), 1),
    "MatMul of matrices": (node("MatMul", ["x", "W"], ["y"]), [3, 40, 64], scaled((3, 64, 32), 2, 1), 2),
    "MatMul on the left": (node("MatMul", ["W", "x"], ["y"]), [64, 64], scaled((32, 64), 0, 1), 0),
}


@pytest.mark.parametrize("case", list(CASES))
def test_every_channel_keeps_its_own_precision(case: str):
    """No channel's output is off by more than half a step of its weights, summed over its inputs."""
    made_of, shape, W, axis = CASES[case]
    model = one([made_of], shape, [None] * (len(shape)), {"W": W})
    made = quantised(model, THEN, [])
    onnx.checker.check_model(made, full_check=True)
    assert int8_names(made) == {"W"}
    x = normal(shape, 3)
    expected, got = run(model, {"x": x})["y"], run(made, {"x": x})["y"]
    others = tuple(i for i in range(expected.ndim) if i != axis)
    size = np.sqrt((expected.astype(float) ** 2).mean(others))
    error = np.sqrt(((expected - got).astype(float) ** 2).mean(others))
    assert (error > 0).all()
    assert (error < 0.02 * size).all()


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_both_matrices_of_a_recurrent_cell(op: str):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    W, R = weight((1, gates * 32, 48), 1), weight((1, gates * 32, 32), 2)
    model = one([node(op, ["x", "W", "R"], ["y"], hidden_size=32)], [5, 2, 48], [5, 1, 2, 32], {"W": W, "R": R})
    made = quantised(model, THEN, [])
    assert int8_names(made) == {"W", "R"}
    x = normal([5, 2, 48], 3)
    np.testing.assert_allclose(run(made, {"x": x})["y"], run(model, {"x": x})["y"], rtol=0, atol=0.02)


def test_a_table_is_never_unpacked_whole():
    table = scaled((100, 24), 0, 1)
    model = one([node("Gather", ["T", "x"], ["y"])], [2, 5], [2, 5, 24], {"T": table}, onnx.TensorProto.INT64)
    made = quantised(model, THEN, [])
    onnx.checker.check_model(made, full_check=True)
    assert int8_names(made) == {"T"}
    assert [n.op_type for n in made.graph.node] == ["Gather", "Gather", "Cast", "Mul"]
    ids = np.array([[0, 1, 50, 98, 99], [-1, -100, 7, 7, 3]])
    expected = table[ids]
    step = np.abs(expected).max(-1, keepdims=True) / 127
    assert (np.abs(run(made, {"x": ids})["y"] - expected) <= 0.5001 * step).all()


def test_zeros_stay_zeros_and_what_is_not_finite_stays_float():
    W = weight((64, 32), 1)
    W[:, 3] = 0
    made = weights_rounded(one([node("MatMul", ["x", "W"], ["y"])], [4, 64], [4, 32], {"W": W}))
    y = run(made, {"x": normal([4, 64], 1)})["y"]
    np.testing.assert_allclose(y[:, 3], 0, atol=1e-7 * np.abs(y).max())
    W[0, 0] = np.inf
    assert int8_names(weights_rounded(one([node("MatMul", ["x", "W"], ["y"])], [4, 64], [4, 32], {"W": W}))) == set()


def test_what_is_taken_and_what_is_left():
    """Constant nodes are taken; biases, weights in two roles, behind a node or with one of its axes looked up not."""
    nodes = [
        constant("C", weight((64, 64), 1)),
        node("MatMul", ["x", "C"], ["a"]),
        node("Add", ["a", "bias"], ["b"]),
        node("Transpose", ["T"], ["Tt"]),
        node("MatMul", ["b", "Tt"], ["c"]),
        node("MatMul", ["c", "both"], ["d"]),
        node("Gather", ["both", "ids"], ["row"]),
        node("Gather", ["columns", "ids"], ["column"], axis=1),
        node("Transpose", ["column"], ["columnt"]),
        node("Sum", ["d", "row", "columnt"], ["y"]),
    ]
    square = {name: weight((64, 64), i) for i, name in enumerate(("T", "both", "columns"))}
    model = one(nodes, [1, 64], [1, 64], {**square, "bias": weight((1, 64), 9), "ids": np.array([3])})
    made = quantised(model, THEN, [])
    onnx.checker.check_model(made, full_check=True)
    assert int8_names(made) == {"C"}
    x = normal([1, 64], 2)
    np.testing.assert_allclose(run(made, {"x": x})["y"], run(model, {"x": x})["y"], rtol=0, atol=0.1)


@pytest.mark.parametrize(("model", "feeds", "old"), [
    (mlp([64, 96, 96, 8], [6, 10, 8], 11), feeds_of(normal([4, 64], 1)), False),
    (mlp([64, 96, 96, 8], [6, 10, 8], 11), feeds_of(normal([4, 64], 1)), True),
    (convnet([4, 16, 16], [None, None], 5, 3), feeds_of(normal([4, 4, 8, 8], 1)), False),
])  # fmt: skip
def test_names_and_metadata_stay_and_old_opsets_are_brought_up(model, feeds, old):
    source = onnx.ModelProto()
    source.CopyFrom(model)
    source.doc_string, source.producer_name = "kept", "an exporter"
    source.metadata_props.add(key="labels", value="a,b")
    if old:
        source.opset_import[0].version, source.ir_version = 9, 3
        source.graph.input.extend(value(t.name, list(t.dims), t.data_type) for t in source.graph.initializer)
    before = source.SerializeToString()
    made = quantised(source, THEN, [])
    assert source.SerializeToString() == before
    assert (made.doc_string, made.producer_name, made.metadata_props[0].value) == ("kept", "an exporter", "a,b")
    constants = {t.name for t in source.graph.initializer}
    assert [v.name for v in made.graph.input] == [v.name for v in source.graph.input if v.name not in constants]
    assert quantised_ops(made) == ["DequantizeLinear"]
    expected, got = run(source, feeds[0])["y"], run(made, feeds[0])["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * np.abs(expected).max())
    with pytest.raises(ModelError, match="quantised already"):
        quantised(made, THEN, [])


def test_nothing_to_take_is_said():
    small = one([node("MatMul", ["x", "W"], ["y"])], [4, 16], [4, 8], {"W": weight((16, 8), 1)})
    with pytest.raises(ModelError, match=r"--then quantize-weights: no weight of 256 numbers or more in float32"):
        quantised(small, THEN, [])
    assert settings(THEN)["activations"] == "float32"
