"""The files of numpy: mapped, never unpickled, refused in one line."""

import re
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import npz, read


def model(*shape, name="x", kind="float"):
    return TensorSpec(name, f"tensor({kind})", shape)


def ramp(*shape, kind=np.float32):
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)


def refusal(source, *inputs):
    with pytest.raises(DataError) as caught:
        read(source, inputs)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def save(**arrays):
        np.savez(tmp_path / "cal.npz", **arrays)
        return "cal.npz"

    return save


def test_large_arrays_stay_on_disk_and_small_ones_do_not(write, monkeypatch):
    monkeypatch.setattr(npz, "MAPPED_FROM", 100)
    x, y = ramp(50, 4), ramp(2)
    arrays = npz.open_npz(npz.Path(write(x=x, y=y)))
    assert isinstance(arrays["x"].base, np.memmap)
    assert not isinstance(arrays["y"].base, np.memmap)
    assert np.array_equal(arrays["x"], x)
    assert np.array_equal(arrays["y"], y)


def test_a_sample_of_a_mapped_array_is_a_view(write, monkeypatch):
    monkeypatch.setattr(npz, "MAPPED_FROM", 100)
    first = read(write(x=ramp(50, 4)), [model("N", 4)]).feeds[1]["x"]
    assert not first.flags.owndata
    assert first.tolist() == [[4.0, 5.0, 6.0, 7.0]]


def test_fortran_order_is_mapped_right(write, monkeypatch):
    monkeypatch.setattr(npz, "MAPPED_FROM", 100)
    x = np.asfortranarray(ramp(50, 4))
    assert np.array_equal(read(write(x=x), [model("N", 4)]).feeds[7]["x"], x[7:8])


def test_compressed_files_are_read(tmp_path):
    np.savez_compressed(tmp_path / "c.npz", x=ramp(4, 2))
    assert len(read(tmp_path / "c.npz", [model("N", 2)])) == 4


def test_a_single_npy_for_a_model_of_one_input(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAPPED_FROM", 30)
    np.save(tmp_path / "x.npy", ramp(4, 2))
    assert isinstance(npz.open_npy(tmp_path / "x.npy").base, np.memmap)
    samples = read(tmp_path / "x.npy", [model("N", 2)])
    assert samples.feeds[3]["x"].tolist() == [[6.0, 7.0]]
    assert samples.source == str(tmp_path / "x.npy")


def test_long_headers_are_read_and_newer_formats_refused(tmp_path):
    for version in ((2, 0), (3, 0)):
        with (tmp_path / f"{version[0]}.npy").open("wb") as file:
            np.lib.format.write_array(file, ramp(4, 2), version=version)
    assert len(read(tmp_path / "2.npy", [model("N", 2)])) == 4
    assert "(version 3.0 of numpy's format)" in refusal(tmp_path / "3.npy", model("N", 2))


def test_a_single_npy_for_a_model_of_two(tmp_path):
    np.save(tmp_path / "x.npy", ramp(4, 2))
    assert refusal(tmp_path / "x.npy", model("N", 2), model("N", name="y")) == (
        f"{tmp_path / 'x.npy'}: an .npy holds one array, and the model takes 2; save an .npz, one array an input"
    )


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_objects_are_never_unpickled(write, tmp_path):
    text = refusal(write(x=np.array([Bomb(), Bomb()], object)), model("N", 2))
    assert text.startswith("cal.npz: 'x' holds pickled Python objects, which are never loaded (they could run code);")
    np.save(tmp_path / "x.npy", np.array([Bomb()], object))
    assert "x.npy: it holds pickled Python objects" in refusal(tmp_path / "x.npy", model("N", 2))


def test_labels_as_objects_are_never_unpickled(write):
    assert refusal(write(x=ramp(1, 2), labels=np.array([Bomb()], object)), model("N", 2)).startswith(
        "cal.npz: 'labels' holds pickled Python objects"
    )


def test_object_arrays_in_python_are_told_where_to_go():
    ragged = np.array([np.zeros(2), np.zeros(3)], object)
    assert refusal({"x": ragged}, model("N", "T")) == (
        "the dict given: 'x' is an array of Python objects; samples of different shapes go into a directory,"
        " one .npz a sample"
    )


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_npz(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    text = refusal(path, model("N"))
    assert text.startswith(f"{path} is damaged or of another format (")
    assert text.endswith("); write it again with numpy.savez")


def test_a_zip_without_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert refusal(tmp_path / "bad.npz", model("N")).startswith(f"{tmp_path / 'bad.npz'} holds no array; write it")


def test_a_file_that_is_no_npy(tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00\x04\x00torn")
    text = refusal(tmp_path / "bad.npy", model("N"))
    assert text.startswith(f"{tmp_path / 'bad.npy'} is damaged or of another format (")


def test_an_npy_whose_header_is_no_python(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': ((3,), ".ljust(117) + b"\n"
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(12))
    assert "is damaged or of another format (" in refusal(tmp_path / "bad.npy", model("N"))


def test_a_torn_large_npy_is_not_mapped_past_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAPPED_FROM", 100)
    path = tmp_path / "x.npy"
    np.save(path, ramp(64, 4))
    path.write_bytes(path.read_bytes()[:-40])
    assert "is damaged or of another format" in refusal(path, model("N", 4))


def test_a_file_that_cannot_be_opened(write, monkeypatch):
    path = write(x=ramp(2, 2))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(npz.zipfile, "ZipFile", refuse)
    assert refusal(path, model("N", 2)) == "cal.npz cannot be read: Permission denied; check the file"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_a_flipped_byte_is_read_or_refused_never_a_crash(tmp_path, place, flip, packed):
    path = tmp_path / "x.npz"
    (np.savez_compressed if packed else np.savez)(path, x=ramp(6, 3), labels=np.arange(6))
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= flip
    path.write_bytes(data)
    said = ""
    try:
        read(path, [model("N", 3)])
    except DataError as error:
        said = str(error)
    assert re.fullmatch(r"[^\n]*", said)
