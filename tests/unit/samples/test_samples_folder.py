"""Directories: a file a sample, labels in them or beside them."""

import numpy as np
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import folder as folder_module
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


# A file a sample


def test_files_of_any_width_are_fed_as_they_are(place):
    for i, width in enumerate((5, 9, 2)):
        np.savez(place / f"{i}.npz", x=line(width, i))
    samples = read("d", LINE)
    assert samples.source == "3 files in d/"
    assert [feed["x"].shape[-1] for feed in samples.feeds] == [5, 9, 2]
    assert samples.labels is None
    assert len(set(samples.hashes)) == 3


def test_npy_files_and_arrays_without_the_batch_axis(place):
    np.save(place / "a.npy", line(5))
    np.save(place / "b.npy", line(4)[0])
    assert [feed["x"].shape for feed in read("d", LINE).feeds] == [(1, 3, 5), (1, 3, 4)]


def test_suffixes_in_capitals_hidden_and_other_files(place):
    np.save(place / "a.npy", line(5))
    (place / "a.npy").rename(place / "A.NPY")
    (place / ".hidden.npz").write_text("no")
    (place / "README.md").write_text("no")
    (place / "meta.json").write_text("no")
    (place / "older").mkdir()
    (place / "test_data_set_notes.txt").write_text("no")
    assert read("d", LINE).source == "1 file in d/"


def test_a_directory_keeps_nothing_in_memory(place, monkeypatch):
    for i in range(3):
        np.savez(place / f"{i}.npz", x=line(5, i))
    opened = []
    real = folder_module.open_npz
    monkeypatch.setattr(folder_module, "open_npz", lambda path: opened.append(path.name) or real(path))
    samples = read("d", LINE)
    assert opened == ["0.npz", "1.npz", "2.npz"]
    assert samples.subset([2]).feeds[0]["x"][0, 0, 0] == 2.0
    assert opened[3:] == ["2.npz"]


def test_a_file_that_goes_away_later_is_told(place):
    np.savez(place / "0.npz", x=line(5))
    samples = read("d", LINE)
    (place / "0.npz").unlink()
    with pytest.raises(DataError, match=r"^d/0.npz cannot be read: No such file or directory; check the file$"):
        samples.feeds[0]


def test_errors_name_the_file(place):
    np.savez(place / "0.npz", x=line(5))
    np.savez(place / "1.npz", y=line(5))
    assert refusal(LINE).startswith("d/1.npz: nothing for the model's input 'x'; the keys given are 'y'")


def test_nan_names_the_first_file(place):
    for i in range(4):
        np.savez(place / f"{i}.npz", x=line(5, np.nan if i in (1, 3) else 0.0))
    assert (
        refusal(LINE)
        == "4 files in d/: 2 of 4 samples, first 1.npz, hold NaN in input 'x'; mend them or leave them out"
    )


def test_npy_for_a_model_of_two_inputs(place):
    np.save(place / "a.npy", np.zeros((1, 2)))
    assert refusal(PAIR) == "d/a.npy: an .npy holds one array, and the model takes 2 ('a', 'b'); save an .npz a sample"


def test_an_empty_directory(place):
    assert refusal(LINE).startswith("d holds no sample; every .npz or .npy in a directory is one,")


def test_only_labels_are_no_sample(place):
    np.save(place / "labels.npy", np.zeros(2))
    assert refusal(LINE).startswith("d holds no sample;")


def test_shards_for_a_fixed_batch_are_pointed_to_one_npz(place):
    np.savez(place / "shard0.npz", x=np.zeros((32, 2), np.float32))
    assert refusal((TensorSpec("x", "tensor(float)", (1, 2)),)) == (
        "d/shard0.npz: input 'x' takes [1, 2], and the sample's array is [32, 2];"
        " one sample has 1 on the first axis; many go into one .npz, along the leading axis"
    )


# Labels


def test_labels_in_the_files_lose_the_row_that_is_the_batch(place):
    for i in range(3):
        np.savez(place / f"{i}.npz", x=line(5, i), labels=np.array([i + 10]))
    labels = read("d", LINE).labels
    assert isinstance(labels, np.ndarray)
    assert labels.tolist() == [10, 11, 12]


def test_labels_of_different_lengths_stay_as_they_are(place):
    for i, length in enumerate((1, 3)):
        np.savez(place / f"{i}.npz", x=line(5, i), labels=np.arange(length))
    assert [label.tolist() for label in read("d", LINE).labels] == [[0], [0, 1, 2]]


def test_texts_as_labels(place):
    for i, text in enumerate(("one", "three")):
        np.savez(place / f"{i}.npz", x=line(5, i), labels=np.array([text]))
    assert list(read("d", LINE).labels) == ["one", "three"]


def test_labels_in_some_of_the_files(place):
    np.savez(place / "0.npz", x=line(5), labels=np.array([1]))
    np.savez(place / "1.npz", x=line(5))
    assert refusal(LINE) == "2 files in d/: only 1 of 2 samples has a label; label all of them or none"


def test_labels_beside_the_files(place):
    for i in range(12):
        np.save(place / f"{i:02}.npy", line(5, i))
    np.save(place / "labels.npy", np.arange(12) * 2)
    samples = read("d", LINE)
    assert samples.labels.tolist() == [int(2 * feed["x"][0, 0, 0]) for feed in samples.feeds]


def test_labels_beside_files_whose_order_is_open(place):
    for i in range(12):
        np.save(place / f"{i}.npy", line(5, i))
    assert len(read("d", LINE)) == 12
    np.save(place / "labels.npy", np.arange(12))
    assert refusal(LINE) == (
        "d/labels.npy: the files' order is ambiguous (sorted by name or by number?);"
        " pad the numbers with zeros, 0007.npz, or put 'labels' into each .npz"
    )


@pytest.mark.parametrize(("labels", "count"), [(np.arange(3), 3), (np.int64(7), 1)])
def test_labels_beside_the_files_of_another_number(place, labels, count):
    for i in range(2):
        np.save(place / f"{i}.npy", line(5, i))
    np.save(place / "labels.npy", labels)
    many = "1 label" if count == 1 else f"{count} labels"
    assert refusal(LINE) == f"d/labels.npy: {many} for 2 samples; give one label a file, in order of names"


def test_labels_in_two_places(place):
    np.savez(place / "0.npz", x=line(5), labels=np.array([1]))
    np.save(place / "labels.npy", np.arange(1))
    assert refusal(LINE) == "1 file in d/: labels both in the samples and beside them; leave one of the two out"
