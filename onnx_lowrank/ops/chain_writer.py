"""Any chain for any operator: stage after stage, each as the node that its operator makes of it.

A stage that lets rows pass through computes the others alone; both are put together along the channels, and into the
rows' order where passing rows are not the first. What the node adds to W x (bias, scale) then comes after that.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_lowrank.ops.op import Call, NamedStages, Names, StageSite, Written
from onnx_lowrank.types import Array, Stage


def write_chain(call: Call, stages: NamedStages, names: Names) -> Written:
    """Return nodes that compute the call's output from its data through `stages`.

    Raises ValueError where a stage lets rows pass through and the operator has no tensor along which they lie.
    """
    call, stages, before = call.op.prepare(call, stages, names)
    nodes: list[onnx.NodeProto] = list(before)
    extra: dict[str, Array] = {}
    current = call.data
    for index, (stage, weight) in enumerate(stages):
        final = index == len(stages) - 1 and not stage.passed
        output = call.output if final else names(f"{call.output}.inner{index}")
        at = StageSite(index, len(stages), current, weight, output, linear=bool(stage.passed))
        parts = [call.op.node(call, stage, at, names)]
        if stage.passed:
            parts.append(_joined(call, stage, at, names))
            output = parts[-1].nodes[-1].output[0]
            if at.last:
                parts.append(call.op.finish(call, output, names))
        for written in parts:
            nodes.extend(written.nodes)
            extra |= written.extra
        current = output
    return Written(tuple(nodes), extra)


def _joined(call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
    """Return the nodes that put a stage's inputs, which pass through, and its computed rows into one tensor."""
    axis = call.op.channel_axis(call, at)
    if axis is None:
        raise ValueError(f"{call.name or call.output}: no rows can pass through stage {at.index} of {call.op_type}")
    joined = names(f"{at.output}.rows")
    nodes = [onnx.helper.make_node("Concat", [at.input, at.output], [joined], joined, axis=axis)]
    order = row_order(stage)
    if (order == np.arange(len(order))).all():
        return Written(tuple(nodes))
    ordered, indices = names(f"{at.output}.ordered"), names(f"{at.weight}.order")
    nodes.append(onnx.helper.make_node("Gather", [joined, indices], [ordered], ordered, axis=axis))
    return Written(tuple(nodes), {indices: order})


def row_order(stage: Stage) -> Array:
    """Return (out,) which of [passing rows, computed rows] is at every row, int64."""
    order = np.empty(stage.rows, np.int64)
    passed = np.asarray(stage.passed, np.int64)
    order[passed] = np.arange(len(passed))
    order[np.setdiff1d(np.arange(stage.rows), passed)] = np.arange(len(passed), stage.rows)
    return order
