"""Operators that keep W x inside their node (recurrent cells, Attention): what they have in common.

Only the input of W can be seen, and a MatMul in front of the node makes it narrower.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnx_lowrank.ops.op import Call, Names, Written
from onnx_lowrank.types import Array, Positions, Stage


def first_input(call: Call) -> str:
    """Return the name of the first input: the activations."""
    return call.inputs[0]


def every_row(call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
    """Count the rows of (…, in), steps or tokens, padding included: it is computed as well."""
    return Positions(calls=float(math.prod(x[:-1])))


def no_results(call: Call, y: Array) -> Array:
    """Raise: no tensor holds W x."""
    raise TypeError(f"what {call.op} makes of W x is inside it, and is not {np.shape(y)}")


def no_linear(call: Call, y: Array, bias: Array | None) -> Array:
    """Raise: no tensor holds W x."""
    return no_results(call, y)


def narrowed(call: Call, stages: list[tuple[Stage, str]], names: Names) -> Written:
    """Return a MatMul for every stage but the last, in front of the node as it was, whose weight the last becomes."""
    nodes, current = [], call.inputs[0]
    for index, (_, weight) in enumerate(stages[:-1]):
        output, name = names(f"{call.output}.inner{index}"), names(f"{call.name or call.output}.{index}")
        nodes.append(onnx.helper.make_node("MatMul", [current, weight], [output], name))
        current = output
    operands = [current, stages[-1][1], *call.inputs[2:]]
    domain, _, kind = call.op.rpartition(".")
    name = names(f"{call.name or call.output}.{len(stages) - 1}")
    last = onnx.helper.make_node(kind, operands, call.outputs, name, None, domain or None, None, **call.attributes)
    return Written((*nodes, last), {})
