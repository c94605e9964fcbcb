"""ONNX's own test data: test_data_set_*/input_*.pb."""

import numpy as np
import onnx
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import read

LINE = (TensorSpec("x", "tensor(float)", ("N", 3, "W")),)
PAIR = (TensorSpec("a", "tensor(float)", ("N", 2)), TensorSpec("b", "tensor(int64)", ("N",)))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    return tmp_path / "d"


def refusal(inputs):
    with pytest.raises(DataError) as caught:
        read("d", inputs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def line(width, value=1.0):
    return np.full((1, 3, width), value, np.float32)


def save(file, tensor, name=""):
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(onnx.numpy_helper.from_array(tensor, name).SerializeToString())


def test_test_data_sets_by_name_in_the_order_of_their_numbers(place):
    for i in (10, 2):
        folder = place / f"test_data_set_{i}"
        save(folder / "input_0.pb", np.array([i]), "b")
        save(folder / "input_1.pb", np.full((1, 2), i, np.float32), "a")
        save(folder / "output_0.pb", np.array([99]))
    samples = read("d", PAIR)
    assert samples.source == "2 test data sets in d/"
    assert [int(feed["b"][0]) for feed in samples.feeds] == [2, 10]
    assert [float(feed["a"][0, 0]) for feed in samples.feeds] == [2.0, 10.0]
    assert samples.labels is None


def test_unnamed_tensors_go_by_order(place):
    save(place / "input_0.pb", np.ones((1, 2), np.float32))
    save(place / "input_1.pb", np.array([7]), "another name")
    samples = read("d", PAIR)
    assert samples.source == "1 test data set in d/"
    assert samples.feeds[0]["b"].tolist() == [7]


def test_more_than_ten_tensors_are_counted_not_spelled(place):
    inputs = [TensorSpec(f"i{n}", "tensor(int64)", ("N",)) for n in range(11)]
    for n in range(11):
        save(place / f"input_{n}.pb", np.array([n]))
    assert [int(array[0]) for array in read("d", inputs).feeds[0].values()] == list(range(11))


def test_unnamed_tensors_fill_what_the_named_leave(place):
    save(place / "input_0.pb", np.array([7]))
    save(place / "input_1.pb", np.ones((1, 2), np.float32), "a")
    assert read("d", PAIR).feeds[0]["b"].tolist() == [7]


def test_a_set_with_too_few_tensors(place):
    save(place / "test_data_set_0" / "input_0.pb", np.array([7]))
    assert refusal(PAIR) == (
        "d/test_data_set_0 holds 1 input_*.pb, and the model takes 2 ('a', 'b'); write one for each input"
    )


def test_a_set_without_tensors(place):
    (place / "test_data_set_0").mkdir()
    assert refusal(PAIR) == "d/test_data_set_0 holds no input_*.pb; write one for each input of the model"


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"", onnx.TensorProto(data_type=1, dims=[4]).SerializeToString()])
def test_a_tensor_that_is_none(place, content):
    (place / "input_0.pb").write_bytes(content)
    text = refusal(LINE)
    assert text.startswith("d/input_0.pb is not an ONNX tensor (")
    assert text.endswith("); write it again with onnx.save_tensor")


def test_a_tensor_with_its_data_elsewhere(place):
    tensor = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (place / "input_0.pb").write_bytes(tensor.SerializeToString())
    assert refusal(LINE).startswith("d/input_0.pb: its data lie in another file, which is not read here;")


def test_one_tensor_alone_is_sent_to_its_directory(place):
    save(place / "input_0.pb", line(4))
    with pytest.raises(DataError, match=r"^d/input_0.pb is of no form .*; give its directory, d$"):
        read("d/input_0.pb", LINE)
