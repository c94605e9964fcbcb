"""Models beyond protobuf's limit: counted by parts to the byte, written apart, and the same model when read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, node, normal, run, value
from google.protobuf.message import EncodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.demo import MODEL
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import large, model_io
from onnx_lowrank.graph.large import proto_bytes, without_data

KINDS = [
    numpy_helper.from_array(np.arange(600, dtype=np.float32), "raw"),
    helper.make_tensor("floats", TensorProto.FLOAT, [600], np.arange(600.0).tolist()),
    helper.make_tensor("doubles", TensorProto.DOUBLE, [300], np.arange(300.0).tolist()),
    helper.make_tensor("longs", TensorProto.INT64, [300], list(range(300))),
    helper.make_tensor("words", TensorProto.UINT32, [300], list(range(300))),
    helper.make_tensor("halves", TensorProto.FLOAT16, [600], np.arange(600.0).tolist()),
    helper.make_tensor("fours", TensorProto.INT4, [3000], [1, -2, 3] * 1000),
    helper.make_tensor("texts", TensorProto.STRING, [2], [b"a" * 900, b"b" * 900]),
    helper.make_tensor("nothing", TensorProto.FLOAT, [0], []),
    numpy_helper.from_array(np.ones(2, np.float32), "small"),
]


def of_kinds() -> onnx.ModelProto:
    """A model with a tensor of every storage, and one more within a node."""
    weights = {"W": normal([64, 64], 1).astype(np.float32)}
    nodes = [
        node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones((1, 64), np.float32))),
        node("Add", ["h", "c"], ["y"]),
    ]
    model = build(nodes, [value("x", ["n", 64])], [value("y", ["n", 64])], weights)
    model.graph.initializer.extend(KINDS)
    model.graph.initializer[1].doc_string = "kept"
    model.metadata_props.add(key="a", value="b")
    return model


@pytest.fixture
def beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "PROTOBUF_LIMIT", 0)


@given(st.lists(st.integers(0, 70_000), min_size=1, max_size=6), st.text(max_size=200))
def test_parts_add_up_to_the_whole(sizes: list[int], note: str) -> None:
    """Around 128 and 16,384 bytes, lengths take one byte more."""
    model = onnx.ModelProto(doc_string=note, ir_version=8)
    for i, size in enumerate(sizes):
        model.graph.initializer.append(TensorProto(name=f"w{i}", raw_data=b"0" * size))
    assert proto_bytes(model) == len(model.SerializeToString())


def test_the_parts_of_real_models_add_up() -> None:
    for model in (of_kinds(), onnx.load(MODEL)):
        assert proto_bytes(model) == model.ByteSize()


@pytest.mark.usefixtures("beyond")
def test_what_is_written_apart_is_the_same_model(tmp_path: Path) -> None:
    model = of_kinds()
    before = model.SerializeToString(deterministic=True)
    files = model_io.store(model, tmp_path / "m.onnx")
    assert [file.name for file in files] == ["m.onnx", "m.onnx.data"]
    assert model.SerializeToString(deterministic=True) == before  # nothing of it was moved
    again = model_io.load(tmp_path / "m.onnx")
    assert model_io.content_hash(again) == model_io.content_hash(model)
    x = normal([3, 64], 2).astype(np.float32)
    np.testing.assert_array_equal(run(again, {"x": x})["y"], run(model, {"x": x})["y"])
    bare = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    apart = {tensor.name: {e.key: e.value for e in tensor.external_data} for tensor in bare.graph.initializer}
    assert {name for name, entry in apart.items() if entry} == {"W", "raw", "floats", "doubles", "longs", "words"}
    assert all(int(entry["offset"]) % 4096 == 0 for entry in apart.values() if entry)


@pytest.mark.usefixtures("beyond")
def test_a_file_of_the_same_name_elsewhere_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("m.onnx.data").write_bytes(b"of someone else")
    with model_io.staged(of_kinds(), tmp_path / "m.onnx") as stage:
        stage.publish()
    assert Path("m.onnx.data").read_bytes() == b"of someone else"
    assert model_io.content_hash(model_io.load(tmp_path / "m.onnx")) == model_io.content_hash(of_kinds())


def test_a_tensors_head_is_all_but_its_numbers() -> None:
    for tensor in KINDS:
        head = without_data(tensor)
        assert (head.name, head.data_type, list(head.dims)) == (tensor.name, tensor.data_type, list(tensor.dims))
        assert head.ByteSize() < 40


@pytest.mark.usefixtures("beyond")
def test_what_cannot_be_written_at_all_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(message: onnx.ModelProto) -> bytes:
        raise EncodeError("Failed to serialize proto")  # as beyond 2 GiB

    monkeypatch.setattr(large, "_serialized", refused)
    said = r"m\.onnx: more than 2 GiB of weights lie in nodes"
    with pytest.raises(ModelError, match=said) as caught, model_io.staged(of_kinds(), tmp_path / "m.onnx"):
        pass
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
