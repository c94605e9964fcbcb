"""Ranks as they really are, for tensors that shape inference says nothing about."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto

from onnx_lowrank.gradient.emitter import Dims, NoRule
from onnx_lowrank.gradient.forward import Forward
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import DEFAULT, Runner
from onnx_lowrank.types import Feed


def observed_ranks(model: ModelProto, feed: Feed, *, runtime: Runtime = DEFAULT) -> dict[str, Dims]:
    """Return tensor -> (None, …), one None an axis, for every tensor of unknown rank, from one run of a sample.

    What `build_gradient` takes as `shapes`: extents may differ in other runs, ranks may not. Tensors whose rank is
    inferred are not looked at, so the run holds few intermediate results.
    """
    names = unknown_ranks(model)
    if not names:
        return {}
    copy = ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in present)
    found = Runner(copy, runtime=runtime, outputs=names, optimize=False).run(feed)
    return {name: (None,) * value.ndim for name, value in found.items() if isinstance(value, np.ndarray)}


def unknown_ranks(model: ModelProto) -> list[str]:
    """Return the outputs of the model's own nodes whose rank shape inference does not know."""
    try:
        forward = Forward(model)
    except NoRule:
        return []
    names = [name for node in model.graph.node for name in node.output if name]
    return [name for name in names if forward.is_float(name) and forward.dims(name) is None]
