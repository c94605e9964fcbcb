"""Number formats in a model: the opset that they need, where their nodes stand, tables of which rows are looked up."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from builders import build, found_in, mlp, node, normal, run, value, weight

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.model_io import main_opset
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.passes.rounded_tensor import InFormat
from onnx_lowrank.passes.unpack import in_formats, raised, refused
from onnx_lowrank.types import FORMATS, INT2, INT4, INT8, Choice, Cost, Form, Option, Plan, Why
from onnx_lowrank.weights.find import find_sites

CPU = Runtime(provider="cpu", threads=1)

INTEGERS = [number for number in FORMATS.values() if not number.floating]


def stored_as(model: onnx.ModelProto, storage: str, *sites: int) -> onnx.ModelProto:
    found = found_in(model)
    chosen = [found.sites[i] for i in sites] or found.sites
    choices = tuple(Choice(site.id, site.weight, Option(Form(storage=storage), Cost())) for site in chosen)
    return rewrite(model, found, Plan(choices), {})


def older(opset: int) -> onnx.ModelProto:
    model = mlp([40, 36, 8], [None, None], 1)
    model.opset_import[0].version = opset
    return model


@pytest.mark.parametrize(
    ("opset", "storage", "expected"), [(12, "int8", 13), (17, "int8", 17), (17, "int4", 21), (17, "int2", 25)]
)
def test_a_model_is_raised_to_the_opset_that_a_format_needs_and_no_further(opset: int, storage: str, expected: int):
    model = older(opset)
    entry = model.metadata_props.add()
    entry.key, entry.value = "made by", "a test"
    model.producer_name, model.doc_string = "tests", "a model"
    made = stored_as(model, storage)
    assert main_opset(made) == expected
    assert main_opset(model) == opset
    onnx.checker.check_model(made, full_check=True)
    assert (made.graph.input, made.graph.output) == (model.graph.input, model.graph.output)
    assert (made.producer_name, made.doc_string) == ("tests", "a model")
    assert [(p.key, p.value) for p in made.metadata_props] == [("made by", "a test")]
    x = normal([3, 40], 2)
    (one,), (other,) = (list(run(each, {"x": x}).values()) for each in (model, made))
    off = np.linalg.norm(one - other) / np.linalg.norm(one)
    assert 1e-4 < off < {"int8": 0.02, "int4": 0.2, "int2": 1.0}[storage]
    assert [n.op_type for n in made.graph.node if n.op_type not in ("Cast", "Reshape", "Gather")][:2] == ["Mul"] * 2


def test_where_no_format_is_chosen_the_opset_stays():
    model = older(12)
    assert main_opset(rewrite(model, found_in(model), Plan(()), {})) == 12


def test_one_weight_in_a_format_leaves_the_others():
    model = older(17)
    made = stored_as(model, "int8", 1)
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    first, second = found_in(model).sites
    assert kinds[first.weight] == onnx.TensorProto.FLOAT
    assert second.weight not in kinds
    assert kinds[f"{second.weight}.whole.int8"] == onnx.TensorProto.INT8


def table(shape: tuple[int, int], others: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    ids = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, ["n"])
    outputs = [value("y", ["n", shape[1]]), *(value(each.output[0], []) for each in others)]
    nodes = [node("Gather", ["E", "x"], ["y"], "look"), *others]
    return build(nodes, [ids], outputs, {"E": weight(shape, 1)})


LOOKED_UP = [
    ("int8", (50, 6), ["Gather", "Gather", "Cast", "Mul"]),
    ("int4", (50, 6), ["Gather", "Gather", "Cast", *["BitShift"] * 3, "Concat", "Cast", "Sub", "Mul"]),
    ("int4", (70, 65), [*["Gather"] * 2, "Cast", *["BitShift"] * 3, "Concat", "Slice", "Cast", "Sub", "Mul"]),
    ("int2", (300, 135), [*["Gather"] * 3, "Cast", *["BitShift"] * 7, "Concat", "Slice", "Cast", "Sub", "Mul"]),
]


@pytest.mark.parametrize(("storage", "shape", "expected"), LOOKED_UP)
def test_rows_of_a_table_are_looked_up_before_they_are_unpacked(storage, shape, expected):
    model = table(shape)
    made = stored_as(model, storage)
    assert [n.op_type for n in made.graph.node] == expected
    assert main_opset(made) == main_opset(model)
    onnx.checker.check_model(made, full_check=True)
    x = np.array([3, 0, 49, -1])
    (one,), (other,) = (list(run(each, {"x": x}).values()) for each in (model, made))
    found = found_in(model)
    kept = found.seen(found.sites[0], found.whole(found.sites[0]), storage).stages[0].weight.T
    np.testing.assert_allclose(other, kept[x], rtol=1e-6)
    assert 0 < np.linalg.norm(one - other) <= np.linalg.norm(one) / abs(FORMATS[storage].low)


@pytest.mark.parametrize("number", [INT8, INT4])
def test_a_table_that_others_read_as_well_is_unpacked_whole(number):
    model = table((50, 6), (node("ReduceMax", ["E"], ["m"], keepdims=0),))
    made = in_formats(model, {"E": InFormat(number, (1, 0), looked_up=True, rows=True)})
    scales = ["Cast"] if number.block else []
    assert [n.op_type for n in made.graph.node] == ["Cast", *scales, "Mul", "Gather", "ReduceMax"]
    assert main_opset(made) == max(main_opset(model), number.opset)
    onnx.checker.check_model(made, full_check=True)
    expected = run(model, {"x": np.array([1])})["y"]
    got = run(made, {"x": np.array([1])})["y"]
    assert np.abs(got - expected).max() <= np.abs(expected).max() / number.high


@pytest.mark.parametrize("inputs", [24, 32, 96, 70])
@pytest.mark.parametrize("number", list(FORMATS.values()))
def test_small_weights_are_floats_once_a_model_is_loaded(number, inputs, tmp_path):
    """onnxruntime runs what unpacks them when it loads the model: what is left is what there was."""
    model = mlp([inputs, 36, 8], [None, None], 1)
    found = found_in(model)
    made = stored_as(model, number.name)
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    settings.log_severity_level = 4
    ort.InferenceSession(made.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    loaded = onnx.load(str(tmp_path / "loaded.onnx"))
    before = {n.op_type for n in model.graph.node}
    assert {n.op_type for n in loaded.graph.node} <= before | {"Gemm", "FusedGemm", "FusedMatMul"}
    site = found.sites[0]
    kept = found.seen(site, found.whole(site), number.name).stages[0].weight
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer]
    assert any(array.shape == kept.T.shape and np.allclose(array, kept.T, rtol=1e-6) for array in stored) or any(
        array.shape == kept.shape and np.allclose(array, kept, rtol=1e-6) for array in stored
    )
    sizes = [len(tensor.raw_data) for tensor in made.graph.initializer if tensor.name.startswith("unpack.")]
    assert len(sizes) <= 5


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm, turned"])
@pytest.mark.parametrize("number", INTEGERS)
def test_large_weights_stay_packed_where_they_are_multiplied_so(number, op, tmp_path):
    """onnxruntime takes the DequantizeLinear into the product; others would be unpacked at every call, so are not."""
    turned = op.endswith("turned")
    w = weight((96, 64), 1) if turned else weight((64, 96), 1)
    attributes = {"transB": 1} if turned else {}
    model = build(
        [node(op.split(",")[0], ["x", "w"], ["y"], **attributes)],
        [value("x", ["n", 64])],
        [value("y", ["n", 96])],
        {"w": w},
    )
    how = {"w": InFormat(number, (0, 1) if turned else (1, 0))}
    made = in_formats(onnx.ModelProto.FromString(model.SerializeToString()), how, packed_from=1000)
    small = in_formats(model, how)
    assert [n.op_type for n in made.graph.node].count("DequantizeLinear") == (not turned and not number.split)
    x = normal([3, 64], 2)
    got, expected = (next(iter(run(each, {"x": x}).values())) for each in (made, small))
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    settings.log_severity_level = 4
    ort.InferenceSession(made.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    assert [n.op_type for n in onnx.load(str(tmp_path / "loaded.onnx")).graph.node] == [
        made.graph.node[-1].op_type if turned or number.split else "MatMulNBits"
    ]


def test_halves_are_cast_and_can_be_factored_again():
    model = mlp([48, 32, 8], [None, None], 1)
    made = stored_as(model, "float16")
    onnx.checker.check_model(made, full_check=True)
    stored = {t.name: t for t in made.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    assert [n.op_type for n in made.graph.node].count("Cast") == len(stored) == 2
    assert len(find_sites(made, multiple=1).sites) == 2
    x = {model.graph.input[0].name: normal([3, 48], 2)}
    (got,), (expected,) = (list(run(each, x).values()) for each in (made, model))
    assert 0 < np.abs(got - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("number", INTEGERS)
def test_a_model_in_formats_says_that_its_weights_are_integers(number):
    made = stored_as(mlp([48, 32, 8], [None, None], 1), number.name)
    skips = {skip.weight: (skip.why, skip.detail) for skip in find_sites(made, multiple=1).skips}
    told = (Why.QUANTISED, "integers, unpacked by a product: give the float model that it was made from")
    weights = [name for name in skips if name.endswith(number.name)]
    assert len(weights) == 2 * (1 + bool(number.split))
    assert {skips[name] for name in weights} == {told}


@pytest.mark.parametrize(("order", "kind"), [(40, "UINT8"), (300, "UINT16"), (8, "INT64")])
def test_orders_are_short_whole_numbers_in_the_file(order: int, kind: str):
    """Few are left as they are, and so is what holds a number below 0; before IR 4 inputs list what is stored."""
    w, places = weight((order, order), 1), np.arange(order)[::-1].copy()
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Gather", ["h", "o"], ["y"], axis=1)]
    model = build(nodes, [value("x", ["n", order])], [value("y", ["n", order])], {"w": w, "o": places})
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    x = normal([3, order], 2)
    how = {"w": InFormat(INT8, (1, 0))}

    def copy() -> onnx.ModelProto:
        return onnx.ModelProto.FromString(model.SerializeToString())

    expected, made = run(in_formats(copy(), how), {"x": x}), in_formats(copy(), how, orders={"o"})
    onnx.checker.check_model(made)
    np.testing.assert_array_equal(run(made, {"x": x})["y"], expected["y"])
    stored = {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in made.graph.initializer}
    assert stored["o" if kind == "INT64" else "o.short"] == kind
    below = copy()
    below.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(places - order, "o"))
    np.testing.assert_array_equal(run(in_formats(below, how, orders={"o"}), {"x": x})["y"], expected["y"])


def test_a_weight_that_stays_packed_needs_outputs_that_are_multiples_of_four():
    assert INT2.takes((9, 70))
    assert not INT2.takes((2049, 2049))
    assert INT2.takes((2052, 2049))
    assert INT4.takes((2049, 2049))


def test_a_large_model_is_asked_for_both(monkeypatch: pytest.MonkeyPatch):
    """A kernel of packed numbers that computes something else is told only where weights would stay packed."""
    real = in_formats

    def wrong(model, chosen, *, packed_from):
        made = real(model, chosen, packed_from=packed_from)
        if not packed_from:
            made.graph.node[-1].op_type = "Sub"
            made.graph.node[-1].input[1] = made.graph.node[-1].input[0]
        return made

    monkeypatch.setattr("onnx_lowrank.passes.unpack.in_formats", wrong)
    large = mlp([8, 8], [None], 1)
    large.graph.initializer.append(onnx.TensorProto(name="large", dims=[2048, 2048], data_type=1))
    assert refused(older(17), INT8, CPU) == ""
    assert refused(large, INT8, CPU) == "it computes something else (100.0% off)"


def test_all_formats_run_here():
    assert {name: refused(older(17), number, CPU) for name, number in FORMATS.items()} == dict.fromkeys(FORMATS, "")


def test_a_kernel_that_is_not_there_or_computes_something_else_is_told(monkeypatch: pytest.MonkeyPatch):
    def missing(*args: object, **kwargs: object) -> None:
        raise ModelError("onnxruntime cannot load the model: no kernel")

    monkeypatch.setattr("onnx_lowrank.passes.unpack.Runner", missing)
    assert refused(older(17), INT4, CPU) == "onnxruntime cannot load the model: no kernel"

    class Wrong:
        def __init__(self, model: onnx.ModelProto, **kwargs: object) -> None:
            pass

        def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"y": np.zeros((1, 64), np.float32)}

    monkeypatch.setattr("onnx_lowrank.passes.unpack.Runner", Wrong)
    assert refused(older(17), INT4, CPU) == "it computes something else (100.0% off)"


def test_what_onnx_cannot_convert_is_one_line():
    model = older(17)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"onnx cannot bring the model from opset 17 to 21: .*NoSuchOperator"):
        raised(model, 21)
    assert raised(model, 13) is model
    assert [(each.low, each.high) for each in INTEGERS] == [(-2047, 2047), (-127, 127), (-127, 127), (-7, 7), (-2, 1)]
