"""Operators: a node's weight in canonical form, its activations as vectors, and a chain written back as nodes."""

from onnx_lowrank.ops.attention import Attention
from onnx_lowrank.ops.conv import Conv
from onnx_lowrank.ops.conv_transpose import ConvTranspose
from onnx_lowrank.ops.einsum import Einsum, einsum_macs
from onnx_lowrank.ops.gather import Gather
from onnx_lowrank.ops.gemm import Gemm
from onnx_lowrank.ops.matmul import MatMul
from onnx_lowrank.ops.op import Call, Names, Op, Place, call_of, first_output, op_name
from onnx_lowrank.ops.recurrent import Recurrent
from onnx_lowrank.ops.transposed import TRANSPOSED, Transposed

OPS: tuple[Op, ...] = (
    *(MatMul(), Gemm(), Conv(), ConvTranspose(), Gather(), Einsum()),
    *(Recurrent("LSTM"), Recurrent("GRU"), Recurrent("RNN"), Attention()),
)
"""Every operator whose weight can be factored."""

__all__ = [
    "OPS",
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
    "Place",
    "Recurrent",
    "Transposed",
    "by_type",
    "call_of",
    "einsum_macs",
    "first_output",
    "op_name",
    "operator",
    "transposed_type",
]


def by_type(op_type: str) -> Op | None:
    """Return the operator of that ONNX type, None where there is none."""
    return next((op for op in OPS if op.op_type == op_type), None)


def transposed_type(op_type: str) -> Transposed | None:
    """Return the operator of that ONNX type as it reads the transpose of a table, None where it cannot."""
    return next((op for op in TRANSPOSED if op.op_type == op_type), None)


def operator(call: Call) -> Op:
    """Return the operator of a call. Raises KeyError where no operator factors it."""
    op = transposed_type(call.op) if call.transposed else by_type(call.op)
    if op is None:
        raise KeyError(call.op)
    return op
