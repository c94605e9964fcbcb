"""Operators: a node's weight in canonical form, its activations as vectors, and a stage as a node."""

import onnx

from onnx_lowrank.ops.attention import Attention
from onnx_lowrank.ops.chain_writer import write_chain
from onnx_lowrank.ops.conv import Conv
from onnx_lowrank.ops.conv_transpose import ConvTranspose
from onnx_lowrank.ops.einsum import Einsum
from onnx_lowrank.ops.gather import Gather
from onnx_lowrank.ops.gemm import Gemm
from onnx_lowrank.ops.matmul import MatMul
from onnx_lowrank.ops.nodes import attributes_of, first_output, op_name
from onnx_lowrank.ops.op import SIDES, Call, Names, Op, StagePosition
from onnx_lowrank.ops.recurrent import Recurrent
from onnx_lowrank.ops.transposed import TRANSPOSED, Transposed

OPS: tuple[Op, ...] = (
    *(MatMul(), Gemm(), Conv(), ConvTranspose(), Gather(), Einsum()),
    *(Recurrent("LSTM"), Recurrent("GRU"), Recurrent("RNN"), Attention()),
)
"""Every operator whose weight can be factored."""

__all__ = [
    "OPS",
    "SIDES",
    "Attention",
    "Call",
    "Conv",
    "ConvTranspose",
    "Einsum",
    "Gather",
    "Gemm",
    "MatMul",
    "Names",
    "Op",
    "Recurrent",
    "StagePosition",
    "Transposed",
    "as_transposed",
    "by_type",
    "call_of",
    "first_output",
    "op_name",
    "straight",
    "transposed_type",
    "write_chain",
]


def by_type(op_type: str) -> Op | None:
    """Return the operator of that ONNX type, None where there is none."""
    return next((op for op in OPS if op.op_type == op_type), None)


def transposed_type(op_type: str) -> Transposed | None:
    """Return the operator of that ONNX type as it reads the transpose of a table, None where it cannot."""
    return next((op for op in TRANSPOSED if op.op_type == op_type), None)


def as_transposed(call: Call) -> Call:
    """Return a call as it reads the transpose of a table. Raises KeyError where its operator cannot."""
    op = transposed_type(call.op_type)
    if op is None:
        raise KeyError(call.op_type)
    return call.bound_to(op)


def straight(call: Call) -> Call:
    """Return a call as the operator itself sees it, its weight not transposed."""
    return call.bound_to(call.op.straight) if isinstance(call.op, Transposed) else call


def call_of(node: onnx.NodeProto, slot: int, opset: int, shape: tuple[int, ...] = ()) -> Call:
    """Return a node bound to its operator; `shape` is that of its stored weight.

    Raises KeyError where no operator factors it.
    """
    op = by_type(op_name(node))
    if op is None:
        raise KeyError(op_name(node))
    outputs = tuple(node.output)
    attributes = attributes_of(node)
    return Call(op, node.name, tuple(node.input), first_output(node), attributes, slot, opset, shape, outputs)
