"""Orders of channels that a Gather sets, put into the constants around it, so that the Gather can go.

Contract. Before: the nodes are in topological order. After: the model computes what it did, up to the rounding of sums
in another order; every Gather that is said to be absorbed is gone, with its indices where nothing else reads them, and
what read it reads its data; constants whose channels changed places hold the same numbers in the other order, under
their names, or as a copy where others read them as they were. Inputs, outputs, metadata, other nodes and their order
are as they were. A Gather whose order something would see stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx

from onnx_lowrank.graph.constants import constant_value
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.orders import Change, OrderFlow, Region, tensor_dims
from onnx_lowrank.graph.orders.region import Step
from onnx_lowrank.graph.orders.shapes import Dims
from onnx_lowrank.graph.traversal import all_graphs, all_nodes
from onnx_lowrank.types import Array

SCOPED_IR = 4
"""From here on an initializer need not be an input as well."""


def absorb_orders(
    model: onnx.ModelProto, orders: Sequence[str], *, kept: Mapping[str, int] = MappingProxyType({})
) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Return a copy without those of these Gathers (by their outputs) that can go, and their names.

    They are tried one after the other, each on what the others left. One whose indices are no constant permutation of
    one axis stays. The model itself is returned where none can go. kept: constants -> the axis, from the end, whose
    order must not change.
    """
    if not orders:
        return model, frozenset()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    dims, names = tensor_dims(copy), Fresh(all_names(copy))
    absorbed = frozenset(name for name in orders if _absorb(copy, name, dims, names, kept))
    return (copy, absorbed) if absorbed else (model, absorbed)


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """A Gather with a constant permutation: output = data[..., permutation, ...] along an axis."""

    node: onnx.NodeProto
    permutation: Array
    axis: int

    @property
    def data(self) -> str:
        return str(self.node.input[0])

    @property
    def output(self) -> str:
        return str(self.node.output[0])


def _absorb(model: onnx.ModelProto, name: str, dims: Mapping[str, Dims], names: Fresh, kept: Mapping[str, int]) -> bool:
    """Take a Gather out, in place; return whether that was possible. What reads it is tried first, then its data."""
    order = _order(model, name)
    if order is None:
        return False
    flow, size = OrderFlow(model, dims), len(order.permutation)
    region = flow.after(order.output, order.axis, size)
    if region and order.data not in region.axes and not _moves(region, kept):
        _rearrange(model, flow, region, np.argsort(order.permutation), names)
    else:
        region = flow.before(order.data, order.axis, size, order.output)
        if not region or order.output in region.axes or flow.returned(order.output) or _moves(region, kept):
            return False
        _rearrange(model, flow, region, order.permutation, names)
    _take_out(model, order)
    return True


def _moves(region: Region, kept: Mapping[str, int]) -> bool:
    """Return whether a region rearranges a constant along the axis that has to stay as it is."""
    steps = ((change.constant, step) for change in region.changes for step in change.steps)
    return any(not step.numbers and kept.get(constant) == step.axis for constant, step in steps)


def _order(model: onnx.ModelProto, name: str) -> _Order | None:
    node = next((node for node in model.graph.node if name in node.output), None)
    if node is None or node.op_type != "Gather" or node.domain not in ("", "ai.onnx"):
        return None
    stored = _stored(model, node.input[1])
    if stored is None or len(stored.dims) != 1:
        return None
    indices = tensor_array(stored)
    permutation = np.where(indices < 0, indices + len(indices), indices).astype(np.int64)
    if not np.array_equal(np.sort(permutation), np.arange(len(permutation))):
        return None
    return _Order(node, permutation, next((int(a.i) for a in node.attribute if a.name == "axis"), 0))


def _stored(model: onnx.ModelProto, name: str) -> onnx.TensorProto | None:
    """Return a constant, of an initializer or a Constant node."""
    values = (constant_value(node) for node in model.graph.node if name in node.output)
    stored = (tensor for tensor in model.graph.initializer if tensor.name == name)
    return next(stored, None) or next(values, None)


def _rearrange(model: onnx.ModelProto, flow: OrderFlow, region: Region, places: Array, names: Fresh) -> None:
    """Change constants, in place, so that channel i of every tensor of the region is what channel places[i] was."""
    for change in region.changes:
        tensor = _stored(model, change.constant)
        if tensor is None:
            raise KeyError(change.constant)
        array = tensor_array(tensor)
        for step in change.steps:
            array = _stepped(array, step, places)
        if change.readers:
            _add_copy(model, flow, change, array, names)
        else:
            _replace(model, change.constant, tensor, array)


def _stepped(array: Array, step: Step, places: Array) -> Array:
    if not step.numbers:
        return np.take(array, places, step.axis)
    now = np.argsort(places).astype(array.dtype)  # what was channel places[i] is i
    return now[array]


def _replace(model: onnx.ModelProto, name: str, tensor: onnx.TensorProto, array: Array) -> None:
    """Put numbers in the place of a stored constant's, whose name and documentation stay."""
    written = onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), tensor.name)
    written.doc_string = tensor.doc_string
    written.metadata_props.extend(tensor.metadata_props)
    node = next((node for node in model.graph.node if name in node.output), None)
    if node is None:
        tensor.CopyFrom(written)
    else:  # a Constant; whole numbers may be an attribute's own
        del node.attribute[:]
        node.attribute.append(onnx.helper.make_attribute("value", written))


def _add_copy(model: onnx.ModelProto, flow: OrderFlow, change: Change, array: Array, names: Fresh) -> None:
    name = names(f"{change.constant}.ordered")
    _add(model, onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
    for node, slot in change.readers:
        flow.nodes[node].input[slot] = name


def _add(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.initializer.append(tensor)
    if model.ir_version < SCOPED_IR:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)


def _take_out(model: onnx.ModelProto, order: _Order) -> None:
    """Remove a Gather, and its indices where nothing else reads them; what read it reads its data."""
    graph, data, output, indices = model.graph, order.data, order.output, order.node.input[1]
    graph.node.remove(order.node)
    for node in graph.node:
        if output in node.input:
            node.input[:] = [data if name == output else name for name in node.input]
    _forget(graph, output)
    if not _is_read(model, indices):
        for tensor in [tensor for tensor in graph.initializer if tensor.name == indices]:
            graph.initializer.remove(tensor)
        for node in [node for node in graph.node if indices in node.output]:
            graph.node.remove(node)
        _forget(graph, indices)


def _is_read(model: onnx.ModelProto, name: str) -> bool:
    returned = any(value.name == name for graph in all_graphs(model) for value in graph.output)
    return returned or any(name in node.input for node in all_nodes(model))


def _forget(graph: onnx.GraphProto, name: str) -> None:
    """Remove what the graph says of a tensor that is no more."""
    for values in (graph.value_info, graph.input):
        for value in [value for value in values if value.name == name]:
            values.remove(value)
