"""Labels that are names in arrays, batches and folders: numbered by a file of classes, or one line that asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_lowrank import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import NamedLabels, read

NAMES = ("cat", "ant", "dog", "cow")
SPECS = [TensorSpec("x", "tensor(float)", ("n", 2))]
X = np.arange(8, dtype=np.float32).reshape(4, 2)
LABELS = ["dog", "cat", "cow", "ant"]
WANTED = [2, 0, 3, 1]


def as_arrays(place: Path) -> Any:
    return {"x": X, "labels": np.array(LABELS)}


def as_bytes(place: Path) -> Any:
    return {"x": X, "labels": np.array(LABELS, "S")}


def as_list(place: Path) -> Any:
    return {"x": X, "labels": LABELS}


def as_pairs(place: Path) -> Any:
    return [({"x": row[np.newaxis]}, label) for row, label in zip(X, LABELS, strict=True)]


def as_batches(place: Path) -> Any:
    return [({"x": X[i : i + 2]}, np.array(LABELS[i : i + 2])) for i in (0, 2)]


def as_npz(place: Path) -> Any:
    np.savez(place / "a.npz", **as_arrays(place))
    return str(place / "a.npz")


def as_npz_folder(place: Path) -> Any:
    for i, label in enumerate(LABELS):
        np.savez(place / f"{i}.npz", x=X[i : i + 1], labels=np.array(label))
    return place


def as_npy_folder(place: Path) -> Any:
    for i, row in enumerate(X):
        np.save(place / f"{i}.npy", row)
    np.save(place / "labels.npy", np.array(LABELS))
    return place


FORMS = [as_arrays, as_bytes, as_list, as_pairs, as_batches, as_npz, as_npz_folder, as_npy_folder]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_names_are_numbered_in_every_form(form: Any, tmp_path: Path):
    (tmp_path / "in").mkdir()
    file = tmp_path / "classes.txt"
    file.write_text("\n".join(NAMES))
    source = form(tmp_path / "in")
    for classes in (NAMES, file):
        samples = read(NamedLabels(source=source, classes=classes), SPECS)
        assert np.asarray(samples.labels).tolist() == WANTED
        assert np.asarray(samples.labels).dtype.kind == "i"
    with pytest.raises(DataError) as caught:
        read(NamedLabels(source=source, classes=("cat", "ants", "dog", "cow")), SPECS)
    assert "class 'ant' is not in the classes given (did you mean 'ants'?); add it there" in str(caught.value)
    assert "3" in str(caught.value).split(": class")[0] or form is as_npz_folder
    assert "\n" not in str(caught.value)


def test_one_name_a_position_and_no_labels_and_numbers():
    rows = {"x": X, "labels": np.array([["cat", "dog"]] * 4)}
    assert np.asarray(read(NamedLabels(source=rows, classes=NAMES), SPECS).labels).tolist() == [[0, 2]] * 4
    assert read(NamedLabels(source={"x": X}, classes=NAMES), SPECS).labels is None
    numbers = read(NamedLabels(source={"x": X, "labels": np.arange(4)}, classes=NAMES), SPECS)
    assert np.asarray(numbers.labels).tolist() == [0, 1, 2, 3]
    assert any("labels are numbers, and stay as they are" in note for note in numbers.notes)
