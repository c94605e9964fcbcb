"""int8 by onnxruntime: what comes out, what stays, what is refused, and that nobody hears of it."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, constant, convnet, feeds_of, mlp, node, normal, relative_squared, run, value, weight

from onnx_lowrank.errors import ModelError
from onnx_lowrank.quantization import onnxruntime_int8 as quantize
from onnx_lowrank.quantization.onnxruntime_int8 import quantised, quantised_ops, settings

STATIC, DYNAMIC = "quantize", "quantize-dynamic"
MLP, VECTORS = mlp([64, 96, 96, 8], [6, 10, 8], 11), feeds_of(normal([40, 64], 1))
NET, IMAGES = convnet([4, 16, 16], [None, None], 5, 3), feeds_of(normal([40, 4, 8, 8], 1))


def at(model: onnx.ModelProto, opset: int, ir: int) -> onnx.ModelProto:
    """Return a copy of another opset and IR version; with IR 3 weights are listed as inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.opset_import[0].version, copy.ir_version = opset, ir
    if ir < 4:
        copy.graph.input.extend(value(t.name, list(t.dims), t.data_type) for t in copy.graph.initializer)
    return copy


def int8_bytes(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8)


@pytest.mark.usefixtures("usable_width")
@pytest.mark.parametrize(
    ("model", "feeds", "then", "weights", "error"),
    [
        (MLP, VECTORS, STATIC, 64 * 96 + 96 * 96 + 96 * 8, 1e-3),
        (MLP, VECTORS, DYNAMIC, 64 * 96 + 96 * 96 + 96 * 8, 1e-3),
        (NET, IMAGES, STATIC, 9 * 4 * 16 + 9 * 16 * 16 + 16 * 5, 1e-3),
        (at(MLP, 11, 7), VECTORS, STATIC, 64 * 96 + 96 * 96 + 96 * 8, 1e-3),
        (at(MLP, 9, 3), VECTORS, STATIC, 64 * 96 + 96 * 96 + 96 * 8, 1e-3),
        (at(MLP, 9, 3), VECTORS, DYNAMIC, 64 * 96 + 96 * 96 + 96 * 8, 1e-3),
    ],
)
def test_every_weight_is_int8_and_the_outputs_are_close(model, feeds, then, weights, error):
    made = quantised(model, then, feeds)
    assert int8_bytes(made) >= weights  # zero points come on top
    assert not any(t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 100 for t in made.graph.initializer)
    onnx.checker.check_model(made, full_check=True)
    expected, got = run(model, feeds[0])["y"], run(made, feeds[0])["y"]
    assert 0 < relative_squared(expected, got) < error
    assert refeed(made, then, feeds) is made


def refeed(made: onnx.ModelProto, then: str, feeds: list) -> onnx.ModelProto:
    """Return the model; raise where it could be quantised a second time."""
    with pytest.raises(ModelError, match=rf"--then {then}: the model is quantised already \(it has "):
        quantised(made, then, feeds)
    return made


@pytest.mark.parametrize("then", [STATIC, DYNAMIC])
def test_names_types_and_metadata_stay(then):
    model = onnx.ModelProto()
    model.CopyFrom(MLP)
    model.doc_string, model.producer_name, model.model_version = "kept", "an exporter", 7
    model.metadata_props.add(key="labels", value="a,b")
    before = model.SerializeToString()
    made = quantised(model, then, VECTORS)
    assert model.SerializeToString() == before
    assert (made.graph.input, made.graph.output) == (model.graph.input, model.graph.output)
    assert [(p.key, p.value) for p in made.metadata_props] == [("labels", "a,b")]
    assert (made.doc_string, made.producer_name, made.model_version) == ("kept", "an exporter", 7)
    assert {entry.domain for entry in made.opset_import} == {""}


