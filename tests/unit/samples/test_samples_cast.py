"""Number types: exact, or a float narrowed, or refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import NUMPY_TYPES, TensorSpec
from onnx_lowrank.samples.conform import cast, fit

NUMBERS = sorted(set(NUMPY_TYPES) - {"tensor(string)"})


def refusal(arrays, *inputs):
    with pytest.raises(DataError) as caught:
        fit(arrays, inputs, "cal.npz: sample #3")
    text = str(caught.value)
    assert "\n" not in text
    return text


def an_input(kind, shape=("N",)):
    return TensorSpec("x", f"tensor({kind})", shape)


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


@pytest.mark.parametrize(
    ("high", "want"), [(2**24, "float"), (2**11, "float16"), (2**53, "double"), (2**31 - 1, "int32"), (255, "uint8")]
)
def test_the_last_integer_that_is_held_exactly(high, want):
    assert int(cast(np.array([high], np.int64), an_input(want), "")[0]) == high


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
