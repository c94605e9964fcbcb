"""From inputs that have to follow an order to the stored constants behind them, and whether these may be changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx

from onnx_lowrank.graph.orders.region import Change, Edit, SeenError, Step
from onnx_lowrank.graph.orders.shapes import Dims, aligned
from onnx_lowrank.graph.orders.touch import place
from onnx_lowrank.graph.view import GraphView, Use

SMALL = 4096
"""Elements up to which a constant that others read is stored once more, in the other order."""
PLAIN = frozenset(
    int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)))
    for name in ("bool", "float16", "float32", "float64", *(f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64)))
)
"""Element types that numpy has itself."""
ALIGNED = ("Reshape", "Unsqueeze", "Squeeze", "Flatten")
Entry: TypeAlias = tuple[str, int]
"""Where a constant is read first on the way to an input: a node, by its first output, and the slot."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """The graph's constants. fixed: names that a caller can replace or gets back."""

    view: GraphView
    dims: Mapping[str, Dims]
    fixed: frozenset[str]


def changes_for(stored: Stored, nodes: Mapping[str, onnx.NodeProto], edits: Iterable[Edit]) -> tuple[Change, ...]:
    """Return what rearranges the constants behind `edits` for these inputs alone. Raises SeenError.

    nodes: first output -> node.
    """
    steps: dict[str, dict[Entry, set[Step]]] = {}
    waiting, done = list(edits), set[Edit]()
    while waiting:
        edit = waiting.pop()
        if edit in done:
            continue
        done.add(edit)
        name = nodes[edit.node].input[edit.slot]
        root, transforms = stored.view.constant[name]
        step, more = _at_root(stored, edit, transforms)
        waiting.extend(more)
        steps.setdefault(root, {}).setdefault((edit.node, edit.slot), set()).add(step)
    return tuple(change for root in sorted(steps) for change in _changes(stored, root, steps[root]))


def _at_root(stored: Stored, edit: Edit, transforms: tuple[onnx.NodeProto, ...]) -> tuple[Step, list[Edit]]:
    """Return the step at the stored constant, and the edits of scales and zero points on the way to it."""
    if edit.numbers:
        if transforms:
            raise SeenError("indices are computed")
        return Step(numbers=True), []
    axis, more = edit.axis, list[Edit]()
    for node in reversed(transforms):
        if node.op_type in ALIGNED:
            back = aligned(stored.dims.get(node.output[0]), stored.dims.get(node.input[0]))
            if axis not in back:
                raise SeenError(f"a constant goes through {node.op_type}")
            axis = back[axis]
        elif node.op_type == "Transpose":
            axis = _transposed(node, axis, stored.dims.get(node.output[0]))
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            more.extend(_of_grid(stored, node, axis))
        elif node.op_type != "Cast":
            raise SeenError(f"a constant goes through {node.op_type}")
    return Step(axis), more


def _transposed(node: onnx.NodeProto, axis: int, dims: Dims | None) -> int:
    """Return the axis, from the end, of a Transpose's input."""
    perm: tuple[int, ...] | None = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None)
    if perm is None:
        if dims is None:
            raise SeenError("a constant goes through Transpose")
        perm = tuple(reversed(range(len(dims))))
    return perm[axis] - len(perm)


def _of_grid(stored: Stored, node: onnx.NodeProto, axis: int) -> list[Edit]:
    """Return the edits of scale and zero point where they lie along the same axis."""
    scale, dims = stored.dims.get(node.input[1]), stored.dims.get(node.input[0])
    given = {a.name: a.i for a in node.attribute}
    if scale is None or dims is None or len(scale) > 1 or given.get("block_size", 0):
        raise SeenError(f"a constant goes through {node.op_type} by block")
    along = given.get("axis", 1)
    if scale in ((), (1,)) or (along if along < 0 else along - len(dims)) != axis:
        return []
    return [Edit(place(node), slot) for slot in (1, 2) if slot < len(node.input) and node.input[slot]]


def _changes(stored: Stored, root: str, steps: Mapping[Entry, set[Step]]) -> list[Change]:
    """Return the changes of one constant: in its place where all that read it follow, else copies. Raises SeenError."""
    tensor = stored.view.weights[root]
    if tensor.data_type not in PLAIN:
        raise SeenError(f"{root!r} is of a type that is not rearranged here")
    if root in stored.fixed:
        raise SeenError(f"{root!r} is an input or an output of the graph")
    entries: dict[Entry, set[frozenset[Step]]] = {}
    for use in stored.view.uses[root]:
        own = frozenset() if use.body else frozenset(steps.get((place(use.node), use.slot), ()))
        entries.setdefault(_entry(use), set()).add(own)
    kinds = set().union(*entries.values())
    if len(kinds) == 1 and root not in stored.view.inner:
        return [Change(root, _sorted(kinds.pop()))]
    if math.prod(tensor.dims) > SMALL:
        raise SeenError(f"{root!r} is large, and others read it as it is")
    if any(len(here) > 1 for here in entries.values()):
        raise SeenError(f"{root!r} goes through a node that others read as it is")
    readers: dict[frozenset[Step], list[Entry]] = {}
    for entry, here in entries.items():
        readers.setdefault(here.pop(), []).append(entry)
    return [Change(root, _sorted(here), tuple(those)) for here, those in readers.items() if here]


def _entry(use: Use) -> Entry:
    return (place(use.transforms[0]), 0) if use.transforms else (place(use.node), use.slot)


def _sorted(steps: frozenset[Step]) -> tuple[Step, ...]:
    return tuple(sorted(steps, key=lambda step: (step.axis, step.numbers)))
