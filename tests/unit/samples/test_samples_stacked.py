"""Arrays that hold all samples on their leading axis."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import read


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


# The leading axis


@pytest.mark.parametrize("first", [1, "N", None])
def test_rows_are_samples(write, first):
    x = ramp(5, 3)
    samples = read(write(x=x, labels=np.arange(5)), [model(first, 3)])
    assert [feed["x"].shape for feed in samples.feeds] == [(1, 3)] * 5
    assert np.array_equal(np.concatenate([feed["x"] for feed in samples.feeds]), x)
    assert samples.labels.tolist() == [0, 1, 2, 3, 4]
    assert samples.source == "cal.npz"
    assert samples.notes == ()


def test_one_axis_more_holds_samples_that_are_fed_as_they_are(write):
    pairs = ramp(4, 2, 7, kind=np.int64)
    samples = read(write(ids=pairs), [model("N", "T", name="ids", kind="int64")])
    assert len(samples) == 4
    assert np.array_equal(samples.feeds[2]["ids"], pairs[2])


def test_a_fixed_batch_takes_its_rows_together_and_the_labels_with_them(write):
    x = ramp(11, 2)
    samples = read(write(x=x, labels=np.arange(11)), [model(4, 2)])
    assert [feed["x"].shape for feed in samples.feeds] == [(4, 2)] * 2
    assert np.array_equal(samples.feeds[1]["x"], x[4:8])
    assert samples.labels.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert samples.notes == ("cal.npz: the last 3 of 11 rows are left out, the model takes 4 at a time",)


def test_a_fixed_batch_with_full_batches_says_nothing(write):
    assert read(write(x=ramp(8, 2)), [model(4, 2)]).notes == ()


def test_a_batch_of_two_leaves_one_row_out(write):
    assert read(write(x=ramp(5, 3)), [model(2, 3)]).notes == (
        "cal.npz: the last of 5 rows is left out, the model takes 2 at a time",
    )


def test_a_label_a_batch_is_kept(write):
    assert read(write(x=ramp(8, 2), labels=np.array([5, 6])), [model(4, 2)]).labels.tolist() == [5, 6]


def test_labels_in_a_list_fall_into_batches_too():
    samples = read({"x": ramp(4, 2), "labels": ["a", "b", "c", "d"]}, [model(2, 2)])
    assert samples.labels == [["a", "b"], ["c", "d"]]


def test_too_few_rows_for_a_fixed_batch(write):
    assert refusal(write(x=ramp(3, 2)), model(4, 2)) == (
        "cal.npz: 3 rows, and the model takes 4 at a time; give at least 4"
    )


def test_scalar_inputs_take_one_value_for_all_or_one_a_sample(write):
    inputs = [model("N", 2), model(name="rate", kind="int64"), model(name="gain")]
    samples = read(write(x=ramp(3, 2), rate=np.int64(16000), gain=ramp(3)), inputs)
    assert [int(feed["rate"]) for feed in samples.feeds] == [16000] * 3
    assert [feed["gain"].shape for feed in samples.feeds] == [()] * 3
    assert [float(feed["gain"]) for feed in samples.feeds] == [0.0, 1.0, 2.0]


def test_a_scalar_alone_is_one_sample():
    assert len(read({"x": np.float32(3)}, [model()])) == 1


def test_an_input_of_unknown_rank_has_its_samples_as_rows():
    assert read({"x": ramp(3, 2, 2)}, [model()]).feeds[0]["x"].shape == (1, 2, 2)


def test_an_input_of_rank_one(write):
    samples = read(write(x=ramp(3), roi=ramp(3, 4)), [model("N"), model(4, name="roi")])
    assert samples.feeds[1]["x"].tolist() == [1.0]
    assert samples.feeds[1]["roi"].tolist() == [4.0, 5.0, 6.0, 7.0]


def test_inputs_disagree_in_number(write):
    assert refusal(write(x=ramp(5, 2), mask=ramp(4, 2)), model("N", 2), model("N", 2, name="mask")) == (
        "cal.npz: its inputs hold different numbers of samples ('x' 5, 'mask' 4); give as many of each"
    )


@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 4, 5)])
def test_a_rank_that_falls_into_no_samples(write, shape):
    assert refusal(write(x=ramp(*shape)), model("N", 3)) == (
        f"cal.npz: input 'x' takes [N, 3], and the array is {list(shape)};"
        " give 2 axes, samples along the first, or 3, one for the samples and then the model's"
    )


def test_a_wrong_size_names_the_first_sample(write):
    assert refusal(write(x=ramp(5, 2)), model("N", 3)).startswith(
        "cal.npz: sample #0: input 'x' takes [N, 3], and the sample's array is [1, 2];"
    )


def test_no_sample(write):
    assert refusal(write(x=ramp(0, 3)), model("N", 3)) == "cal.npz: no sample in it; give at least one"


def test_wrong_names(write):
    assert refusal(write(X=ramp(2, 3)), model("N", 3)).startswith(
        "cal.npz: nothing for the model's input 'x'; the keys given are 'X' (did you mean 'X'?)"
    )


def test_labels_of_the_wrong_length(write):
    assert refusal(write(x=ramp(5, 3), labels=np.arange(4)), model("N", 3)) == (
        "cal.npz: 4 labels for 5 samples; give one label a sample"
    )


def test_a_single_value_as_labels(write):
    assert refusal(write(x=ramp(1, 3), labels=np.int64(4)), model("N", 3)) == (
        "cal.npz: 'labels' is a single value; give one label a sample, along the leading axis"
    )


def test_an_input_may_be_called_labels(write):
    samples = read(write(labels=ramp(2, 3)), [model("N", 3, name="labels")])
    assert samples.labels is None
    assert len(samples) == 2


@given(st.integers(1, 7), st.integers(1, 4), st.booleans())
def test_every_row_is_in_one_sample_in_order(count, rows, extra_axis):
    x = ramp(count, rows, 2) if extra_axis else ramp(count * rows, 2)
    samples = read({"x": x}, [model(rows, 2)])
    assert len(samples) == count
    assert np.array_equal(np.concatenate([feed["x"] for feed in samples.feeds]), x.reshape(-1, 2))
