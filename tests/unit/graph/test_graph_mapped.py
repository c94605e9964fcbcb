"""Weights that stay in their file are the same weights: read, run, hashed, counted and written as those in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, node, normal, run, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import mapped, model_io, scratch
from onnx_lowrank.graph.large import fits_protobuf, proto_bytes
from onnx_lowrank.graph.mapped import follow, for_runtime, is_mapped, mapped_tensors, raw_bytes, tensor_array
from onnx_lowrank.graph.scratch import move_out
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.store import spilled

KINDS = [np.float32, np.float64, np.float16, np.int8, np.uint8, np.int64, np.bool_]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MAPPED_FROM", 0)
    for module in (mapped, scratch):
        monkeypatch.setattr(module, "LEAST", 64)


def apart(folder: Path) -> Path:
    """Write a model with its weights beside it."""
    weights = {"W": normal([32, 16], 1).astype(np.float32), "V": normal([16, 8], 2).astype(np.float32)}
    nodes = [node("MatMul", ["x", "W"], ["h"]), node("MatMul", ["h", "V"], ["y"])]
    model = build(nodes, [value("x", ["n", 32])], [value("y", ["n", 8])], weights)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def lies_in_a_file(array: np.ndarray | None) -> bool:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base  # type: ignore[assignment]
    return isinstance(array, np.memmap)


def test_large_weights_stay_in_their_file_and_are_the_same(tmp_path: Path):
    path = apart(tmp_path)
    model, whole = model_io.load(path), onnx.load(path)
    assert [is_mapped(tensor) for tensor in model.graph.initializer] == [True, True]
    assert not any(tensor.raw_data for tensor in model.graph.initializer)
    for one, other in zip(model.graph.initializer, whole.graph.initializer, strict=True):
        array = tensor_array(one)
        np.testing.assert_array_equal(array, numpy_helper.to_array(other))
        assert lies_in_a_file(array)
        assert not array.flags.writeable
    assert model_io.content_hash(model) == model_io.content_hash(whole)
    for tensor in whole.graph.initializer:
        tensor.ClearField("data_location")
    assert proto_bytes(model) == whole.ByteSize()
    assert not fits_protobuf(model)
    x = normal([3, 32], 3).astype(np.float32)
    np.testing.assert_allclose(Runner(model).run({"x": x})["y"], run(whole, {"x": x})["y"], rtol=1e-6, atol=1e-6)


def test_small_models_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = apart(tmp_path)
    monkeypatch.setattr(mapped, "MAPPED_FROM", 10**6)
    assert not any(mapped_tensors(model_io.load(path)))


def test_small_weights_of_large_models_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = apart(tmp_path)
    monkeypatch.setattr(mapped, "LEAST", 16 * 8 * 4 + 1)
    model = model_io.load(path)
    assert [is_mapped(tensor) for tensor in model.graph.initializer] == [True, False]
    assert model_io.content_hash(model) == model_io.content_hash(onnx.load(path))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    dims=st.lists(st.integers(0, 5), max_size=3),
    offset=st.integers(0, 5000),
    seed=st.integers(0, 99),
)
def test_every_type_at_every_offset(
    tmp_path: Path, kind: type[np.generic], dims: list[int], offset: int, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 2, dims).astype(kind)
    path = tmp_path / "w.bin"
    path.write_bytes(b"x" * offset + array.tobytes() + b"y" * 9)
    tensor = TensorProto(name="w", data_type=helper.np_dtype_to_tensor_dtype(np.dtype(kind)), dims=dims)
    mapped.place_in(tensor, path, offset, array.nbytes)
    found = tensor_array(tensor)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert raw_bytes(tensor).tobytes() == array.tobytes()


def test_types_that_share_a_byte(tmp_path: Path):
    tensor = helper.make_tensor("w", TensorProto.INT4, [3], [1, -2, 3])
    path = tmp_path / "w.bin"
    path.write_bytes(numpy_helper.from_array(numpy_helper.to_array(tensor), "w").raw_data)
    head = TensorProto(name="w", data_type=TensorProto.INT4, dims=[3])
    mapped.place_in(head, path, 0, 2)
    assert tensor_array(head).astype(int).tolist() == [1, -2, 3]


def test_what_is_written_lies_beside_its_model_and_is_the_same(tmp_path: Path):
    model = model_io.load(apart(tmp_path))
    (tmp_path / "to").mkdir()
    files = model_io.store(model, tmp_path / "to" / "m.onnx")
    assert [file.name for file in files] == ["m.onnx", "m.onnx.data"]
    bare = onnx.load(files[0], load_external_data=False)
    places = {entry.value for t in bare.graph.initializer for entry in t.external_data if entry.key == "location"}
    assert places == {"m.onnx.data"}
    assert model_io.content_hash(onnx.load(files[0])) == model_io.content_hash(model)
    onnx.checker.check_model(str(files[0]), full_check=True)


def test_weights_follow_a_file_that_is_moved(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    model = model_io.load(apart(first))
    expected = model_io.content_hash(model)
    first.rename(second)
    with pytest.raises(ModelError, match=r"'W' cannot be read from .*weights.bin: has the file changed"):
        tensor_array(model.graph.initializer[0])
    follow(model, first, second)
    assert model_io.content_hash(model) == expected


def test_a_file_that_was_cut_is_one_line(tmp_path: Path):
    model = model_io.load(apart(tmp_path))
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(ModelError, match="has the file changed"):
        tensor_array(model.graph.initializer[0])


def test_onnxruntime_gets_one_folder_for_all_files(tmp_path: Path):
    model = model_io.load(apart(tmp_path))
    made = for_runtime(model)
    assert made is not None
    copy, folder = made
    assert all(not is_mapped(tensor) for tensor in copy.graph.initializer)
    assert Path(folder) in tmp_path.resolve().parents
    assert all(is_mapped(tensor) for tensor in model.graph.initializer)  # a copy was changed
    assert for_runtime(onnx.load(tmp_path / "model.onnx")) is None


def test_new_weights_go_to_a_file_which_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "in").mkdir()
    model = model_io.load(apart(tmp_path / "in"))
    arrays = [normal([8, 9], seed).astype(np.float32) for seed in range(3)]
    tensors = [numpy_helper.from_array(array, "new") for array in arrays]
    with scratch.scratch(model) as place:
        assert place is not None
        for tensor, array in zip(tensors, arrays, strict=True):
            move_out(tensor)
            assert is_mapped(tensor)
            np.testing.assert_array_equal(tensor_array(tensor), array)
        small = numpy_helper.from_array(np.ones(2, np.float32), "small")
        move_out(small)
        assert not is_mapped(small)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    with pytest.raises(ModelError):
        tensor_array(tensors[0])


def test_outside_and_beside_small_models_new_weights_stay_in_memory(tmp_path: Path):
    tensor = numpy_helper.from_array(normal([8, 9], 1).astype(np.float32), "new")
    move_out(tensor)
    with scratch.scratch(onnx.load(apart(tmp_path))) as place:
        move_out(tensor)
    assert place is None
    assert not is_mapped(tensor)


def test_no_room_for_new_weights_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, tensor = model_io.load(apart(tmp_path)), numpy_helper.from_array(normal([8, 9], 1), "new")
    with scratch.scratch(model) as place:
        assert place is not None
        monkeypatch.setattr(place, "path", tmp_path / "none" / "new")
        with pytest.raises(ModelError, match="set TMPDIR to a place"):
            move_out(tensor)


def test_large_arrays_of_a_value_are_spilled_and_equal():
    value = {"a": np.arange(20_000.0), "b": (np.arange(3), np.float32([[1, 2]])), "c": [np.arange(20_000)]}
    made = spilled(value, 0)
    assert isinstance(made["a"], np.memmap)
    assert isinstance(made["c"][0], np.memmap)
    assert not isinstance(made["b"][0], np.memmap)
    for key in ("a", "c"):
        np.testing.assert_array_equal(np.asarray(made[key]), np.asarray(value[key]))
    assert spilled(made, 0) is made  # it lies in a file already
    assert spilled(value, 10**6) is value


def linked(folder: Path) -> tuple[Path, Path]:
    """Lay a model out as hubs do, links into a folder of blobs; return it and the blob of its data."""
    path = apart(folder)
    (folder / "blobs").mkdir()
    (folder / "snapshots" / "abc").mkdir(parents=True)
    for name, blob in (("model.onnx", "1f"), ("weights.bin", "2e")):
        (folder / name).rename(folder / "blobs" / blob)
        (folder / "snapshots" / "abc" / name).symlink_to(Path("..", "..", "blobs", blob))
    return folder / "snapshots" / "abc" / path.name, folder / "blobs" / "2e"


@pytest.mark.parametrize("large", [True, False])
def test_links_into_a_folder_of_blobs_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool):
    if not large:
        monkeypatch.setattr(mapped, "MAPPED_FROM", 10**6)
    path, blob = linked(tmp_path)
    model = model_io.load(path)
    assert any(mapped_tensors(model)) == large
    x = normal([3, 32], 3).astype(np.float32)
    assert np.isfinite(Runner(model).run({"x": x})["y"]).all()
    assert model_io.standing(path).level is model_io.Level.FULL
    assert model_io.file_bytes(path) == path.stat().st_size + blob.stat().st_size


@pytest.mark.parametrize("large", [True, False])
def test_a_link_that_leads_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool):
    if not large:
        monkeypatch.setattr(mapped, "MAPPED_FROM", 10**6)
    (tmp_path / "in").mkdir()
    path, secret = apart(tmp_path / "in"), tmp_path / "secret"
    (tmp_path / "in" / "weights.bin").rename(secret)
    (tmp_path / "in" / "weights.bin").symlink_to(secret)
    with pytest.raises(ModelError, match="a link that leads out of the model's folder: copy the file there"):
        model_io.load(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", ".", ""])
def test_a_place_outside_of_the_folder_is_refused(tmp_path: Path, location: str):
    (tmp_path / "in").mkdir()
    path = apart(tmp_path / "in")
    (tmp_path / "secret").write_bytes(b"s" * 4096)
    model = onnx.load(path, load_external_data=False)
    next(e for e in model.graph.initializer[0].external_data if e.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"weight 'W' lies in"):
        model_io.load(path)


@pytest.mark.parametrize(
    ("key", "number"), [("offset", -8), ("length", -8), ("offset", 10**9), ("length", 10**12), ("offset", "x")]
)
def test_a_range_beyond_the_file_is_refused(tmp_path: Path, key: str, number: object):
    path = apart(tmp_path)
    model = onnx.load(path, load_external_data=False)
    next(e for e in model.graph.initializer[0].external_data if e.key == key).value = str(number)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"beyond the end of|at no place that can be read"):
        model_io.load(path)
