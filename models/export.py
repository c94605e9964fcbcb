"""Export of a torch module; the only place where torch writes ONNX."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from .fetch import RecipeError

OPSET = 17


def torch_module() -> Any:
    """Return torch, or say how to get it."""
    try:
        import torch
    except ImportError as error:
        raise RecipeError("torch is missing: pip install 'onnx-lowrank[zoo]'") from error
    return torch


def export(
    module: Any,
    example: Sequence[Any],
    *,
    inputs: Sequence[str],
    output: str,
    axes: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    """Return the module in eval mode as an ONNX model with one output."""
    torch = torch_module()
    with tempfile.TemporaryDirectory() as directory, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation and tracing remarks
        path = Path(directory) / "model.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(example),
            str(path),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={name: dict(named) for name, named in axes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(path)
    onnx.checker.check_model(model)
    return model
