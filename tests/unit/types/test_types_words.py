"""Numbers go with the right form of their nouns and verbs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import build, node, value, weight

from onnx_lowrank import DataError, inspect
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import read
from onnx_lowrank.samples.formats.features import FeatureFormat
from onnx_lowrank.types.words import counted, verb

SPECS = [TensorSpec("x", "tensor(float)", ("n", 2))]


def test_words():
    assert [counted(n, "weight") for n in (0, 1, 2000)] == ["0 weights", "1 weight", "2,000 weights"]
    assert [counted(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]
    assert [verb(n, "holds", "hold") for n in (0, 1, 2)] == ["hold", "holds", "hold"]


def test_one_weight_holds():
    weights = {"W": weight((32, 64), 1).astype(np.float32)}
    model = build([node("MatMul", ["x", "W"], ["y"])], [value("x", ["n", 32])], [value("y", ["n", 64])], weights)
    found = inspect(model)
    for text in (repr(found), found._repr_html_()):
        assert "1 factorable weight holds 100.0% of 2,048 parameters" in text
    assert "2 factorable weights hold" in repr(replace(found, rows=found.rows * 2))


def test_one_label():
    with pytest.raises(DataError, match="1 label for 2 samples; give one label a sample"):
        read({"x": np.zeros((2, 2), np.float32), "labels": np.zeros(1)}, SPECS)


def test_one_column_and_one_name():
    form = FeatureFormat()
    with pytest.raises(DataError, match=r"takes \[n, 2\], and there is 1 column \('a'\): name those that count"):
        form.fitted(SPECS, ["a"], "t.csv")
    wide = [TensorSpec("x", "tensor(float)", ("n", 1))]
    assert form.fitted(wide, ["a"], "t.csv").notes == ("t.csv: 1 column is input 'x'; nothing is scaled",)
