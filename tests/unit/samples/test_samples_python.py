"""Samples from Python objects, and paths that lead to none."""

import numpy as np
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import Samples, read

INPUTS = (TensorSpec("x", "tensor(float)", ("N", "T")),)


def feed(length, value=1.0):
    return {"x": np.full((1, length), value, np.float32)}


def refusal(source, inputs=INPUTS):
    with pytest.raises(DataError) as caught:
        read(source, inputs)
    text = str(caught.value)
    assert "\n" not in text
    return text


class Reader:
    """As onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


# Objects


def test_a_list_is_read_in_place():
    feeds = [feed(3), feed(5)]
    samples = read(feeds, INPUTS)
    assert samples.feeds[1]["x"] is feeds[1]["x"]
    assert samples.source == "the list given"


def test_a_generator_that_uses_one_buffer_again():
    buffer = np.zeros((1, 2), np.float32)

    def generate():
        for value in (1.0, 2.0):
            buffer[:] = value
            yield {"x": buffer}

    assert [float(item["x"][0, 0]) for item in read(generate(), INPUTS).feeds] == [1.0, 2.0]


def test_a_calibration_data_reader():
    samples = read(Reader([feed(3), feed(5)]), INPUTS)
    assert [item["x"].shape for item in samples.feeds] == [(1, 3), (1, 5)]
    assert samples.source == "the Reader given"


def test_a_reader_that_is_exhausted():
    assert refusal(Reader([])) == "the Reader given: no sample in it; give at least one"


def test_pairs_have_labels():
    assert read([(feed(3), 4), (feed(5), 5)], INPUTS).labels.tolist() == [4, 5]


def test_labels_of_any_kind_stay_a_list():
    assert read([(feed(3), {"a": 1}), (feed(5), [1, 2])], INPUTS).labels == [{"a": 1}, [1, 2]]
    assert read([(feed(3), 1), (feed(5), "b")], INPUTS).labels == [1, "b"]
    assert read([(feed(3), "ab"), (feed(5), "b")], INPUTS).labels.tolist() == ["ab", "b"]


def test_labels_that_are_dicts_stay_a_list():
    assert read([(feed(3), {"a": 1}), (feed(5), {"b": 2})], INPUTS).labels == [{"a": 1}, {"b": 2}]


class Tensor:
    """As a tensor of torch: not numpy's, but turned into an array on request."""

    shape = (1, 2)

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.full(self.shape, self.value)


def test_labels_and_inputs_may_be_tensors_of_another_library():
    samples = read([({"x": Tensor(1.0)}, Tensor(7)), ({"x": Tensor(2.0)}, Tensor(8))], INPUTS)
    assert samples.labels.tolist() == [[7, 7], [8, 8]]
    assert samples.feeds[1]["x"].tolist() == [[2.0, 2.0]]
    assert read({"x": np.zeros((1, 2)), "labels": Tensor(7)}, INPUTS).labels.tolist() == [[7, 7]]


def test_labels_of_one_shape_become_an_array():
    assert read([(feed(3), np.zeros((1, 4))), (feed(5), np.ones((1, 4)))], INPUTS).labels.shape == (2, 4)


def test_a_dict_may_hold_its_label():
    assert read([feed(3) | {"labels": 4}, feed(4) | {"labels": 5}], INPUTS).labels.tolist() == [4, 5]


def test_a_label_of_none_is_no_label():
    assert read([(feed(3), None)], INPUTS).labels is None


def test_two_labels():
    assert refusal([(feed(3) | {"labels": 4}, 4)]) == (
        "the list given: sample #0 has two labels, in its dict and beside it; leave one of them out"
    )


def test_labels_for_some():
    assert refusal([(feed(3), 1), feed(3)]) == (
        "the list given: only 1 of 2 samples has a label; label all of them or none"
    )


@pytest.mark.parametrize("item", [np.zeros((1, 3)), (1, 2), "text"])
def test_what_is_no_dict(item):
    assert refusal([feed(3), item]) == (
        f"the list given: sample #1 is a {type(item).__name__};"
        " give a dict of input name -> array, a pair (dict, label), or a tuple of one array an input, and perhaps a"
        " label"
    )


NAMED = (TensorSpec("x", "tensor(float)", ("batch", 2)), TensorSpec("y", "tensor(float)", ("batch",)))


