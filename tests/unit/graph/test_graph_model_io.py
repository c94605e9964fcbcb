"""model_io: what can be wrong with a file, external data, atomic saving, and a hash of the content alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, linear, mlp, node, value, weight

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import model_io


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def external(folder: Path, *, location: str = "w.bin") -> Path:
    path = folder / "m.onnx"
    model = mlp([16, 32, 8], [None, None], 1)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_what_is_saved_loads_as_it_was(tmp_path: Path):
    model = mlp([6, 8, 3], [None, None], 1)
    assert model_io.store(model, tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    assert model_io.load(tmp_path / "m.onnx") == model


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not an ONNX model (no graph"),
        (b"this is a text file, not a model\n" * 20, "is not an ONNX model"),
        (b"\x80\x02}q\x00(X\x05\x00\x00\x00stateq\x01", "is not an ONNX model"),
        (b"PK\x03\x04" + bytes(100), "is not an ONNX model"),
    ],
    ids=["empty", "text", "pickle", "zip"],
)
@pytest.mark.parametrize("name", ["m.onnx", "m.json", "m.textproto", "m.pb", "m"])
def test_a_file_that_is_no_model(tmp_path: Path, name: str, content: bytes, says: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        model_io.load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_model(tmp_path: Path):
    whole = linear(weight((20, 20), 0)).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="not an ONNX model"):
        model_io.load(tmp_path / "m.onnx")


def test_no_file_and_a_directory(tmp_path: Path):
    with pytest.raises(ModelError, match="no such file"):
        model_io.load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a directory"):
        model_io.load(tmp_path)


@pytest.mark.parametrize("opset", [1, 6, 999])
def test_an_opset_that_cannot_be_read(tmp_path: Path, opset: int):
    model = linear(weight((4, 4), 0))
    model.opset_import[0].version = opset
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=f"uses opset {opset}; 7 to .* another opset"):
        model_io.load(tmp_path / "m.onnx")


def test_main_opset_is_the_default_domains():
    model = linear(weight((4, 4), 0))
    model.opset_import.insert(0, onnx.helper.make_opsetid("com.microsoft", 1))
    assert model_io.main_opset(model) == 17
    del model.opset_import[1:]
    assert model_io.main_opset(model) == onnx.defs.onnx_opset_version()


def test_external_data_round_trip(tmp_path: Path):
    path = external(tmp_path)
    assert any(True for _ in model_io.external_tensors(onnx.load(path, load_external_data=False)))
    loaded = model_io.load(path)
    assert not any(True for _ in model_io.external_tensors(loaded))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in mlp([16, 32, 8], [None, None], 1).graph.initializer}
    for tensor in loaded.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), arrays[tensor.name])
    assert model_io.file_bytes(path) == path.stat().st_size + (tmp_path / "w.bin").stat().st_size


def test_missing_external_data(tmp_path: Path):
    path = external(tmp_path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"weight 'fc0' lies in 'w\.bin', which is missing; copy it"):
        model_io.load(path)


@pytest.mark.parametrize("size", [0, 100])
def test_external_data_cut_short(tmp_path: Path, size: int):
    path = external(tmp_path)
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:size])
    with pytest.raises(ModelError, match="external data"):
        model_io.load(path)


def test_external_data_outside_the_models_directory_is_refused(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    path = external(tmp_path / "inner")
    model = onnx.load(path, load_external_data=False)
    (tmp_path / "inner" / "w.bin").rename(tmp_path / "w.bin")
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = "../w.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside of the model's folder"):
        model_io.load(path)


def test_a_large_model_is_written_with_a_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onnx_lowrank.graph.large.PROTOBUF_LIMIT", 1000)
    model = mlp([64, 64, 8], [None, None], 1)
    before = model.SerializeToString()
    with model_io.staged(model, tmp_path / "m.onnx") as stage:
        assert [f.name for f in stage.files] == ["m.onnx", "m.onnx.data"]
        assert stage.bytes == sum(f.stat().st_size for f in stage.files)
        model_io.check(stage.path)
        stage.publish()
    assert sorted(listing(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert model.SerializeToString() == before, "saving must not touch the model in memory"
    assert model_io.content_hash(model_io.load(tmp_path / "m.onnx")) == model_io.content_hash(model)


def test_staged_leaves_nothing_unless_published(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(b"the old one")
    before = listing(tmp_path)
    with model_io.staged(linear(weight((4, 4), 0)), tmp_path / "m.onnx") as stage:
        assert stage.path.parent.parent == tmp_path, "same file system, so that publishing is a rename"
    assert listing(tmp_path) == before
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("too large"), KeyboardInterrupt()]
)
def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException):
    def broken(model: onnx.ModelProto, path: str, **_: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(model_io.onnx, "save", broken)
    with (
        pytest.raises(ModelError if isinstance(error, OSError) else type(error)) as caught,
        model_io.staged(linear(weight((4, 4), 0)), tmp_path / "m.onnx"),
    ):
        pytest.fail("nothing was staged")
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_while_staged_leaves_nothing(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), model_io.staged(linear(weight((4, 4), 0)), tmp_path / "m.onnx"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for target in (tmp_path / "missing" / "m.onnx", tmp_path / "file" / "m.onnx", tmp_path / "folder"):
        with (
            pytest.raises(ModelError, match=r"cannot write .*(choose another|another place)"),
            model_io.staged(linear(weight((4, 4), 0)), target) as stage,
        ):
            stage.publish()
        with pytest.raises(ModelError, match="cannot write"):
            model_io.write_bytes(target, b"a report")
    assert sorted(tmp_path.rglob("*")) == before


def test_write_bytes_replaces(tmp_path: Path):
    path = tmp_path / "r.json"
    model_io.write_bytes(path, b"one")
    model_io.write_bytes(path, "zwei: ü×".encode())
    assert path.read_text(encoding="utf-8") == "zwei: ü×"
    assert list(tmp_path.iterdir()) == [path]


def test_published_files_have_the_users_mode(tmp_path: Path):
    (tmp_path / "plain").touch()
    with model_io.staged(linear(weight((4, 4), 0)), tmp_path / "m.onnx") as stage:
        stage.publish()
    assert (tmp_path / "m.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_check_names_the_file_and_fits_a_line(tmp_path: Path):
    model = linear(weight((4, 4), 0))
    model.graph.node[0].op_type = "NoSuchOperator"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx does not pass onnx\.checker: ") as caught:
        model_io.check(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_content_hash_does_not_depend_on_storage(tmp_path: Path):
    model = mlp([16, 32, 8], [None, None], 1)
    plain = model_io.content_hash(model)
    assert plain == model_io.content_hash(model_io.load(external(tmp_path)))
    listed = onnx.ModelProto()
    listed.CopyFrom(model)
    for tensor in listed.graph.initializer:  # the same numbers, as repeated floats instead of bytes
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.ravel().tolist()))
    assert plain == model_io.content_hash(listed)
    assert model.SerializeToString() == mlp([16, 32, 8], [None, None], 1).SerializeToString()


def test_content_hash_sees_every_change():
    def changed(change: str) -> str:
        model = mlp([6, 8, 3], [None, None], 1)
        if change == "weight":
            array = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
            array[0, 0] += 1e-6
            model.graph.initializer[0].raw_data = array.tobytes()
        elif change == "shape":
            model.graph.initializer[0].dims[:] = [6, 8]
        elif change == "name":
            model.graph.initializer[0].name = "other"
        elif change == "attribute":
            model.graph.node[0].attribute[0].i = 0
        elif change == "metadata":
            onnx.helper.set_model_props(model, {"key": "value"})
        return model_io.content_hash(model)

    changes = ["", "weight", "shape", "name", "attribute", "metadata"]
    assert len({changed(c) for c in changes}) == len(changes)


def test_content_hash_of_text_tensors_and_constants():
    def model(text: str, number: float) -> onnx.ModelProto:
        tensor = onnx.helper.make_tensor("t", onnx.TensorProto.STRING, [1], [text.encode()])
        nodes = [
            onnx.helper.make_node("Constant", [], ["s"], value=tensor),
            onnx.helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.float32([number]))),
            node("Add", ["x", "c"], ["y"]),
        ]
        return build(nodes, [value("x", [1])], [value("y", [1])], {})

    hashes = {model_io.content_hash(model(t, n)) for t in "ab" for n in (1.0, 2.0)}
    assert len(hashes) == 4
