"""Wide padding in front of a convolution, done by an operator of its own.

onnxruntime's CPU convolution computes output positions whose window leans over the edge one at a time. For a long
kernel these are most positions: the second layer of CREPE (64 taps on 128 positions, 1024 to 128 channels) takes
580 ms with its own pads and 307 ms on a padded input. onnxruntime would merge a constant Pad into the convolution
again, so the amounts are made to look computed: they have zero times the batch size added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from onnx import NodeProto, helper

from onnx_lowrank.gradient.emitter import INT64, Dims, Emitter, Value

WIDE = 16
"""Padding on one axis from which it pays, if the axis is at least as long."""


def apart_from_wide_pads(
    nodes: Iterable[NodeProto], dims: Callable[[str], Dims | None], emit: Emitter
) -> list[NodeProto]:
    """Return the nodes with wide padding of convolutions taken out of them (equal results)."""
    result: list[NodeProto] = []
    for node in nodes:
        pads = _pads(node)
        if pads is not None and _is_wide(pads, dims(node.input[0])):
            start = len(emit.nodes)
            padded = _padded(Value(emit, node.input[0], 0, dims(node.input[0])), pads)
            result.extend(emit.nodes[start:])
            node = _without_pads(node, padded.name)
        result.append(node)
    return result


def _pads(node: NodeProto) -> list[int] | None:
    if node.op_type != "Conv" or node.domain:
        return None
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in ("pads", "auto_pad")}
    return list(found["pads"]) if "pads" in found and found.get("auto_pad", b"NOTSET") == b"NOTSET" else None


def _is_wide(pads: Sequence[int], dims: Dims | None) -> bool:
    if dims is None or isinstance(dims[0], int):
        return False
    totals = [begin + end for begin, end in zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True)]
    return any(
        total >= WIDE and isinstance(size, int) and size >= total for total, size in zip(totals, dims[2:], strict=True)
    )


def _padded(x: Value, pads: Sequence[int]) -> Value:
    emit, n = x.emit, len(pads) // 2
    batch = emit.op("Shape", x, elem=INT64, start=0, end=1)
    amounts = emit.ints([0, 0, *pads[:n], 0, 0, *pads[n:]]) + batch * 0
    return emit.op("Pad", x, amounts)


def _without_pads(node: NodeProto, name: str) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[0] = name
    for attribute in [a for a in copy.attribute if a.name == "pads"]:
        copy.attribute.remove(attribute)
    return copy
