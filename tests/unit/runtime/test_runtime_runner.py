"""Sessions without noise, providers that work, and errors that are one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from builders import linear, mlp, normal, run, weight

from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime import runner as runtime
from onnx_lowrank.runtime.runner import Runner, resolve_providers

CPU = {"runtime": Runtime(provider="cpu", threads=1)}


def test_a_session_is_silent(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(linear(weight((4, 3), 0)).SerializeToString())
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from onnx_lowrank.options import Runtime\n"
        "from onnx_lowrank.runtime.runner import Runner\n"
        "for name in ('auto', 'cpu'):\n"
        "    runner = Runner(Path(sys.argv[1]), runtime=Runtime(provider=name))\n"
        "    outputs = runner.run({'x': np.zeros((2, 4), np.float32)})\n"
        "    assert outputs['y'].shape == (2, 3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.onnx")], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(bool(runtime.cuda_devices()), reason="this machine has a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "CUDA", "tensorrt", "CUDAExecutionProvider", "nonsense"])
def test_a_provider_that_does_not_work_is_a_problem_of_one_line(name: str, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(RuntimeProblem, match=f"provider '{name}' does not work .* CPUExecutionProvider") as caught:
        Runner(linear(weight((4, 3), 0)), runtime=Runtime(provider=name))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_auto_ends_with_the_cpu():
    assert resolve_providers("auto")[-1] == "CPUExecutionProvider"
    assert resolve_providers("cpu") == ["CPUExecutionProvider"]


def test_a_probe_that_onnxruntime_refuses_is_no_provider(monkeypatch: pytest.MonkeyPatch):
    """The branch of machines with a driver but a broken CUDA: asked in silence, answered with no."""

    def refuse(*_: object, **__: object) -> object:
        print("red error")
        raise RuntimeError("no CUDA")

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(runtime, "cuda_devices", lambda: 1)
    monkeypatch.setattr(ort, "InferenceSession", refuse)
    assert not runtime.provider_works.__wrapped__("CUDAExecutionProvider")


def test_inputs_outputs_and_types():
    model = mlp([4, 6, 2], [None, None], 0)
    runner = Runner(model, **CPU)
    assert [(s.name, s.dtype, s.shape) for s in runner.inputs] == [("x", np.float32, ("batch", 4))]
    assert [s.name for s in runner.outputs] == ["y"]
    assert runner.names == ("y",)


def test_asked_for_nothing_it_gives_nothing():
    assert Runner(linear(weight((4, 3), 0)), outputs=[], **CPU).run({"x": normal([1, 4], 0)}) == {}


def test_wrong_inputs_are_a_runtime_problem():
    runner = Runner(linear(weight((4, 3), 0)), **CPU)
    for feed in ({"x": normal([1, 5], 0)}, {"z": normal([1, 4], 0)}, {"x": np.zeros((1, 4))}):
        with pytest.raises(RuntimeProblem, match="cannot run the model on these inputs") as caught:
            runner.run(feed)
        assert "\n" not in str(caught.value)


def test_a_model_onnxruntime_refuses_is_a_model_error():
    model = linear(weight((4, 3), 0))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"onnxruntime cannot load the model: .*NoSuchOperator"):
        Runner(model, **CPU)


def test_a_large_model_goes_through_a_file(monkeypatch: pytest.MonkeyPatch):
    model = mlp([64, 64, 8], [None, None], 1)
    x = normal([2, 64], 0)
    expected = run(model, {"x": x})["y"]
    monkeypatch.setattr("onnx_lowrank.graph.large.PROTOBUF_LIMIT", 100)
    np.testing.assert_array_equal(run(model, {"x": x})["y"], expected)
