"""One sample against the model: names and shapes."""

import re

import numpy as np
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.conform import check_inputs, fit, listed, shape_text

IMAGE = TensorSpec("image", "tensor(float)", ("N", 3, 4, None))
TOKENS = TensorSpec("input_ids", "tensor(int64)", ("N", "T"))


def refusal(arrays, *inputs):
    with pytest.raises(DataError) as caught:
        fit(arrays, inputs, "cal.npz: sample #3")
    text = str(caught.value)
    assert "\n" not in text
    return text


def an_input(kind, shape=("N",)):
    return TensorSpec("x", f"tensor({kind})", shape)


def test_a_ready_sample_passes_as_it_is():
    array = np.ones((1, 3, 4, 9), np.float32)
    assert fit({"image": array}, [IMAGE], "")["image"] is array


def test_the_feed_has_the_order_of_the_inputs_and_contiguous_arrays():
    feed = fit(
        {"input_ids": np.ones((9, 1), np.int64).T, "image": np.ones((1, 3, 4, 2), np.float32)}, [IMAGE, TOKENS], ""
    )
    assert list(feed) == ["image", "input_ids"]
    assert feed["input_ids"].flags.c_contiguous


def test_plain_lists_are_arrays():
    assert fit({"input_ids": [[1, 2, 3]]}, [TOKENS], "")["input_ids"].dtype == np.int64


def test_other_byte_order_becomes_native():
    feed = fit({"x": np.array([1.5, 2.5], ">f4")}, [an_input("float")], "")
    assert feed["x"].dtype.isnative
    assert feed["x"].tolist() == [1.5, 2.5]


# Names


def test_a_missing_input_is_named_with_the_nearest_key():
    assert refusal({"Image": 1, "labls": 2}, IMAGE) == (
        "cal.npz: sample #3: nothing for the model's input 'image'; the keys given are 'Image', 'labls'"
        " (did you mean 'Image'?); name each array after its input"
    )


def test_a_missing_input_with_no_near_key():
    text = refusal({"input_ids": 1}, TOKENS, IMAGE)
    assert "nothing for the model's input 'image'; the keys given are 'input_ids'; name" in text


def test_an_empty_sample_says_that_no_key_was_given():
    assert "the keys given are none; name" in refusal({}, IMAGE)


def test_an_unknown_key_is_named_with_the_inputs():
    assert refusal({"image": 1, "label": 2}, IMAGE) == (
        "cal.npz: sample #3: 'label' is not an input of the model, which takes 'image'"
        " (did you mean 'labels'?); rename it or leave it out"
    )


def test_long_lists_are_cut():
    assert listed([f"n{i}" for i in range(9)]).endswith("'n7' and 1 more")
    assert listed([f"n{i}" for i in range(8)]).endswith("'n6', 'n7'")


# Shapes


@pytest.mark.parametrize("shape", [(1, 3, 4, 9), (7, 3, 4, 0)])
def test_free_dimensions_take_any_size(shape):
    assert fit({"image": np.zeros(shape, np.float32)}, [IMAGE], "")["image"].shape == shape


@pytest.mark.parametrize("first", ["N", None, 1, -1])
def test_the_batch_axis_is_added_where_only_it_is_missing(first):
    spec = an_input("float", (first, 3))
    assert fit({"x": np.zeros(3, np.float32)}, [spec], "")["x"].shape == (1, 3)


def test_a_number_is_a_batch_of_one_for_an_input_of_rank_one():
    assert fit({"x": 16000}, [an_input("int64", (1,))], "")["x"].tolist() == [16000]


def test_a_scalar_input_and_one_of_unknown_rank_take_any_shape():
    spec = an_input("float", ())
    assert fit({"x": np.float32(2)}, [spec], "")["x"].shape == ()
    assert isinstance(fit({"x": np.float32(2)}, [spec], "")["x"], np.ndarray)
    assert fit({"x": np.zeros((2, 3), np.float32)}, [spec], "")["x"].shape == (2, 3)


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 5, 9), (1, 1, 3, 4, 9), (5, 4, 9), ()])
def test_wrong_shapes_name_both(shape):
    assert refusal({"image": np.zeros(shape, np.float32)}, IMAGE) == (
        f"cal.npz: sample #3: input 'image' takes [N, 3, 4, ?], and the sample's array is {list(shape)};"
        " give every sample the model's shape"
    )


def test_no_batch_axis_is_invented_for_a_fixed_batch():
    assert "takes [8, 3], and the sample's array is [3]" in refusal({"x": np.zeros(3, "f4")}, an_input("float", (8, 3)))


def test_many_rows_where_one_is_due_point_to_the_npz():
    assert refusal({"x": np.zeros((32, 3), "f4")}, an_input("float", (1, 3))).endswith(
        "input 'x' takes [1, 3], and the sample's array is [32, 3];"
        " one sample has 1 on the first axis; many go into one .npz, along the leading axis"
    )


def test_rows_that_are_wrong_as_well_are_not_pointed_there():
    assert refusal({"x": np.zeros((32, 4), "f4")}, an_input("float", (1, 3))).endswith(
        "give every sample the model's shape"
    )


def test_shape_text():
    assert shape_text(TensorSpec("x", "", ("batch", 3, None))) == "[batch, 3, ?]"


# Models


def test_a_model_that_takes_nothing():
    with pytest.raises(DataError, match=r"^the model has no input, so no data can be given to it"):
        check_inputs([])


@pytest.mark.parametrize("kind", ["tensor(bfloat16)", "seq(tensor(float))"])
def test_a_model_whose_inputs_numpy_cannot_hold(kind):
    with pytest.raises(DataError, match=re.escape(f"the model's input 'x' is {kind}, which numpy cannot hold; export")):
        check_inputs([TensorSpec("x", kind, ("N",))])


def test_a_sample_for_a_type_numpy_lacks():
    with pytest.raises(DataError, match=r"input 'x' is tensor\(bfloat16\), which numpy cannot hold"):
        fit({"x": [1]}, [an_input("bfloat16")], "")
