"""Samples from Python objects and from FILE.py[:function]."""

import numpy as np
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime import TensorSpec
from onnx_lowrank.samples import Samples, read

INPUTS = (TensorSpec("x", "tensor(float)", ("N", "T")),)


def feed(length, value=1.0):
    return {"x": np.full((1, length), value, np.float32)}


def refusal(source, inputs=INPUTS):
    with pytest.raises(DataError) as caught:
        read(source, inputs)
    text = str(caught.value)
    assert "\n" not in text
    return text


class Reader:
    """As onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


# Objects


def test_a_list_is_read_in_place():
    feeds = [feed(3), feed(5)]
    samples = read(feeds, INPUTS)
    assert samples.feeds[1]["x"] is feeds[1]["x"]
    assert samples.source == "the list given"


def test_a_generator_that_uses_one_buffer_again():
    buffer = np.zeros((1, 2), np.float32)

    def generate():
        for value in (1.0, 2.0):
            buffer[:] = value
            yield {"x": buffer}

    assert [float(item["x"][0, 0]) for item in read(generate(), INPUTS).feeds] == [1.0, 2.0]


def test_a_calibration_data_reader():
    samples = read(Reader([feed(3), feed(5)]), INPUTS)
    assert [item["x"].shape for item in samples.feeds] == [(1, 3), (1, 5)]
    assert samples.source == "the Reader given"


def test_a_reader_that_is_exhausted():
    assert refusal(Reader([])) == "the Reader given: no sample in it; give at least one"


def test_pairs_have_labels():
    assert read([(feed(3), 4), (feed(5), 5)], INPUTS).labels.tolist() == [4, 5]


def test_labels_of_any_kind_stay_a_list():
    assert read([(feed(3), {"a": 1}), (feed(5), [1, 2])], INPUTS).labels == [{"a": 1}, [1, 2]]
    assert read([(feed(3), 1), (feed(5), "b")], INPUTS).labels == [1, "b"]
    assert read([(feed(3), "ab"), (feed(5), "b")], INPUTS).labels.tolist() == ["ab", "b"]


def test_labels_of_one_shape_become_an_array():
    assert read([(feed(3), np.zeros((1, 4))), (feed(5), np.ones((1, 4)))], INPUTS).labels.shape == (2, 4)


def test_a_dict_may_hold_its_label():
    assert read([feed(3) | {"labels": 4}, feed(4) | {"labels": 5}], INPUTS).labels.tolist() == [4, 5]


def test_a_label_of_none_is_no_label():
    assert read([(feed(3), None)], INPUTS).labels is None


def test_two_labels():
    assert refusal([(feed(3) | {"labels": 4}, 4)]) == (
        "the list given: sample #0 has two labels, in its dict and beside it; leave one of them out"
    )


def test_labels_for_some():
    assert refusal([(feed(3), 1), feed(3)]) == (
        "the list given: only 1 of 2 samples have a label; label all of them or none"
    )


@pytest.mark.parametrize("item", [np.zeros((1, 3)), (1, 2), "text"])
def test_what_is_no_dict(item):
    assert refusal([feed(3), item]) == (
        f"the list given: sample #1 is a {type(item).__name__};"
        " give a dict of input name -> array, or a pair (dict, label)"
    )


def test_a_dict_of_arrays_and_an_array_hold_all_samples():
    assert len(read({"x": np.zeros((4, 3), np.float32)}, INPUTS)) == 4
    assert len(read(np.zeros((4, 3), np.float32), INPUTS)) == 4


def test_samples_pass_as_they_are():
    samples = Samples([], None, "", ())
    assert read(samples, INPUTS) is samples


@pytest.mark.parametrize("thing", [None, 3, 2.5])
def test_what_samples_cannot_be(thing):
    assert refusal(thing) == (
        f"samples cannot be a {type(thing).__name__}; give a path, an iterable of dicts or a CalibrationDataReader"
    )


def test_a_failing_iterable_keeps_its_own_error():
    def broken():
        yield feed(3)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        read(broken(), INPUTS)


# Paths


def test_a_path_that_is_not_there():
    text = refusal("nowhere.npz")
    assert text.startswith("nowhere.npz: no such file or directory; give an .npz or .npy (samples along the leading")
    assert text.endswith("a Polygraphy .json, or FILE.py[:load_data]")


def test_a_file_of_no_known_form(tmp_path):
    (tmp_path / "data.csv").write_text("1,2")
    assert refusal(tmp_path / "data.csv").startswith(f"{tmp_path / 'data.csv'} is of no form that can be read")


# FILE.py


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="cal.py"):
        (tmp_path / name).write_text("import numpy as np\n" + text)
        return name

    return write


def test_the_default_function(script):
    name = script("def load_data():\n    for i in range(3):\n        yield {'x': np.zeros((1, i + 1))}, i\n")
    samples = read(name, INPUTS)
    assert [item["x"].shape for item in samples.feeds] == [(1, 1), (1, 2), (1, 3)]
    assert samples.feeds[0]["x"].dtype == np.float32
    assert samples.labels.tolist() == [0, 1, 2]
    assert samples.source == "cal.py:load_data"


def test_a_named_function_that_returns_arrays(script):
    script("def mine():\n    return {'x': np.zeros((4, 2))}\n")
    assert len(read("cal.py:mine", INPUTS)) == 4


def test_a_function_that_returns_a_reader(script):
    script(
        "class R:\n    n = 2\n    def get_next(self):\n        self.n -= 1\n"
        "        return {'x': np.zeros((1, 2))} if self.n >= 0 else None\n"
        "def load_data():\n    return R()\n"
    )
    assert len(read("cal.py", INPUTS)) == 2


def test_the_file_may_import_its_neighbours_and_leaves_the_path_as_it_was(script):
    import sys

    script("WIDTH = 6\n", "neighbour_of_cal.py")
    script("def load_data():\n    from neighbour_of_cal import WIDTH\n    yield {'x': np.zeros((1, WIDTH))}\n")
    before = list(sys.path)
    assert read("cal.py", INPUTS).feeds[0]["x"].shape == (1, 6)
    assert sys.path == before


def test_dataclasses_work_in_the_file(script):
    script(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass C:\n    n: int\ndef load_data():\n    yield {'x': np.zeros((1, C(3).n))}\n".replace(
            "from __future__ import annotations\n", ""
        )
    )
    assert read("cal.py", INPUTS).feeds[0]["x"].shape == (1, 3)


def test_a_file_that_is_not_there(script):
    assert refusal("gone.py:load") == "gone.py: no such file; give FILE.py or FILE.py:function"


def test_a_function_that_is_not_there(script):
    script("def load(): ...\ndef other(): ...\n")
    assert refusal("cal.py") == (
        "cal.py has no function 'load_data'; its functions are 'load', 'other': give cal.py:function"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    yield {'x': np.zeros((1, 2))}\n    raise KeyError('oops')\n", "in line 4: KeyError: 'oops'"),
        ("    return 1 / 0\n", "in line 3: ZeroDivisionError: division by zero"),
    ],
)
def test_what_fails_in_the_function_is_told_with_its_line(script, body, said):
    script("def load_data():\n" + body)
    with pytest.raises(DataError) as caught:
        read("cal.py", INPUTS)
    assert str(caught.value) == f"cal.py:load_data failed {said}"
    assert isinstance(caught.value.__cause__, KeyError | ZeroDivisionError)


def test_what_fails_at_import_is_told_with_its_line(script):
    script("\nimport a_module_that_is_not_there\n")
    assert refusal("cal.py") == (
        "cal.py:load_data failed in line 3: ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    )


def test_a_syntax_error(script):
    script("def load_data(:\n")
    assert refusal("cal.py").startswith("cal.py:load_data failed in line 2: SyntaxError: ")


def test_a_function_that_wants_arguments(script):
    script("def load_data(path):\n    yield {}\n")
    assert refusal("cal.py") == (
        "cal.py:load_data failed: TypeError: load_data() missing 1 required positional argument: 'path'"
    )


@pytest.mark.parametrize(("value", "kind"), [("None", "NoneType"), ("3", "int")])
def test_a_function_that_returns_no_samples(script, value, kind):
    script(f"def load_data():\n    return {value}\n")
    assert refusal("cal.py") == (
        f"cal.py:load_data returned a {kind}; yield dicts of input name -> array, or (dict, label)"
    )


def test_a_sample_that_does_not_fit(script):
    script("def load_data():\n    yield {'y': 1}\n")
    assert refusal("cal.py").startswith("cal.py:load_data: sample #0: nothing for the model's input 'x'")
