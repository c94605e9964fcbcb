"""Shapes as they really are: run a few samples and look at the tensors around every weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_lowrank.graph.editing import expose
from onnx_lowrank.ops import by_type, first_output, op_name
from onnx_lowrank.options import Options
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Feed, Positions
from onnx_lowrank.weights.inventory import Inventory

LOOK = 8
"""How many samples, spread over the set, are looked at; of variable-length data the mean counts."""


@dataclass(frozen=True, slots=True)
class ObservedPositions:
    """places: site id -> Positions of every sharer. bytes: site id -> its activations' bytes for one sample.

    macs: multiply-accumulates of the whole model for one sample (those of the operators that factor weights).
    """

    positions: Mapping[str, tuple[Positions, ...]]
    bytes: Mapping[str, int]
    macs: float


def observe_positions(
    model: onnx.ModelProto, inventory: Inventory, feeds: Sequence[Feed], options: Options
) -> ObservedPositions:
    """Return where the sites of `found` work, averaged over a few of `feeds`; nothing of those inside bodies."""
    inventory = inventory.part(bodies=False)
    counted = [node for node in model.graph.node if _counts(node)]
    names = [name for node in counted for name in (node.input[0], node.input[1], first_output(node))]
    names += [
        name for site in inventory.sites for call in inventory.calls[site.id] for name in (call.data, call.output)
    ]
    known = _constant_shapes(model)
    runner = Runner(
        expose(model, [name for name in names if name not in known]),
        runtime=options.runtime,
        outputs=[name for name in dict.fromkeys(names) if name not in known],
        optimize=False,
    )
    picks = np.unique(np.linspace(0, len(feeds) - 1, min(LOOK, len(feeds))).astype(int))
    seen = [known | {k: v.shape for k, v in runner.run(feeds[i]).items()} for i in picks]
    return ObservedPositions(
        positions={site.id: _positions(inventory, site.id, seen, site.shape[2:]) for site in inventory.sites},
        bytes={
            site.id: max(_activation_bytes(inventory, site.id, shapes) for shapes in seen) for site in inventory.sites
        },
        macs=float(np.mean([math.fsum(_macs(node, shapes) for node in counted) for shapes in seen])),
    )


def _constant_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def _positions(
    inventory: Inventory, site: str, seen: Sequence[Mapping[str, tuple[int, ...]]], kernel: tuple[int, ...]
) -> tuple[Positions, ...]:
    positions = []
    for call in inventory.calls[site]:
        each = [call.positions(shapes[call.data], shapes[call.output], kernel) for shapes in seen]
        positions.append(
            Positions(
                float(np.mean([p.calls for p in each])),
                tuple(np.mean([p.before for p in each], axis=0).tolist()),
                tuple(np.mean([p.after for p in each], axis=0).tolist()),
                each[0].at,
            )
        )
    return tuple(positions)


def _activation_bytes(inventory: Inventory, site: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    tensors = {name for call in inventory.calls[site] for name in (call.data, call.output)}
    return 4 * sum(math.prod(shapes[name]) for name in tensors)


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> float:
    op = by_type(op_name(node))
    left, right, out = (shapes[name] for name in (node.input[0], node.input[1], first_output(node)))
    return op.macs(node, left, right, out) if op is not None else 0.0


def _counts(node: onnx.NodeProto) -> bool:
    """Whether an operator knows a node's multiply-accumulates."""
    op = by_type(op_name(node))
    return op is not None and op.counts(node)
