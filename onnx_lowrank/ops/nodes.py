"""What operators have in common: a node as it is read and written, and tensors as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.ops.op import Call, Names, StageSite, Written
from onnx_lowrank.types import Array


def op_name(node: onnx.NodeProto) -> str:
    """Return a node's type, with its domain where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def first_output(node: onnx.NodeProto) -> str:
    """Return the first output that is not left out, which identifies a node."""
    return next((str(name) for name in node.output if name), "")


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's own attributes."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}


def single(op_type: str, operands: Sequence[str], at: StageSite, name: str, **attributes: Any) -> Written:
    """Return one node that ends in a stage's output."""
    return Written((onnx.helper.make_node(op_type, operands, [at.output], name, None, None, None, **attributes),))


def node_name(call: Call, at: StageSite, names: Names) -> str:
    """Return a name for a stage's node."""
    return names(f"{call.name or call.output}.{at.index}")


def channel_vectors(x: Array) -> Array:
    """Return (N, channels, *spatial) as (positions, channels)."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def as_vectors(x: Array) -> Array:
    """Return (…, n) as (positions, n)."""
    return x.reshape(-1, x.shape[-1]) if x.ndim else np.reshape(x, (1, 1))
