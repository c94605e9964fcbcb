"""The original's own values where the loss's gradient enters: the targets of a model that is already compressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.graph.editing import expose
from onnx_lowrank.options import Options
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Feed


def original_targets(
    model: onnx.ModelProto, objective: Objective, feeds: Sequence[Feed], options: Options
) -> list[Mapping[str, Array]]:
    """Return one mapping a sample: seeded tensor -> the original's value."""
    names = objective.seeded
    runner = Runner(expose(model, names), runtime=options.runtime, outputs=names)
    return [runner.run(feed) for feed in feeds]
