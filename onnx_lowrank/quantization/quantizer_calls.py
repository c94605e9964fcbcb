"""Calls into onnxruntime.quantization: what they raise becomes a refusal, and what they print is suppressed."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.options import Then
from onnx_lowrank.runtime.runner import ORT_ERRORS, first_line

QUANTIZER_ERRORS: tuple[type[Exception], ...] = (
    *ORT_ERRORS,
    *(OSError, TypeError, KeyError, IndexError, AttributeError, AssertionError),
    *(onnx.checker.ValidationError, onnx.shape_inference.InferenceError, onnx.version_converter.ConvertError),
)
"""What onnxruntime.quantization raises, whatever it trips over: caught around the calls into it alone."""


@contextlib.contextmanager
def guarded(then: Then) -> Iterator[None]:
    """Turn what onnxruntime raises in here into ModelError, one line, and let it write nothing."""
    try:
        with _quiet():
            yield
    except QUANTIZER_ERRORS as error:
        raise ModelError(f"--then {then}: onnxruntime cannot quantise this model: {first_line(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime.quantization from writing: it warns by the root logger and prints. Others may log meanwhile."""
    root = logging.getLogger()
    handler = logging.NullHandler()  # without any, its first warning would install one for good
    root.addHandler(handler)
    root.addFilter(_not_of_the_quantizer)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_not_of_the_quantizer)
        root.removeHandler(handler)


def _not_of_the_quantizer(record: logging.LogRecord) -> bool:
    return "onnxruntime" not in Path(record.pathname).parts
