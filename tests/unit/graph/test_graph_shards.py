"""Weights in files of their own: as many as asked for, and published so that a model never names another's weights."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, node, normal, run, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import model_io
from onnx_lowrank.graph.model_io import Apart, staged
from onnx_lowrank.runtime.runner import Runner


def of_widths(widths: list[int], seed: int = 0) -> onnx.ModelProto:
    """A chain of matrices from 8 inputs."""
    sizes = [8, *widths]
    names = ["x", *(f"h{i}" for i in range(1, len(widths))), "y"]
    shapes = list(itertools.pairwise(sizes))
    weights = {f"W{i}": normal(list(shape), seed + i).astype(np.float32) for i, shape in enumerate(shapes)}
    nodes = [node("MatMul", [names[i], f"W{i}"], [names[i + 1]]) for i in range(len(widths))]
    return build(nodes, [value("x", ["n", 8])], [value("y", ["n", widths[-1]])], weights)


def publish(model: onnx.ModelProto, target: Path, apart: Apart) -> list[str]:
    with staged(model, target, apart) as stage:
        stage.publish()
    return sorted(path.name for path in target.parent.iterdir())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(widths=st.lists(st.integers(1, 300), min_size=1, max_size=6), shard=st.none() | st.integers(1024, 200_000))
def test_every_division_is_the_same_model(tmp_path_factory: pytest.TempPathFactory, widths: list[int], shard: int):
    folder = tmp_path_factory.mktemp("shards")
    model = of_widths(widths)
    names = publish(model, folder / "m.onnx", Apart(always=True, shard=shard))
    again = model_io.load(folder / "m.onnx")
    assert model_io.content_hash(again) == model_io.content_hash(model)
    files = [name for name in names if name != "m.onnx"]
    largest = max(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert all((folder / name).stat().st_size <= max(shard or 2**40, largest) for name in files)
    if len(files) > 1:
        assert files == [f"m.onnx.data-{i:05}-of-{len(files):05}" for i in range(1, len(files) + 1)]
    else:
        assert files == ["m.onnx.data"]
    x = normal([2, 8], 9).astype(np.float32)
    np.testing.assert_array_equal(Runner(folder / "m.onnx").run({"x": x})["y"], run(model, {"x": x})["y"])


def test_a_small_model_is_one_file_unless_asked(tmp_path: Path):
    assert publish(of_widths([64]), tmp_path / "m.onnx", Apart()) == ["m.onnx"]


@pytest.mark.parametrize("first", [Apart(always=True), Apart(shard=20_000), Apart()])
@pytest.mark.parametrize("second", [Apart(always=True), Apart(shard=20_000), Apart()])
@pytest.mark.parametrize("step", range(8))
def test_an_interrupt_leaves_the_old_model_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: Apart, second: Apart, step: int
):
    old, new, target = of_widths([64, 64, 64]), of_widths([64, 64, 64], seed=5), tmp_path / "m.onnx"
    publish(old, target, first)
    left = [step]

    def stopping(function: object) -> object:
        def called(*given: object, **named: object) -> object:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return function(*given, **named)  # type: ignore[operator]

        return called

    monkeypatch.setattr(os, "replace", stopping(os.replace))
    monkeypatch.setattr(Path, "unlink", stopping(Path.unlink))
    try:
        publish(new, target, second)
        finished = True
    except KeyboardInterrupt:
        finished = False
    monkeypatch.undo()
    found = model_io.content_hash(model_io.load(target))
    assert found in {model_io.content_hash(old), model_io.content_hash(new)}
    if finished:
        assert found == model_io.content_hash(new)
        named = {path.name for path in model_io.model_files(target)}
        assert {path.name for path in tmp_path.iterdir()} == named  # the old weights are gone


def test_weights_that_another_model_names_stay(tmp_path: Path):
    """Nor are files taken that are called alike."""
    publish(of_widths([64, 64]), tmp_path / "m.onnx", Apart(always=True))
    (tmp_path / "m.onnx").rename(tmp_path / "kept.onnx")
    (tmp_path / "m.onnx.2.data-mine").write_bytes(b"mine")
    expected = model_io.content_hash(model_io.load(tmp_path / "kept.onnx"))
    names = publish(of_widths([64, 64], seed=3), tmp_path / "m.onnx", Apart(always=True))
    assert names == ["kept.onnx", "m.onnx", "m.onnx.2.data-mine", "m.onnx.3.data", "m.onnx.data"]
    assert model_io.content_hash(model_io.load(tmp_path / "kept.onnx")) == expected
    assert (tmp_path / "m.onnx.2.data-mine").read_bytes() == b"mine"


def test_inputs_stay_even_where_they_are_replaced(tmp_path: Path):
    publish(of_widths([64, 64]), tmp_path / "m.onnx", Apart(always=True))
    with staged(of_widths([64, 64], seed=3), tmp_path / "m.onnx", Apart(always=True)) as stage:
        with pytest.raises(ModelError, match="never overwritten"):
            stage.publish(model_io.model_files(tmp_path / "m.onnx"))
        stage.publish([tmp_path / "m.onnx.data"])
    assert (tmp_path / "m.onnx.data").is_file()


def test_numbers_in_words_go_apart_too(tmp_path: Path):
    model = of_widths([64, 64])
    array = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("W0", 1, array.shape, array.ravel().tolist()))
    assert publish(model, tmp_path / "m.onnx", Apart(shard=4000)) == [
        *("m.onnx", "m.onnx.data-00001-of-00002", "m.onnx.data-00002-of-00002"),
    ]
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0]), array)
