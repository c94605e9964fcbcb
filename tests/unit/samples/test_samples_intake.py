"""The pass over a set: NaN, hashes, labels, notes, progress, and a model that runs what comes out."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_lowrank.errors import DataError
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner, TensorSpec
from onnx_lowrank.samples import random_samples, read
from onnx_lowrank.samples.intake import content_hash

INPUTS = (TensorSpec("x", "tensor(float)", ("N", 2)),)


def refusal(arrays):
    with pytest.raises(DataError) as caught:
        read(arrays, INPUTS)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({17: np.nan, 20: np.nan, 30: np.nan}, "3 of 40 samples, first #17, hold NaN in input 'x'"),
        ({5: np.inf}, "1 of 40 samples, #5, holds Inf in input 'x'"),
        ({5: -np.inf, 7: np.nan}, "2 of 40 samples, first #5, hold NaN and Inf in input 'x'"),
    ],
)
def test_nan_and_inf_are_counted(bad, said):
    x = np.zeros((40, 2))
    for index, value in bad.items():
        x[index, 1] = value
    assert refusal({"x": x}) == f"the dict given: {said}; mend them or leave them out"


def test_labels_that_are_not_finite():
    assert refusal({"x": np.zeros((3, 2)), "labels": np.array([0.0, np.nan, 1.0])}) == (
        "the dict given: 1 of 3 samples, #1, holds NaN or Inf as label; mend them or leave the samples out"
    )


def test_labels_beside_a_file_are_searched_too():
    feed = {"x": np.zeros((1, 2))}
    assert "2 of 2 samples, first #0, hold NaN or Inf as label" in refusal([(feed, np.inf), (feed, [np.nan][0])])


def test_integers_given_as_floats_are_said():
    samples = read({"x": np.zeros((3, 2), np.uint8)}, INPUTS)
    assert samples.notes == ("the dict given: input 'x' holds uint8, given to the model as float32 without scaling",)
    assert samples.feeds[0]["x"].dtype == np.float32


def test_integers_given_as_floats_are_said_of_one_sample_too():
    assert len(read({"x": np.zeros((1, 2), np.int64)}, INPUTS).notes) == 1


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.bool_])
def test_other_conversions_are_silent(kind):
    assert read({"x": np.zeros((3, 2), kind)}, INPUTS).notes == ()


def test_progress_is_told_sample_by_sample():
    told = []
    read({"x": np.zeros((3, 2))}, INPUTS, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


# Hashes


def test_hashes_are_of_content_as_the_model_sees_it(tmp_path):
    x = np.arange(6, dtype=np.float64).reshape(3, 2)
    np.savez(tmp_path / "a.npz", x=x, labels=np.arange(3))
    wide = read(tmp_path / "a.npz", INPUTS)
    narrow = read([{"x": row.astype(np.float32)} for row in x], INPUTS)
    assert wide.hashes == narrow.hashes
    assert len(set(wide.hashes)) == 3


def test_hashes_know_names_types_and_shapes():
    zeros = np.zeros(4, np.int32)
    feeds = [
        {"x": zeros},
        {"y": zeros},
        {"x": zeros.view(np.float32)},
        {"x": zeros.reshape(2, 2)},
        {"x": zeros[:2], "y": zeros[:2]},
        {"x": np.array(["ab", "c"])},
        {"x": np.array(["a", "bc"])},
    ]
    assert len({content_hash(feed) for feed in feeds}) == len(feeds)


def test_hashes_do_not_know_order_layout_or_the_width_of_text():
    x = np.arange(6).reshape(2, 3)
    assert content_hash({"x": x, "y": x}) == content_hash({"y": x, "x": np.asfortranarray(x)})
    assert content_hash({"x": np.array(["a"])}) == content_hash({"x": np.array(["a", "long"])[:1]})


@given(hnp.arrays(st.sampled_from(["f2", "f4", "i8", "?"]), hnp.array_shapes(min_dims=0, min_side=0)), st.data())
def test_one_changed_bit_changes_the_hash(array, data):
    other = array.copy()
    assert content_hash({"x": other}) == content_hash({"x": array})
    if array.size:
        place = data.draw(st.integers(0, array.nbytes - 1))
        other.reshape(-1).view(np.uint8)[place] ^= 1
        assert content_hash({"x": other}) != content_hash({"x": array})


# Ready to run


def test_onnxruntime_runs_what_comes_out(tmp_path):
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Mul", ["x", "gain"], ["y"]),
            onnx.helper.make_node("Cast", ["n"], ["m"], to=kind.FLOAT),
            onnx.helper.make_node("Identity", ["text"], ["said"]),
        ],
        "g",
        [
            value("x", kind.FLOAT, [1, 3]),
            value("gain", kind.FLOAT, []),
            value("n", kind.INT64, ["N", "T"]),
            value("text", kind.STRING, ["N"]),
        ],
        [value("y", kind.FLOAT, [1, 3]), value("m", kind.FLOAT, ["N", "T"]), value("said", kind.STRING, ["N"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    runner = Runner(model, runtime=Runtime(provider="cpu", threads=1))
    x = np.arange(12).reshape(4, 3) / 2
    np.savez(
        tmp_path / "a.npz", x=x, gain=2.0, n=np.arange(8, dtype=np.int32).reshape(4, 2), text=np.array(list("abcd"))
    )
    samples = read(tmp_path / "a.npz", runner.inputs)
    outputs = [runner.run(feed) for feed in samples.feeds]
    assert np.array_equal(np.concatenate([output["y"] for output in outputs]), x * 2)
    assert [output["said"].tolist() for output in outputs] == [["a"], ["b"], ["c"], ["d"]]
    assert [output["m"].shape for output in outputs] == [(1, 2)] * 4
    for feed in random_samples(runner.inputs, 2, seed=0).feeds:
        assert runner.run(feed)["y"].shape == (1, 3)
