"""Weights in a number format: the nodes that make floats of them, and the opset that has these nodes.

Weights are rounded in a graph that is otherwise done: what neighbours have taken in another order is rounded in that
order. What is unpacked depends on constants alone, so its nodes come first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.graph.model_io import main_opset
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner, first_line
from onnx_lowrank.types import NumberFormat
from onnx_lowrank.weights.integer_grid import Grid
from onnx_lowrank.weights.storage import Storage, packed
from onnx_lowrank.weights.transforms import read

LARGEST_OFF = 0.05
"""Some kernels round what they read to 8 bits as well; more than this is no rounding."""
IR_VERSIONS = {13: 7, 21: 10}
"""The first IR version that goes with an opset: 10 has integers of four bits."""
CONVERTER_ERRORS = (RuntimeError, ValueError, onnx.version_converter.ConvertError)


def raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model in this opset or a later one. Raises ModelError, one line, where onnx cannot convert it."""
    current = main_opset(model)
    if current >= opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except CONVERTER_ERRORS as error:
        raise ModelError(f"onnx cannot bring the model from opset {current} to {opset}: {first_line(error)}") from error
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(converted, field, getattr(model, field))
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


@dataclass(frozen=True, slots=True)
class InFormat:
    """How a stored tensor is to be rounded. order: for every axis of it, that of (out, in, *spatial); channels: the one
    of those that has scales, a number each or a block of neighbours each.
    """

    number: NumberFormat
    order: tuple[int, ...]
    channels: int


def refused(model: onnx.ModelProto, number: NumberFormat, runtime: Runtime) -> str:
    """Return why a number format does not run here, "" where it does: found out by running it, in the model's opset."""
    opset = max(main_opset(model), number.opset)
    width = 2 * max(number.block, 16)
    weight = np.linspace(-1, 1, width**2, dtype=np.float32).reshape(width, width)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        number.name,
        [value("x", onnx.TensorProto.FLOAT, [1, width])],
        [value("y", onnx.TensorProto.FLOAT, [1, width])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    tried = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    expected = x @ Storage(int(onnx.TensorProto.FLOAT)).in_format(number).rounded(weight.T).T
    try:
        rounded = in_formats(tried, {"w": InFormat(number, (1, 0), 1 if number.block else 0)})
        found = Runner(rounded, runtime=runtime).run({"x": x})["y"]
        raised(model, number.opset)
    except (ModelError, RuntimeProblem) as error:
        return str(error)
    off = float(np.abs(found - expected).max()) / float(np.abs(expected).max())
    return f"it computes something else ({off:.1%} off)" if off > LARGEST_OFF else ""


def in_formats(model: onnx.ModelProto, chosen: Mapping[str, InFormat]) -> onnx.ModelProto:
    """Return the model with these initializers as integers and scales, and nodes that give floats of their names.

    It is raised to the opset that the formats need. Raises ModelError where onnx cannot do that.
    """
    opset = max(each.number.opset for each in chosen.values())
    model = raised(model, opset)
    fresh, tensors, nodes = Fresh(all_names(model)), list[onnx.TensorProto](), list[onnx.NodeProto]()
    for tensor in model.graph.initializer:
        how = chosen.get(tensor.name)
        if how is None:
            tensors.append(tensor)
            continue
        made, unpacking = _rounded(tensor, how, fresh)
        tensors.extend(made)
        nodes.extend(unpacking)
    others = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    for value in [value for value in model.graph.input if value.name in chosen]:  # before IR 4
        model.graph.input.remove(value)
    for entries, new in ((model.graph.node, [*nodes, *others]), (model.graph.initializer, kept)):
        del entries[:]
        entries.extend(new)
    model.ir_version = max(model.ir_version, IR_VERSIONS[opset])
    return _rows_looked_up(model, chosen)


def _rounded(
    tensor: onnx.TensorProto, how: InFormat, fresh: Fresh
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Return integers and scales, and the nodes that give a tensor of the old name and type."""
    storage = Storage(int(tensor.data_type)).in_format(how.number, how.channels)
    grid = Grid.symmetric(how.number, how.channels)
    weight = np.transpose(read(tensor), np.argsort(how.order))
    integers = grid.quantised(weight)
    scale = np.asarray(integers.scale, np.float32)
    attributes = dict[str, Any](axis=how.order.index(how.channels))
    if how.number.block:
        scale = np.ascontiguousarray(np.transpose(scale, how.order))
        attributes["block_size"] = how.number.block
    names = [fresh(f"{tensor.name}.{how.number.name}"), fresh(f"{tensor.name}.scale")]
    stored = [
        packed(np.transpose(integers.q, how.order), storage.elem, names[0]),
        onnx.numpy_helper.from_array(scale, names[1]),
    ]
    single = tensor.name if not storage.casts else fresh(f"{tensor.name}.single")
    nodes = [onnx.helper.make_node("DequantizeLinear", names, [single], f"{tensor.name}.unpacked", **attributes)]
    nodes += [
        onnx.helper.make_node("Cast", [single], [tensor.name], f"{tensor.name}.cast", to=elem) for elem in storage.casts
    ]
    return stored, nodes


def _rows_looked_up(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return the model with every Gather of an unpacked table replaced: rows and scales are looked up, then multiplied.

    Else the whole table would be unpacked at every call. names: of what is unpacked here. A table that other nodes read
    as well stays as it is.
    """
    made = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.output[0] in names}
    gathers = [node for node in model.graph.node if node.op_type == "Gather" and node.input[0] in made]
    others = {
        name for node in model.graph.node for name in (reads(node) if node.op_type != "Gather" else node.input[1:])
    }
    tables = {node.input[0] for node in gathers} - others
    if not tables:
        return model
    fresh, nodes = Fresh(all_names(model)), list[onnx.NodeProto]()
    for node in model.graph.node:
        if not tables.isdisjoint(node.output):
            continue
        table = made.get(node.input[0]) if node.op_type == "Gather" and node.input[0] in tables else None
        nodes.extend([node] if table is None else _looked_up(node, table, fresh))
    scales = {made[table].input[1] for table in tables}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            tensor.dims.append(1)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def _looked_up(node: onnx.NodeProto, unpacking: onnx.NodeProto, fresh: Fresh) -> list[onnx.NodeProto]:
    (integers, scales), (ids, out) = unpacking.input, (node.input[1], node.output[0])
    rows, steps, wide = (fresh(f"{out}.{what}") for what in ("rows", "scales", "float"))
    make = onnx.helper.make_node
    product = make("Mul", [wide, steps], [out], name=node.name)
    product.doc_string = node.doc_string
    return [
        make("Gather", [integers, ids], [rows], name=rows, axis=0),
        make("Gather", [scales, ids], [steps], name=steps, axis=0),
        make("Cast", [rows], [wide], name=wide, to=onnx.TensorProto.FLOAT),
        product,
    ]