class Loader:
    """As torch's DataLoader: walked any number of times, a batch at a time."""

    def __init__(self, batches, batch_size=2):
        self.batches, self.batch_size = batches, batch_size

    def __iter__(self):
        return iter(self.batches)


class Dataset:
    """As torch's TensorDataset: a length and places, no iterator, and no end that it tells by IndexError."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.full(4, index, np.float32), np.int64(index)


def test_tuples_are_inputs_in_order_and_then_a_label():
    pair = (np.zeros((1, 2), np.float32), np.ones(1, np.float32))
    assert read([pair], NAMED).labels is None
    samples = read([(*pair, 7), (*pair, 8)], NAMED)
    assert samples.labels.tolist() == [7, 8]
    assert samples.feeds[1]["y"].tolist() == [1.0]


def test_a_dataset_without_an_iterator():
    samples = read(Dataset(), INPUTS)
    assert [float(item["x"][0, 0]) for item in samples.feeds] == [0.0, 1.0, 2.0]
    assert samples.labels.tolist() == [0, 1, 2]


def test_batches_of_a_loader_are_taken_apart():
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    batches = [(x[:2], np.array([0, 1])), (x[2:4], np.array([2, 3])), (x[4:], np.array([4]))]
    samples = read(Loader(batches), INPUTS)
    assert len(samples) == 5
    assert samples.labels.tolist() == [0, 1, 2, 3, 4]
    assert [item["x"].shape for item in samples.feeds] == [(1, 2)] * 5
    assert samples.notes == ("the Loader given: batches are taken apart, 3 items are 5 samples",)


def test_batches_of_a_loader_without_labels_are_taken_apart():
    assert len(read(Loader([{"x": np.zeros((2, 3), np.float32)}]), INPUTS)) == 2


def test_a_batch_of_dicts_with_a_label_a_row_is_taken_apart_where_the_axis_is_called_so():
    rows = {"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.float32), "labels": np.arange(3)}
    assert read([rows], NAMED).labels.tolist() == [0, 1, 2]
    time = (TensorSpec("x", "tensor(float)", ("time", 2)), TensorSpec("y", "tensor(float)", ("time",)))
    assert read([rows], time).labels.tolist() == [[0, 1, 2]]  # a sequence with a label a step is one sample
    assert len(read([{"x": rows["x"], "y": rows["y"]}], NAMED)) == 1  # no label says that these are three


def test_a_batch_stays_whole_where_the_model_takes_it_whole():
    fixed = (TensorSpec("x", "tensor(float)", (2, 3)),)
    samples = read([{"x": np.zeros((2, 3), np.float32), "labels": np.array([0, 1])}], fixed)
    assert samples.labels.tolist() == [[0, 1]]


def test_a_dict_of_arrays_and_an_array_hold_all_samples():
    assert len(read({"x": np.zeros((4, 3), np.float32)}, INPUTS)) == 4
    assert len(read(np.zeros((4, 3), np.float32), INPUTS)) == 4


def test_samples_pass_as_they_are():
    samples = Samples([], None, "", ())
    assert read(samples, INPUTS) is samples


@pytest.mark.parametrize("thing", [None, 3, 2.5])
def test_what_samples_cannot_be(thing):
    assert refusal(thing) == (
        f"samples cannot be a {type(thing).__name__}; give a path, an onnx_lowrank.samples.StoredData, an iterable of"
        " dicts or tuples, a DataLoader or a CalibrationDataReader"
    )


def test_a_failing_iterable_keeps_its_own_error():
    def broken():
        yield feed(3)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        read(broken(), INPUTS)


# Paths


def test_a_path_that_is_not_there():
    text = refusal("nowhere.npz")
    assert text.startswith("nowhere.npz: no such file or directory; give an .npz or .npy (samples along the leading")
    assert text.endswith("a Polygraphy .json, or FILE.py[:load_data]")


def test_a_table_wants_a_format(tmp_path):
    (tmp_path / "data.csv").write_text("1,2")
    assert refusal(tmp_path / "data.csv").endswith(
        "; give it with --text, --table, --images or --audio (onnx_lowrank.samples.StoredData in Python)"
    )


def test_a_file_of_no_known_form(tmp_path):
    (tmp_path / "data.xls").write_text("1,2")
    assert refusal(tmp_path / "data.xls").startswith(
        f"{tmp_path / 'data.xls'} is of no form that can be read as samples; give an .npz or .npy"
    )
