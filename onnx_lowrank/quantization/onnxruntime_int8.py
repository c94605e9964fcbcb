"""int8: a float model in, a quantised one out. The only importer of onnxruntime.quantization."""

from __future__ import annotations

import functools
import platform
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.large import fits_protobuf, proto_bytes
from onnx_lowrank.graph.model_io import main_opset, store
from onnx_lowrank.graph.traversal import all_nodes
from onnx_lowrank.options import Runtime, Then
from onnx_lowrank.quantization.quantizer_calls import guarded
from onnx_lowrank.quantization.weight_only import weights_rounded
from onnx_lowrank.runtime.batching import batch_size, batches, join
from onnx_lowrank.runtime.runner import Runner, first_line
from onnx_lowrank.types import Feed

STATIC_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "Relu", "Clip")
"""What holds weights, and the activations that a convolution's quantised output takes in.

Not all that onnxruntime offers: with softmax, normalisation and sums in int8, too, minilm's correlation fell by .15
instead of .04 and crepe took .56 of the original's time instead of .44 (efficientnet .54 instead of .65, no worse). But
without Relu and Clip, ranges before them ruin efficientnet: its decisions changed in .54 of the samples, not in .09.
"""
DYNAMIC_OPS = ("MatMul", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
"""Gemm is converted to MatMul. Not Conv: onnxruntime's ConvInteger took 5.6 times as long as the float original."""
CALIBRATED = 128
"""The most samples for the ranges of activations: spread over the calibration samples."""
OLDEST = 13
"""The opset that has a scale for every channel."""
LISTED, OLDEST_IR = 4, 7
"""The IR versions from which on weights need not be listed as inputs, and the one that came with opset OLDEST."""
VNNI = ("avx512_vnni", "avx_vnni", "avx512-vnni", "avx-vnni")
QUANTISED = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv"),
    *("QLinearMatMul", "QGemm", "QAttention", "MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
    *("DynamicQuantizeLSTM",),
)


class Reader:
    """Calibration samples as onnxruntime asks for them (its CalibrationDataReader)."""

    def __init__(self, feeds: Iterator[Feed]) -> None:
        self._feeds = feeds

    def get_next(self) -> Feed | None:
        """Return the next sample, None after the last."""
        return next(self._feeds, None)


def refusal(model: onnx.ModelProto) -> str:
    """Return why a model cannot be quantised, "" where it can be tried."""
    if present := quantised_ops(model):
        return f"the model is quantised already (it has {present[0]}): give the float model it was made from"
    if not fits_protobuf(model):
        return f"the model has {proto_bytes(model) / 1e9:.1f} GB, and onnxruntime quantises models below 2 GB"
    return ""


def quantised_ops(model: onnx.ModelProto) -> list[str]:
    """Return the operators of a model, subgraphs included, that only quantised models have; sorted."""
    return sorted({node.op_type for node in all_nodes(model)} & set(QUANTISED))


def quantised(model: onnx.ModelProto, then: Then, feeds: Sequence[Feed]) -> onnx.ModelProto:
    """Return the model in int8: `quantize` static (QDQ, ranges from `feeds`), the others without samples.

    `quantize-dynamic` finds ranges at run time, `quantize-weights` leaves activations float. Weights are symmetric, one
    scale a channel. Names and types of inputs and outputs, metadata and documentation stay.
    Raises ModelError, one line, where onnxruntime cannot do it or finds nothing to quantise.
    """
    if refused := refusal(model):
        raise ModelError(f"--then {then}: {refused}")
    if then == "quantize-weights":
        return _weights(model)
    try:
        with tempfile.TemporaryDirectory(prefix="onnx-lowrank-") as folder:
            int8_model = _by_onnxruntime(model, then, feeds, Path(folder))
    except OSError as error:
        raise ModelError(f"--then {then}: cannot write a temporary file: {first_line(error)}; make room") from error
    if not quantised_ops(int8_model):
        other = "quantize" if then == "quantize-dynamic" else "quantize-dynamic"
        ops = ", ".join(STATIC_OPS[:5] if then == "quantize" else ("MatMul", "Gemm", "Gather", "LSTM"))
        raise ModelError(f"--then {then}: nothing here can be quantised ({ops} in float32 can): try --then {other}")
    return _named(int8_model, model)


def _by_onnxruntime(model: onnx.ModelProto, then: Then, feeds: Sequence[Feed], folder: Path) -> onnx.ModelProto:
    """Return what onnxruntime.quantization makes of a model, by way of files in `folder`."""
    source, prepared, target = (folder / f"{name}.onnx" for name in ("float", "prepared", "int8"))
    with guarded(then):
        recent = _recent(model)
    store(recent, source)
    with guarded(then):
        _prepare(source, prepared)
    if then == "quantize-dynamic":
        with guarded(then):
            _dynamic(prepared, target)
    else:
        ranges = _joined(model, feeds)
        with guarded(then):
            _static(prepared, target, ranges)
    return onnx.load(str(target))


def _weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with int8 weights. Raises ModelError where there are none to take."""
    try:
        rounded = weights_rounded(_recent(model))
    except onnx.version_converter.ConvertError as error:
        raise ModelError(f"--then quantize-weights: onnx cannot bring it to opset 13: {first_line(error)}") from error
    if not any(tensor.data_type == onnx.TensorProto.INT8 for tensor in rounded.graph.initializer):
        raise ModelError("--then quantize-weights: no weight of 256 numbers or more in float32 is read directly here")
    return rounded


def settings(then: Then) -> dict[str, str]:
    """Return how this machine's models are quantised, for their provenance."""
    if then == "quantize-weights":
        return {"then": then, "weights": "int8, symmetric, per channel", "activations": "float32"}
    return {
        "then": then,
        "weights": "int8, symmetric, per channel" + ("" if full_range() else ", 7 bits"),
        "activations": "uint8, at run time" if then == "quantize-dynamic" else _activations().name[1:].lower(),
    }


@functools.cache
def full_range() -> bool:
    """Return whether this CPU adds up products of 8 bits without saturating: ARM, and x86 that is known to have VNNI.

    Elsewhere weights get 7 bits, as onnxruntime advises.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686", "x86"):
        return True
    info = Path("/proc/cpuinfo")
    return info.is_file() and any(flag in info.read_text(encoding="utf-8", errors="replace") for flag in VNNI)


def _activations() -> QuantType:
    """Return the type of activations that this machine's kernels are made for."""
    return QuantType.QInt8 if platform.machine().lower() in ("arm64", "aarch64") else QuantType.QUInt8


def _joined(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Feed]:
    """Return the samples for the ranges, in batches."""
    count = min(len(feeds), CALIBRATED)
    chosen = [feeds[i * len(feeds) // count] for i in range(count)]
    size = batch_size(Runner(model, runtime=Runtime(provider="cpu")), chosen)
    return [join(run) for run in batches(chosen, size)]


def _static(source: Path, target: Path, feeds: Sequence[Feed]) -> None:
    quantize_static(
        str(source), str(target), Reader(iter(feeds)), quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(STATIC_OPS), per_channel=True, reduce_range=not full_range(),
        activation_type=_activations(), weight_type=QuantType.QInt8, extra_options={"MatMulConstBOnly": True},
    )  # fmt: skip


def _dynamic(source: Path, target: Path) -> None:
    # behind an operator unknown to shape inference the type must be given: only float32 is quantised here
    extra = {"MatMulConstBOnly": True, "DefaultTensorType": int(onnx.TensorProto.FLOAT)}
    quantize_dynamic(
        str(source), str(target), op_types_to_quantize=list(DYNAMIC_OPS), per_channel=True,
        reduce_range=not full_range(), weight_type=QuantType.QInt8, extra_options=extra,
    )  # fmt: skip


def _recent(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in an opset and an IR version that can hold int8 weights."""
    if main_opset(model) < OLDEST:
        model = onnx.version_converter.convert_version(model, OLDEST)
    return _without_listed(model) if model.ir_version < LISTED else model


def _prepare(source: Path, target: Path) -> None:
    """Write what can be quantised: weights as initializers, BatchNormalization folded.

    These are onnxruntime's basic optimizations, the pre-processing that it recommends.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _without_listed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose weights are not inputs as well, as they had to be once: int8 weights have other names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name for tensor in copy.graph.initializer}
    for value in [value for value in copy.graph.input if value.name in constants]:
        copy.graph.input.remove(value)
    copy.ir_version = OLDEST_IR
    return copy


def _named(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the source's identity: metadata, documentation, inputs and outputs as they were declared.

    Raises ModelError where an input or output was lost.
    """
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(model, field, getattr(source, field))
    del model.metadata_props[:]
    model.metadata_props.extend(source.metadata_props)
    model.graph.name, model.graph.doc_string = source.graph.name, source.graph.doc_string
    used = {node.domain for node in all_nodes(model)} | {"", "ai.onnx"}
    opsets = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    del model.graph.value_info[:]
    constants = {tensor.name for tensor in source.graph.initializer}
    for current, wanted in ((model.graph.input, source.graph.input), (model.graph.output, source.graph.output)):
        values = [value for value in wanted if value.name not in constants]
        if sorted(v.name for v in current) != sorted(v.name for v in values):
            raise ModelError(
                "the model's inputs or outputs did not survive onnxruntime's quantisation: leave --then out"
            )
        del current[:]
        current.extend(values)
    return model