@pytest.mark.parametrize("then", [STATIC, DYNAMIC])
def test_the_same_samples_give_the_same_bytes(then):
    first, second = (quantised(MLP, then, VECTORS).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_ranges_come_from_the_samples():
    """Wider samples, wider steps: the first activation's scale grows with its range."""

    def scale(factor: float) -> float:
        made = quantised(MLP, STATIC, feeds_of(factor * normal([40, 64], 1)))
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
        first = next(n for n in made.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
        return float(tensors[first.input[1]])

    assert scale(3.0) == pytest.approx(3 * scale(1.0), rel=1e-5)


@pytest.mark.usefixtures("usable_width")
def test_batch_normalisation_is_folded_before_int8():
    nodes = [
        constant("k", weight((16, 4, 3, 3), 1)),
        node("Conv", ["x", "k"], ["c"], "conv"),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"], "bn"),
    ]
    ones, zeros = np.ones(16, np.float32), np.zeros(16, np.float32)
    model = build(
        nodes, [value("x", ["n", 4, 8, 8])], [value("y", ["n", 16, 6, 6])],
        {"s": 2 * ones, "b": ones, "m": zeros, "v": ones},
    )  # fmt: skip
    made = quantised(model, STATIC, IMAGES)
    assert "BatchNormalization" not in {n.op_type for n in made.graph.node}
    assert relative_squared(run(model, IMAGES[0])["y"], run(made, IMAGES[0])["y"]) < 1e-3


def test_a_model_with_nothing_to_quantise_is_refused():
    conv = build(
        [node("Conv", ["x", "k"], ["y"])], [value("x", ["n", 4, 8, 8])], [value("y", ["n", 8, 6, 6])],
        {"k": weight((8, 4, 3, 3), 1)},
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"--then quantize-dynamic: nothing here can be quantised .* --then quantize$"):
        quantised(conv, DYNAMIC, IMAGES)
    double = build(
        [node("MatMul", ["x", "W"], ["y"])], [value("x", ["n", 16], 11)], [value("y", ["n", 16], 11)],
        {"W": weight((16, 16), 1).astype(np.float64)},
    )  # fmt: skip
    with pytest.raises(ModelError, match="--then quantize: "):
        quantised(double, STATIC, feeds_of(normal([8, 16], 1).astype(np.float64)))


def test_a_model_over_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr("onnx_lowrank.graph.large.PROTOBUF_LIMIT", 1000)
    with pytest.raises(ModelError, match="onnxruntime quantises models below 2 GB"):
        quantised(MLP, STATIC, VECTORS)


def test_what_onnxruntime_trips_over_is_one_line(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("first\nsecond")

    monkeypatch.setattr(quantize, "quantize_static", broken)
    with pytest.raises(ModelError, match="onnxruntime cannot quantise this model") as caught:
        quantised(MLP, STATIC, VECTORS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["batches", "join", "batch_size", "Runner", "store"])
@pytest.mark.parametrize("error", [KeyError, AttributeError, TypeError, IndexError])
def test_a_bug_is_not_taken_for_what_onnxruntime_cannot_do(place: str, error, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise error("a bug")

    monkeypatch.setattr(quantize, place, broken)
    with pytest.raises(error, match="a bug"):
        quantised(MLP, STATIC, VECTORS)


def test_other_logs_are_heard_while_it_works(caplog: pytest.LogCaptureFixture, monkeypatch):
    real = quantize.quantize_static

    def logging_meanwhile(*given: object, **more: object) -> None:
        logging.getLogger("mine").warning("heard")
        real(*given, **more)

    monkeypatch.setattr(quantize, "quantize_static", logging_meanwhile)
    quantised(MLP, STATIC, VECTORS)
    assert [record.message for record in caplog.records] == ["heard"]


@pytest.mark.parametrize("then", [STATIC, DYNAMIC])
def test_it_says_nothing_and_leaves_nothing(then, capfd, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), logging.root.manager.disable
    quantised(MLP, then, VECTORS)
    assert capfd.readouterr() == ("", "")
    assert (root.handlers, logging.root.manager.disable) == (handlers, disabled)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("full", "most"), [(False, 64), (True, 127)])
def test_without_vnni_weights_take_seven_bits(full: bool, most: int, monkeypatch):
    monkeypatch.setattr(quantize, "full_range", lambda: full)
    made = quantised(MLP, STATIC, VECTORS)
    arrays = [onnx.numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(a.astype(int)).max(initial=0)) for a in arrays) == most
    assert settings(STATIC)["weights"].endswith("7 bits") == (not full)


def test_quantised_operators_are_found_in_subgraphs():
    inner = onnx.helper.make_graph(
        [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["z"])], "inner", [],
        [value("z", ["n", 4])],
    )  # fmt: skip
    other = onnx.helper.make_graph([node("Identity", ["x"], ["w"])], "other", [], [value("w", ["n", 4])])
    nodes = [onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)]
    model = build(
        nodes, [value("x", ["n", 4]), value("c", [], onnx.TensorProto.BOOL)], [value("y", ["n", 4])],
        {"s": np.float32(0.1)},
    )  # fmt: skip
    assert quantised_ops(model) == ["DequantizeLinear", "QuantizeLinear"]
    assert quantised_ops(MLP) == []
