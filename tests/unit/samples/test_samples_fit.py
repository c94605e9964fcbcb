"""One sample against the model: names, types, shapes."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime import NUMPY_TYPES, TensorSpec
from onnx_lowrank.samples.fit import cast, check_inputs, fit, listed, shape_text

IMAGE = TensorSpec("image", "tensor(float)", ("N", 3, 4, None))
TOKENS = TensorSpec("input_ids", "tensor(int64)", ("N", "T"))
NUMBERS = sorted(set(NUMPY_TYPES) - {"tensor(string)"})


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
    assert listed([f"n{i}" for i in range(11)]).endswith("'n7' and 3 more")


# Types


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ("float64", "float"),
        ("float64", "float16"),
        ("float16", "float"),
        ("float32", "double"),
        ("int32", "int64"),
        ("int64", "int32"),
        ("int64", "uint8"),
        ("uint8", "float"),
        ("int64", "float"),
        ("bool", "float"),
        ("bool", "int64"),
        ("int64", "bool"),
    ],
)
def test_types_that_hold_the_values(have, want):
    spec = an_input(want)
    array = cast(np.array([0, 1, 1], have), spec, "")
    assert array.dtype == spec.dtype
    assert array.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("have", "want", "name"), [("float32", "int64", "int64"), ("float64", "bool", "bool")])
def test_floats_never_become_integers(have, want, name):
    assert refusal({"x": np.ones(2, have)}, an_input(want)) == (
        f"cal.npz: sample #3: input 'x' takes {name}, and the data are {have}; save them as {name}"
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([1 + 2j]), "the data are complex128"),
        (np.array(["a"]), "the data are text"),
        (np.array([b"a"]), "the data are bytes"),
        (np.array([None, 1], object), "the data are Python objects"),
        (np.zeros(2, "V2"), "the data are of a type numpy lacks (|V2)"),
    ],
)
def test_what_is_no_number_is_named(values, said):
    assert f"input 'x' takes float32, and {said}; save them as float32" in refusal({"x": values}, an_input("float"))


@pytest.mark.parametrize(
    ("values", "want", "name"),
    [
        ([-1, 5], "uint8", "uint8"),
        ([0, 256], "uint8", "uint8"),
        ([-1, 2], "uint64", "uint64"),
        ([0, 2**40], "int32", "int32"),
        ([0, 2], "bool", "bool"),
        ([0, 2**24 + 2], "float", "float32"),
        ([-(2**11) - 1, 0], "float16", "float16"),
        ([0, 2**53 + 1], "double", "float64"),
    ],
)
def test_integers_beyond_the_type_are_refused_with_their_range(values, want, name):
    text = refusal({"x": np.array(values, np.int64)}, an_input(want))
    assert f"input 'x' takes {name}, and the int64 values given reach from {values[0]} to {values[1]}" in text
    assert f"more than {name} holds exactly" in text


def test_no_integer_at_all_fits_any_type():
    assert cast(np.zeros(0, np.int64), an_input("uint8"), "").dtype == np.uint8


def test_floats_beyond_the_type_are_refused_not_made_infinite():
    assert "input 'x' takes float16, and the float32 values given reach 1e+05, beyond its range" in refusal(
        {"x": np.array([1e5, np.inf], np.float32)}, an_input("float16")
    )


@pytest.mark.parametrize("text", [np.array(["a", "bcd"]), np.array(["a", "bcd"], object)])
def test_text_goes_to_text_inputs(text):
    array = cast(text, an_input("string"), "")
    assert array.dtype.kind == "U"
    assert array.tolist() == ["a", "bcd"]


@pytest.mark.parametrize(("values", "said"), [([1, 2], "int64"), ([b"a"], "bytes"), (["a", None], "Python objects")])
def test_text_inputs_take_only_text(values, said):
    text = refusal({"x": np.array(values)}, an_input("string"))
    assert f"input 'x' takes text, and the data are {said}; give an array of str" in text


def test_ragged_lists_are_no_array():
    text = refusal({"x": [[1, 2], [3]]}, an_input("float"))
    assert text.startswith("cal.npz: sample #3: 'x' is not an array: ")
    assert text.endswith("; give a numpy array")


class Stubborn:
    """As a torch tensor that requires grad."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


def test_tensors_that_refuse_to_be_arrays_are_told():
    assert "'x' is not an array: Can't call numpy() on Tensor that requires grad." in refusal(
        {"x": Stubborn()}, an_input("float")
    )


@given(
    hnp.arrays(st.sampled_from(["i1", "u1", "i4", "i8", "u8", "?", "f2", "f4", "f8"]), st.integers(0, 4)),
    st.sampled_from(NUMBERS),
)
def test_a_cast_changes_no_value_or_is_refused(array, kind):
    spec = TensorSpec("x", kind, ("N",))
    try:
        made = cast(array, spec, "")
    except DataError:
        return
    assert made.dtype == spec.dtype
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(made, array.astype(spec.dtype))
        assert np.array_equal(np.isfinite(made), np.isfinite(array))
    else:
        assert [int(value) for value in made] == [int(value) for value in array]


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
