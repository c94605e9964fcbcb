"""READERS is the one list of readers: the manual, --help and the errors follow it, and no source has two readers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from onnx_lowrank.cli import main
from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import RANDOM, READERS, Reader, detect, place_of, read
from onnx_lowrank.samples.records import Raw, Record

MANUAL = Path(__file__).resolve().parents[3] / "docs" / "samples.md"
INPUTS = (TensorSpec("x", "tensor(float)", ("N", 2)),)
WORDS = re.compile(r"\.\w+|test_data_set_\*|FILE\.py\S*|Calibration\w+")
"""What a form names: suffixes, patterns of names, classes."""


def said_by_the_manual():
    section = MANUAL.read_text(encoding="utf-8").split("\n## Samples\n")[1].split("\n\nThree disjoint sets")[0]
    return " ".join(re.findall(r"`([^`]+)`", section))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_the_manual_names_every_form(reader):
    words = WORDS.findall(reader.form)
    assert words
    assert not [word for word in words if word not in said_by_the_manual()]


def test_the_manual_names_no_other_suffix():
    forms = " ".join(reader.form for reader in READERS) + " input_*.pb"
    assert set(re.findall(r"\.\w+", said_by_the_manual())) <= set(re.findall(r"\.\w+", forms))


@pytest.mark.parametrize("command", ["optimize", "compare"])
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_help_names_every_form_that_is_a_path(command, reader):
    text = next(option.help for option in main.commands[command].params if option.name == "data")
    assert (reader.form in text) == reader.is_path


def sources(folder):
    np.savez(folder / "a.npz", x=np.zeros((2, 2)))
    np.save(folder / "a.npy", np.zeros((2, 2)))
    (folder / "a.json").write_text("[]")
    return [
        (folder / "a.npz", "numpy"),
        (str(folder / "a.npy"), "numpy"),
        (folder, "folder"),
        (str(folder / "a.json"), "polygraphy"),
        (folder / "a.py", "script"),
        ("nowhere/a.py:load", "script"),
        ([], "python"),
        ({}, "python"),
        (np.zeros(2), "python"),
        ("nowhere.npz", None),
        (folder / "nowhere.json", None),
        ("", None),
        (3, None),
        (RANDOM, None),
    ]


def test_a_source_has_one_reader_whatever_their_order(tmp_path):
    for source, name in sources(tmp_path):
        takers = [reader.name for reader in READERS if reader.takes(source)]
        assert takers == ([] if name is None else [name])


@pytest.mark.parametrize(
    ("source", "place"), [("a.py:load", "a.py"), ("a.py", "a.py"), ("a.npz", "a.npz"), ("nowhere", "nowhere")]
)
def test_what_must_not_be_written_over_is_the_file_and_not_the_text(source, place):
    assert place_of(source) == Path(place)


def toy(source, inputs):
    return Raw("toy", [Record({inputs[0].name: np.full((1, 2), float(word))}) for word in source.split(":")[1:]])


TOY = Reader(name="toy", form="toy:NUMBER:…", takes=lambda source: str(source).startswith("toy:"), read=toy)


def test_a_reader_is_an_entry_of_the_tuple(monkeypatch):
    with pytest.raises(DataError, match=r"^toy:1:2: no such file or directory"):
        read("toy:1:2", INPUTS)
    monkeypatch.setattr(detect, "READERS", (TOY, *READERS))
    assert [feed["x"].tolist() for feed in read("toy:1:2", INPUTS).feeds] == [[[1, 1]], [[2, 2]]]
    with pytest.raises(DataError, match=r"give toy:NUMBER:…, an .npz or .npy"):
        read("nowhere", INPUTS)
