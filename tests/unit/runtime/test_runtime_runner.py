"""runtime: sessions without noise, providers that work, and batching only where it changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from builders import build, feeds_of, linear, mlp, node, normal, run, value, weight

from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.runtime import runner as runtime
from onnx_lowrank.runtime.batching import batch_size, batches, join, rows_of, split
from onnx_lowrank.runtime.runner import Runner, resolve_providers

CPU = {"provider": "cpu", "threads": 1}


def test_a_session_is_silent(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(linear(weight((4, 3), 0)).SerializeToString())
    code = (
        "import sys; from pathlib import Path; import numpy as np; from onnx_lowrank.runtime.runner import Runner\n"
        "for name in ('auto', 'cpu'):\n"
        "    outputs = Runner(Path(sys.argv[1]), provider=name).run({'x': np.zeros((2, 4), np.float32)})\n"
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
        Runner(linear(weight((4, 3), 0)), provider=name)
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
    monkeypatch.setattr(runtime, "PROTOBUF_LIMIT", 100)
    monkeypatch.setattr("onnx_lowrank.graph.model_io.PROTOBUF_LIMIT", 100)
    np.testing.assert_array_equal(run(model, {"x": x})["y"], expected)


def test_batches_are_neighbours_of_one_layout():
    feeds = [{"x": np.zeros((1, n))} for n in (3, 3, 3, 4, 3, 4, 4)]
    assert [[f["x"].shape[1] for f in run] for run in batches(feeds, 2)] == [[3, 3], [3], [4], [3], [4, 4]]
    assert list(batches([], 4)) == []


def test_join_and_split_are_inverse():
    feeds = [{"x": normal([rows, 2], rows)} for rows in (1, 3, 2)]
    joined = join(feeds)
    assert joined["x"].shape == (6, 2)
    for part, feed in zip(split({"y": joined["x"]}, feeds), feeds, strict=True):
        np.testing.assert_array_equal(part["y"], feed["x"])
    assert rows_of({"x": np.zeros((3, 1)), "z": np.zeros((3, 7))}) == 3
    assert rows_of({"x": np.zeros((3, 1)), "z": np.zeros((2, 7))}) == 1
    assert rows_of({"x": np.float32(1)}) == 1


def over_the_batch(op: str) -> Runner:
    nodes = {
        "normalise": [node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["y"])],
        "softmax": [node("Softmax", ["x"], ["y"], axis=0)],
        "sum": [node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        "sort": [node("TopK", ["x", "k"], ["y", "i"], axis=0)],
        "transpose": [node("Transpose", ["x"], ["y"])],
    }[op]
    shape = ["n", 4] if op not in ("sum", "transpose") else (["m"] if op == "sum" else [4, "n"])
    weights = {"axes": np.array([0])} if op == "sum" else {"k": np.array([1])} if op == "sort" else {}
    return Runner(build(nodes, [value("x", ["n", 4])], [value("y", shape)], weights), **CPU)


@pytest.mark.parametrize("op", ["normalise", "softmax", "sum", "sort", "transpose"])
def test_one_at_a_time_where_samples_would_touch(op: str):
    assert batch_size(over_the_batch(op), feeds_of(normal([6, 4], 1))) == 1


def test_one_at_a_time_where_the_batch_is_fixed():
    assert batch_size(Runner(linear(weight((4, 3), 0), batch=1), **CPU), feeds_of(normal([6, 4], 1))) == 1


def test_several_where_nothing_changes():
    runner = Runner(mlp([4, 6, 2], [None, None], 0), **CPU)
    feeds = feeds_of(normal([20, 4], 1))
    assert batch_size(runner, feeds) == 8
    assert batch_size(runner, feeds, most=3) == 3
    assert batch_size(runner, feeds[:1]) == 1
    assert batch_size(runner, []) == 1


def test_one_at_a_time_where_no_two_neighbours_are_alike():
    runner = Runner(build([node("Relu", ["x"], ["y"])], [value("x", ["n", "m"])], [value("y", ["n", "m"])], {}), **CPU)
    assert batch_size(runner, [{"x": normal([1, width], 0)} for width in (3, 4, 3, 4)]) == 1
    assert batch_size(runner, [{"x": normal([1, width], 0)} for width in (3, 4, 4, 3)]) == 8


def test_one_at_a_time_for_scalars():
    runner = Runner(build([node("Relu", ["x"], ["y"])], [value("x", [])], [value("y", [])], {}), **CPU)
    assert batch_size(runner, [{"x": np.float32(i)} for i in map(np.array, range(3))]) == 1
