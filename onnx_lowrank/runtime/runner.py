"""onnxruntime sessions and execution providers. Beside `quantization`, the only importer of onnxruntime."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.graph.large import PROTOBUF_LIMIT, fits_protobuf, proto_bytes
from onnx_lowrank.graph.mapped import MAPPED_FROM, for_runtime, mapped_tensors
from onnx_lowrank.graph.model_io import own_weights, store
from onnx_lowrank.options import Runtime
from onnx_lowrank.types import Array, Feed

__version__: str = ort.__version__
DEFAULT = Runtime()
FOLDER = "session.model_external_initializers_file_folder_path"


def _is_error(name: str) -> bool:
    value = getattr(state, name)
    return isinstance(value, type) and issubclass(value, Exception)


ORT_ERRORS: tuple[type[Exception], ...] = (
    *(getattr(state, name) for name in dir(state) if _is_error(name)),
    RuntimeError,
    ValueError,
)
"""What onnxruntime raises; its classes share no base but Exception."""

SPIN = 0.03
"""Seconds until threads that spin after a call are asleep; 20 ms were measured (onnxruntime 1.31).

Without that pause, on two cores, a model of .21 of another's time was measured as .30 to .33 in turns with it.
"""
SHORT = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
"""Names that users give -> onnxruntime's own; which of them there are is a matter of the build that is installed."""
NUMPY_TYPES: Mapping[str, type[Any]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.str_,
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model: a number for a fixed dimension, a name or None for a free one."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The numpy type, None where numpy has none."""
        return np.dtype(NUMPY_TYPES[self.type]) if self.type in NUMPY_TYPES else None


@functools.cache
def cuda_devices() -> int:
    """Return how many CUDA devices the driver sees; 0 without a driver. Asks no onnxruntime provider."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@functools.cache
def provider_works(provider: str) -> bool:
    """Return whether a session can really be made on `provider`.

    A library of CUDA that does not load is reported by onnxruntime's default logger, see `log_nothing`.
    """
    if provider not in ort.get_available_providers():
        return False
    if provider == "CPUExecutionProvider":
        return True
    if provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider") and not cuda_devices():
        return False
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "probe",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            session = ort.InferenceSession(model.SerializeToString(), settings, providers=[provider])
        return provider in session.get_providers()
    except ORT_ERRORS:
        return False


def log_nothing() -> None:
    """Have onnxruntime's default logger write fatal errors alone, in the whole process: for the command line.

    Sessions made here are quiet by their own options; this is for what onnxruntime logs outside of any session.
    """
    ort.set_default_logger_severity(4)


def resolve_providers(name: str) -> list[str]:
    """Return the providers to ask for, best first: `auto`, a short name (cpu, cuda, tensorrt) or onnxruntime's own.

    Raises RuntimeProblem where a provider asked for by name does not work on this machine.
    """
    if name == "auto":
        return [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if provider_works(p)]
    provider = SHORT.get(name.lower(), name)
    if not provider_works(provider):
        works = ", ".join(p for p in ort.get_available_providers() if provider_works(p))
        raise RuntimeProblem(f"provider {name!r} does not work on this machine; what works: {works}")
    return list(dict.fromkeys([provider, "CPUExecutionProvider"]))


def runs_on_cpu(name: str) -> bool:
    """Return whether the first provider to ask for is the CPU. Raises RuntimeProblem like `resolve_providers`."""
    return resolve_providers(name)[0] == "CPUExecutionProvider"


class Runner:
    """One model in onnxruntime. `outputs` names what to compute (default: the graph's outputs).

    `spin` keeps onnxruntime's threads busy between runs, as its default is: for latency measurements. Without `arena`
    memory goes back to the system after every run: for graphs that return large tensors.
    """

    def __init__(
        self,
        model: onnx.ModelProto | Path | bytes,
        *,
        runtime: Runtime = DEFAULT,
        outputs: Sequence[str] | None = None,
        optimize: bool = True,
        spin: bool = False,
        arena: bool = True,
    ) -> None:
        settings = ort.SessionOptions()
        if not spin:  # threads that spin between runs slow down everything else but a latency measurement
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.log_severity_level = 4
        settings.enable_cpu_mem_arena = arena
        if not spin and lies_apart(model):  # each session would hold all weights once more, in its own order
            settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.intra_op_num_threads = runtime.threads
        if not optimize:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = _open(model, settings, resolve_providers(runtime.provider))
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        self._names = list(outputs) if outputs is not None else [spec.name for spec in self.outputs]
        self._pooled = spin and (runtime.threads or os.cpu_count() or 1) > 1

    @property
    def rest(self) -> float:
        """Seconds after a call for which its threads may still spin, and take the cores from other models."""
        return SPIN if self._pooled else 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """What `run` returns."""
        return tuple(self._names)

    def run(self, feed: Feed) -> dict[str, Array]:
        """Return output name -> array. Raises RuntimeProblem with onnxruntime's first line."""
        if not self._names:  # to onnxruntime an empty list means every output
            return {}
        try:
            values = self._session.run(self._names, dict(feed))
        except ORT_ERRORS as error:
            raise RuntimeProblem(f"onnxruntime cannot run the model on these inputs: {first_line(error)}") from error
        return dict(zip(self._names, values, strict=True))

    def run_values(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Return output name -> onnxruntime's own value: another model takes it without a copy, `array_of` reads it.

        The feed may hold arrays and such values. Raises RuntimeProblem like `run`.
        """
        wrap = ort.OrtValue.ortvalue_from_numpy
        inputs = {k: wrap(np.ascontiguousarray(v)) if isinstance(v, np.ndarray) else v for k, v in feed.items()}
        try:
            values = self._session.run_with_ort_values(self._names, inputs)
        except ORT_ERRORS as error:
            raise RuntimeProblem(f"onnxruntime cannot run the model on these inputs: {first_line(error)}") from error
        return dict(zip(self._names, values, strict=True))


def array_of(value: Any) -> Array:
    """Return the array in one of onnxruntime's own values."""
    return np.asarray(value.numpy())


def _open(model: onnx.ModelProto | Path | bytes, settings: Any, providers: list[str]) -> Any:
    try:
        if isinstance(model, bytes):
            return ort.InferenceSession(model, settings, providers=providers)
        if isinstance(model, Path):
            return ort.InferenceSession(str(model), settings, providers=providers)
        if fits_protobuf(model):
            return ort.InferenceSession(model.SerializeToString(), settings, providers=providers)
        apart = for_runtime(model)
        if apart is not None and proto_bytes(apart[0]) < PROTOBUF_LIMIT:
            settings.add_session_config_entry(FOLDER, apart[1])
            return ort.InferenceSession(apart[0].SerializeToString(), settings, providers=providers)
        with tempfile.TemporaryDirectory(prefix="onnx-lowrank-") as folder:
            path = Path(folder) / "model.onnx"
            store(model, path)
            return ort.InferenceSession(str(path), settings, providers=providers)
    except ORT_ERRORS as error:
        raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error


def lies_apart(model: onnx.ModelProto | Path | bytes) -> bool:
    """Return whether a model's weights are so large that they stay in a file of their own."""
    if isinstance(model, bytes):
        return False
    if isinstance(model, Path):
        return sum(file.stat().st_size for file in own_weights(model)) >= MAPPED_FROM
    return any(mapped_tensors(model))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, short enough for a terminal."""
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    return line if len(line) <= 300 else line[:297] + "..."


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(value.name, value.type, tuple(value.shape))
