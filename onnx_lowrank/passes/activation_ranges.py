"""The ranges of tensors on samples: what activations of 8 bits are to hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnx_lowrank.graph.editing import upstream
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.batching import batch_size, batches, join
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Feed

SAMPLES = 128
"""The most samples that ranges are found on, spread over those given."""


def ranges(
    model: onnx.ModelProto, tensors: Sequence[str], samples: Sequence[Feed], runtime: Runtime
) -> dict[str, tuple[float, float]]:
    """Return the least and the largest number of tensors on samples, 0 among them; without what is not finite."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    fresh, names = Fresh(all_names(model)), dict[str, tuple[str, str]]()
    for tensor in tensors:
        names[tensor] = (fresh(f"{tensor}.least"), fresh(f"{tensor}.most"))
        for op, name in zip(("ReduceMin", "ReduceMax"), names[tensor], strict=True):
            watched.graph.node.append(onnx.helper.make_node(op, [tensor], [name], name, keepdims=0))
    outputs = [name for pair in names.values() for name in pair]
    runner = Runner(upstream(watched, outputs), runtime=runtime, outputs=outputs)
    count = min(len(samples), SAMPLES)
    chosen = [samples[place * len(samples) // count] for place in range(count)]
    size = batch_size(Runner(model, runtime=runtime), chosen)
    runs = [runner.run(join(run)) for run in batches(chosen, size)]
    found = {}
    for tensor, (least, most) in names.items():
        low, high = (np.array([run[name] for run in runs], np.float64) for name in (least, most))
        if np.isfinite(low).all() and np.isfinite(high).all():
            found[tensor] = (min(0.0, float(low.min())), max(0.0, float(high.max())))
    return found
