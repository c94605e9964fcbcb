"""Samples from FILE.py[:function]."""

import numpy as np
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import read

INPUTS = (TensorSpec("x", "tensor(float)", ("N", "T")),)


def refusal(source, inputs=INPUTS):
    with pytest.raises(DataError) as caught:
        read(source, inputs)
    text = str(caught.value)
    assert "\n" not in text
    return text


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
        "from dataclasses import dataclass\n@dataclass\nclass C:\n    n: 'int'\n"
        "def load_data():\n    yield {'x': np.zeros((1, C(3).n))}\n"
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
