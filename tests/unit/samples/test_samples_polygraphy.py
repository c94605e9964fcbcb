"""JSON as `polygraphy run --save-inputs` writes it (encoder: polygraphy/json/serde.py, 0.53)."""

import base64
import io
import json

import numpy as np
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import read

INPUTS = (TensorSpec("x", "tensor(float)", ("N", 2)),)
# What polygraphy 0.53.6 wrote for [{"x": numpy.array([[1.5, -2.0]], dtype=numpy.float32)}]: kept word for word.
WRITTEN = """[
    {
        "x": {
            "array": "k05VTVBZAQB2AHsnZGVzY3InOiAnPGY0JywgJ2ZvcnRyYW5fb3JkZXInOiBGYWxzZSwgJ3NoYXBlJzogKDEsIDIpLCB9ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoAAMA/AAAAwA==",
            "polygraphy_class": "ndarray"
        }
    }
]"""  # noqa: E501


def encoded(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return base64.b64encode(file.getvalue()).decode()


def current(array):
    return {"array": encoded(array), "polygraphy_class": "ndarray"}


def older(array):
    return {"array": encoded(array), "__polygraphy_encoded_ndarray": "polygraphy_serialized_json_type"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def dump(content, name="in.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return name

    return dump


def refusal(source):
    with pytest.raises(DataError) as caught:
        read(source, INPUTS)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_polygraphy_wrote(write):
    samples = read(write(WRITTEN), INPUTS)
    assert [feed["x"].tolist() for feed in samples.feeds] == [[[1.5, -2.0]]]
    assert samples.source == "in.json"


@pytest.mark.parametrize("form", [current, older, np.ndarray.tolist])
def test_every_form_of_an_array(write, form):
    arrays = [np.array([[i, i + 0.5]], np.float32) for i in range(3)]
    samples = read(write([{"x": form(array)} for array in arrays]), INPUTS)
    assert [feed["x"].tolist() for feed in samples.feeds] == [array.tolist() for array in arrays]


def test_one_dict_is_one_sample(write):
    assert len(read(write({"x": current(np.ones((1, 2)))}), INPUTS)) == 1


def test_labels_in_the_samples(write):
    assert read(write([{"x": [[1, 2]], "labels": 4}, {"x": [[1, 2]], "labels": 5}]), INPUTS).labels.tolist() == [4, 5]


def test_a_directory_of_files_of_one_sample(write):
    write({"x": current(np.ones((1, 2)))}, "d/0000000000.json")
    write([{"x": current(np.zeros((1, 2)))}], "d/0000000001.json")
    samples = read("d", INPUTS)
    assert [feed["x"].tolist() for feed in samples.feeds] == [[[1, 1]], [[0, 0]]]
    assert samples.source == "2 files in d/"


def test_a_directory_with_a_file_of_more_samples(write):
    write([{"x": [[1, 2]]}, {"x": [[1, 2]]}], "d/0.json")
    assert refusal("d") == "d/0.json holds 2 samples, and in a directory every file is one; give the file itself"


def test_outputs_are_not_inputs(write):
    content = {"lst": [["runner", []]], "polygraphy_class": "RunResults"}
    assert refusal(write(content)) == (
        "in.json holds a RunResults of Polygraphy, and only inputs as numpy arrays can be read here;"
        " give what polygraphy run --save-inputs writes"
    )


def test_a_tensor_of_torch(write):
    assert "holds a Tensor of Polygraphy" in refusal(write([{"x": {"tensor": "AA", "polygraphy_class": "Tensor"}}]))


@pytest.mark.parametrize(("content", "kind"), [("[1]", "int"), ('"text"', "str"), ('[["x"]]', "list")])
def test_json_of_another_kind(write, content, kind):
    assert refusal(write(content)).startswith(f"in.json holds a {kind} where a sample is due; a sample is a dict")


@pytest.mark.parametrize("content", ["", "{", "[1,]", "\x00"])
def test_what_is_no_json(write, content):
    text = refusal(write(content))
    assert text.startswith("in.json is damaged or of another format (")
    assert text.endswith("write it again with polygraphy run --save-inputs")


def test_an_array_that_is_not_base64(write):
    assert refusal(write([{"x": {"array": "%%%", "polygraphy_class": "ndarray"}}])).startswith(
        "in.json holds an array that is not base64 ("
    )


def test_an_array_without_its_data(write):
    assert refusal(write([{"x": {"polygraphy_class": "ndarray"}}])).startswith(
        "in.json holds an array without its data;"
    )


def test_objects_are_never_unpickled(write):
    assert "Object arrays cannot be loaded when allow_pickle=False" in refusal(
        write([{"x": current(np.array([pytest.fail], object))}])
    )


def test_no_sample(write):
    assert refusal(write([])) == "in.json: no sample in it; give at least one"
